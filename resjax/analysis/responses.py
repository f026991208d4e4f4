"""Responses of layers: outputs of BN before the nonlinearity (He et al. 2015, arXiv 1512.03385, figure 7)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from resjax.errors import InputError
from resjax.layers import BatchNorm
from resjax.models import Network, restack, unrolled
from resjax.train.sharding import batch_sharding, check_batch_size, data_mesh, replicated


@dataclasses.dataclass(frozen=True)
class Responses:
    """Attributes:
    layers: names of the BN layers in the order in which they run, without the BN of projection shortcuts.
    means, deviations: mean and standard deviation of each over images, positions and channels, float64 [layers].
    """

    layers: tuple[str, ...]
    means: np.ndarray
    deviations: np.ndarray


def layer_responses(
    model: Network, variables: Any, images: np.ndarray, batch_size: int = 256, mesh: Mesh | None = None
) -> Responses:
    """Mean and standard deviation of each layer's response, in evaluation mode.

    Args:
      model, variables: a network with BN, of any family.
      images: normalised, [N, H, W, C]; N need not be a multiple of `batch_size`.
      batch_size: images at a time, over all devices.
      mesh: devices that a batch is split over; default: all.

    Raises:
      InputError: for a network without BN, no images, or a batch that the devices do not divide.
    """
    mesh = mesh or data_mesh()
    check_batch_size(batch_size, mesh)
    if len(images) == 0:
        raise InputError("images: expected at least one")
    model, variables = unrolled(model), restack(variables, ())
    names: list[str] = []

    def moments(variables, images, valid):
        """Mean of each layer over the valid images, and mean squared distance from it."""
        names.clear()
        found = []

        def observe(layer, args, kwargs, context):
            y = layer(*args, **kwargs)
            module = context.module
            if isinstance(module, BatchNorm) and context.method_name == "__call__" and module.name != "shortcut_norm":
                names.append("/".join(module.path))
                response = y[0] if isinstance(y, tuple) else y  # of several arrays: and their moments
                values = response.astype(jnp.promote_types(response.dtype, jnp.float32))
                weight = valid[:, None, None, None] / (valid.sum() * values[0].size)
                mean = (values * weight).sum()
                found.append((mean, (jnp.square(values - mean) * weight).sum()))
            return y

        with nn.intercept_methods(observe):
            model.apply(variables, images)
        return jnp.array(found).reshape(-1, 2)

    split, whole = batch_sharding(mesh), replicated(mesh)
    compiled = jax.jit(moments, in_shardings=(whole, split, split), out_shardings=whole)
    parts, sizes = [], []
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size], np.float32)
        sizes.append(len(batch))
        padded = np.pad(batch, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)))
        parts.append(np.asarray(compiled(variables, padded, np.arange(batch_size) < len(batch)), np.float64))
    if not names:
        raise InputError(f"{type(model).__name__}: has no BN, whose outputs are the responses")
    means, squares = np.moveaxis(np.array(parts), -1, 0)
    weights = np.array(sizes)[:, None] / sum(sizes)
    mean = (weights * means).sum(0)
    # Variance within and between batches (Chan et al. 1983, Algorithms for Computing the Sample Variance).
    variance = (weights * (squares + np.square(means - mean))).sum(0)
    return Responses(tuple(names), mean, np.sqrt(variance))
