"""Predicts many variants of one network over many images: compiled once, in bounded memory, on all devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh

from resjax.errors import InputError
from resjax.train.sharding import batch_sharding, check_batch_size, data_mesh, replicated


def predict(
    apply: Callable[[Any, Any, jax.Array], jax.Array],
    variables: Any,
    variants: Any,
    images: np.ndarray,
    batch_size: int = 256,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """The classes that each of V variants of a network predicts for each image.

    One variant and one batch are in memory at a time. Variants run in a loop of the compiled program, not under `vmap`,
    which would also run the removed branches and discard their results.

    Args:
      apply: (variables, variant, images [N, H, W, C]) -> logits [N, K].
      variables: variables of the network.
      variants: a tree of arrays, such as `resjax.Gates`, with the V variants along the first axis of each.
      images: normalised, [N, H, W, C].
      batch_size: images at a time, over all devices.
      mesh: devices that a batch is split over; default: all.

    Returns:
      int32 [V, N].

    Raises:
      InputError: for no images, or a batch that the devices do not divide.
    """
    run = _compiled(apply, mesh or data_mesh(), batch_size)
    if len(images) == 0:
        raise InputError("images: expected at least one")
    parts = []
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size], np.float32)
        padding = batch_size - len(batch)
        classes = run(variables, variants, np.pad(batch, ((0, padding), (0, 0), (0, 0), (0, 0))))
        parts.append(np.asarray(classes)[:, : len(batch)])
    return np.concatenate(parts, axis=1)


def _compiled(apply, mesh, batch_size):
    check_batch_size(batch_size, mesh)
    whole = replicated(mesh)

    def run(variables, variants, images):
        return lax.map(lambda variant: apply(variables, variant, images).argmax(-1).astype("int32"), variants)

    return jax.jit(run, in_shardings=(whole, whole, batch_sharding(mesh)), out_shardings=whole)


def error_rates(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Fractions of wrong predictions, in [0, 1]: [.., N] and labels [N] -> [..]."""
    return (np.asarray(predictions) != np.asarray(labels)).mean(-1)
