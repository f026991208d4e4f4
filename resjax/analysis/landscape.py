"""The loss around the parameters of a trained network, along filter-normalised directions.

Li et al. 2018, arXiv 1712.09913, sections 3 and 4.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resjax.errors import InputError
from resjax.models import Network
from resjax.train.sharding import check_batch_size, data_mesh, put_batch, put_whole


def without_noise(model: Network) -> Network:
    """The same network without dropout and stochastic depth, whose training mode draws nothing."""
    fields: dict[str, Any] = {"stochastic_depth": None}
    if hasattr(model, "dropout_rate"):
        fields["dropout_rate"] = 0.0
    return model.clone(**fields)


def filter_direction(seed: int, params: Any) -> Any:
    """A random direction in which each filter is as long as the network's own: a tree like `params`.

    Kernels [.., C_in, C_out] have a filter for each output, linear layers a row of weights. Biases and the scales
    and shifts of BN stay as they are, as with the authors' xignore="biasbn".

    Args:
      seed: of the normal values.
      params: of a network.
    """
    rng = np.random.default_rng(seed)

    def step(path, leaf):
        leaf = np.asarray(leaf, np.float64)
        if path[-1].key != "kernel":
            return np.zeros(leaf.shape, np.float32)
        # The kernels of stacked blocks have an axis before their own.
        axes = tuple(range(leaf.ndim == 5, leaf.ndim - 1))
        drawn = rng.normal(size=leaf.shape)
        lengths = [np.sqrt(np.square(values).sum(axes, keepdims=True)) for values in (leaf, drawn)]
        return np.float32(drawn * lengths[0] / lengths[1])

    return jax.tree_util.tree_map_with_path(step, params)


def whole_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, mesh: Mesh | None
) -> tuple[Mesh, list[slice]]:
    """The mesh, and the places of the batches of which none is smaller; images that are fewer than one are one.

    Raises:
      InputError: for no images, or a batch that the devices do not divide.
    """
    if len(images) == 0 or len(labels) != len(images):
        raise InputError(f"images, labels: expected as many labels as images, got {len(images)} and {len(labels)}")
    mesh, size = mesh or data_mesh(), min(batch_size, len(images))
    if size % mesh.size and size == len(images):
        mesh = data_mesh(mesh.devices.ravel()[:1].tolist())
    check_batch_size(size, mesh)
    return mesh, [slice(start, start + size) for start in range(0, len(images) - size + 1, size)]


def loss_surface(
    model: Network,
    variables: Any,
    images: np.ndarray,
    labels: np.ndarray,
    directions: list[Any],
    points: np.ndarray,
    batch_size: int = 256,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross-entropy and error at params + sum_d points[p, d] directions[d], float64 [P] each.

    BN normalises by the statistics of each batch, so that they are those of the moved network at every point. Dropout
    and stochastic depth are off. One point and one batch are in memory at a time.

    Args:
      model, variables: the network, in the form of its variables (unrolled or stacked).
      images: normalised, [N, H, W, C].
      labels: int [N].
      directions: D trees like the parameters, from `filter_direction`.
      points: float [P, D].
      batch_size: images at a time, over all devices. The last N % batch_size are not read, unless there are fewer than
        one batch.
      mesh: devices that a batch is split over; default: all. One device takes what they do not divide.

    Raises:
      InputError: for points of another number of directions, no images, or a batch that the devices do not divide.
    """
    points = np.asarray(points, np.float32)
    if points.ndim != 2 or points.shape[1] != len(directions):
        raise InputError(f"points: expected float [P, {len(directions)}], got shape {points.shape}")
    mesh, parts = whole_batches(images, labels, batch_size, mesh)
    quiet = without_noise(model)

    def measured(variables, directions, point, images, labels):
        moved = variables["params"]
        for i, direction in enumerate(directions):
            moved = jax.tree.map(lambda leaf, step, i=i: leaf + point[i] * step, moved, direction)
        logits, _ = quiet.apply({**variables, "params": moved}, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits.argmax(-1) != labels).mean()

    compiled = jax.jit(measured)
    variables, directions = put_whole((variables, list(directions)), mesh)
    found = np.zeros((len(points), 2))
    for part in parts:
        batch = put_batch((np.asarray(images[part], np.float32), np.asarray(labels[part])), mesh)
        found += np.array(
            [jax.device_get(compiled(variables, directions, jnp.asarray(point), *batch)) for point in points]
        )
    return found[:, 0] / len(parts), found[:, 1] / len(parts)
