"""What a linear classifier reads from the features behind each block (Alain & Bengio 2016, arXiv 1610.01644)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resjax.analysis.outputs import block_outputs
from resjax.errors import InputError
from resjax.models import Network
from resjax.train.sharding import batch_sharding, check_batch_size, data_mesh, replicated


def pooled_features(
    model: Network, variables: Any, images: np.ndarray, batch_size: int = 256, mesh: Mesh | None = None
) -> dict[str, np.ndarray]:
    """The outputs of all blocks, averaged over positions: float32 [N, C] by name, in the order of the blocks.

    In memory are the blocks' outputs for one batch.

    Args:
      model, variables: a residual network, its plain twin or a VGG, in evaluation mode.
      images: normalised, [N, H, W, C].
      batch_size: images at a time, over all devices.
      mesh: devices that a batch is split over; default: all.

    Raises:
      InputError: for a network without blocks, no images, or a batch that the devices do not divide.
    """
    mesh = mesh or data_mesh()
    check_batch_size(batch_size, mesh)
    if len(images) == 0:
        raise InputError("images: expected at least one")
    outputs, variables, names = block_outputs(model, variables, images)
    whole = replicated(mesh)

    def run(variables, images):
        # A list: a program sorts the names of a dictionary.
        return [x.astype(jnp.float32).mean((1, 2)) for x in outputs(variables, images).values()]

    compiled = jax.jit(run, in_shardings=(whole, batch_sharding(mesh)), out_shardings=whole)
    parts: list[list[np.ndarray]] = [[] for _ in names]
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size], np.float32)
        padded = np.pad(batch, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)))
        for part, features in zip(parts, compiled(variables, padded), strict=True):
            part.append(np.asarray(features)[: len(batch)])
    return {name: np.concatenate(part) for name, part in zip(names, parts, strict=True)}


def ridge_classifier(
    features: np.ndarray, labels: np.ndarray, num_classes: int, weight_decay: float = 1e-3
) -> tuple[np.ndarray, np.ndarray]:
    """The linear classifier of least squares, in closed form: kernel float64 [C, K] and bias [K].

    The targets are one-hot. Features are shifted and scaled to mean 0 and variance 1; the mean squared error plus
    weight_decay times the squared norm of their kernel is minimised.

    Args:
      features: float [N, C].
      labels: int [N], from 0 to num_classes - 1.
      num_classes: K.
      weight_decay: positive, so that the solution is unique.

    Raises:
      InputError: for shapes or labels that do not fit, or a weight decay that is not positive.

    Example:
      >>> kernel, bias = ridge_classifier(np.array([[0.0], [1.0], [4.0], [5.0]]), np.array([0, 0, 1, 1]), 2)
      >>> (np.array([[0.5], [4.5]]) @ kernel + bias).argmax(1).tolist()
      [0, 1]
    """
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not labels.size:
        raise InputError(
            f"features, labels: expected float [N, C] and int [N], got shapes {features.shape} and {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(f"labels: expected 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}")
    if not weight_decay > 0:
        raise InputError(f"weight_decay: expected a positive number, got {weight_decay}")
    mean, deviation = features.mean(0), features.std(0)
    scale = 1 / np.maximum(deviation, 1e-6 * max(deviation.max(), 1e-6))
    scaled, targets = (features - mean) * scale, np.eye(num_classes)[labels]
    matrix = scaled.T @ scaled / len(labels) + weight_decay * np.eye(features.shape[1])
    kernel = np.linalg.solve(matrix, scaled.T @ (targets - targets.mean(0)) / len(labels)) * scale[:, None]
    return kernel, targets.mean(0) - mean @ kernel
