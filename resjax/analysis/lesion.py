"""Lesions: predictions of a trained network without some of its blocks, skips or layers.

Veit et al. 2016, arXiv 1605.06431, section 4.1 and 4.2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from resjax.analysis.chain import Chain, is_block
from resjax.analysis.variants import predict
from resjax.errors import InputError
from resjax.layers import BatchNorm, Conv
from resjax.models import Network, restack, unrolled


def single_lesions(n: int) -> np.ndarray:
    """Removes each of n parts by itself: bool [n, n]."""
    return np.eye(n, dtype=bool)


def random_lesions(seed: int, n: int, draws: int) -> np.ndarray:
    """Removes k = 0 .. n random parts, each number `draws` times: bool [n + 1, draws, n].

    A draw removes one part after another. Each lesion is as random as one that is drawn alone, and has more in common
    with the one before: half of the network, on average, is run once for both.
    """
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (draws, 1)), axis=-1)
    return order < np.arange(n + 1)[:, None, None]


def predict_without_blocks(
    model: Network,
    variables: Any,
    images: np.ndarray,
    branches: np.ndarray,
    skips: np.ndarray | None = None,
    batch_size: int = 256,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """The classes that a network predicts without some residual branches, or skips, of its blocks.

    A block without its branch is its shortcut: down-sampling blocks keep their projection. A removed branch is not run.
    The running BN statistics stay those of the whole network. What two lesions have in common up to the first block in
    which they differ is computed once; the outputs of all blocks for one batch are in memory.

    Args:
      model: a network with residual blocks.
      variables: variables of the model.
      images: normalised, [N, H, W, C].
      branches: bool [V, num_blocks], True where the branch is deleted, in each of V lesions.
      skips: the same for the shortcuts; None deletes none.
      batch_size: images at a time, over all devices.
      mesh: devices that a batch is split over; default: all.

    Returns:
      int32 [V, N].

    Raises:
      InputError: for a network without residual blocks, lesions of another number of blocks, no images, or a batch that
        the devices do not divide.
    """
    require_blocks(model)
    skips = np.zeros_like(branches) if skips is None else skips
    if branches.ndim != 2 or branches.shape[1] != model.num_blocks or skips.shape != branches.shape:
        raise InputError(
            f"branches, skips: expected bool [lesions, {model.num_blocks}], got shapes {branches.shape} and"
            f" {skips.shape}"
        )
    variants = [
        [(i, not branch, not skip) for i, (branch, skip) in enumerate(zip(*lesion, strict=True))]
        for lesion in zip(branches, skips, strict=True)
    ]
    return Chain(model, variables, images, mesh).predict(variants, images, batch_size)


def removable_layers(model: Network, variables: Any, images: np.ndarray) -> list[str]:
    """Names of a plain network's convolutions that keep the shape, so that the network can run without them.

    Args:
      model, variables: a plain network.
      images: float32 [N, H, W, C]; only the shape matters.

    Raises:
      InputError: for a network with residual blocks, whose layers are not a chain, or without such layers.
    """
    if model.num_blocks:
        raise InputError(f"{type(model).__name__}: has residual blocks; layers are removed only from plain networks")
    names: list[str] = []
    apply, variables = _without_layers(model, variables, names)
    jax.eval_shape(apply, variables, None, jnp.asarray(images[:1]))
    if not names:
        raise InputError(f"{type(model).__name__}: no layer keeps the shape of its input, so none can be removed")
    return names


def predict_without_layers(
    model: Network, variables: Any, images: np.ndarray, layers: np.ndarray, **options: Any
) -> np.ndarray:
    """The classes that a plain network predicts without some of its layers: convolution, BN and ReLU.

    Args:
      model: a network without shortcuts: VGG, or a plain ResNet.
      variables: variables of the model.
      images: normalised, [N, H, W, C].
      layers: bool [V, len(removable_layers(..))], True where the layer is removed.
      **options: `batch_size`, `mesh` of `predict`.

    Returns:
      int32 [V, N].

    Raises:
      InputError: as `removable_layers`, or for another number of layers.
    """
    number = len(removable_layers(model, variables, images))
    if layers.ndim != 2 or layers.shape[1] != number:
        raise InputError(f"layers: expected bool [lesions, {number}], got shape {layers.shape}")
    return predict(*_without_layers(model, variables, []), jnp.asarray(layers), images, **options)


def _without_layers(model: Network, variables: Any, names: list[str]) -> tuple[Callable, Any]:
    """apply(variables, removed, images) -> logits, and variables. Tracing fills in the names of removable layers."""
    model, variables = unrolled(model), restack(variables, ())

    def apply(variables, removed, images):
        names.clear()
        is_first, behind_removable = True, False

        def without(layer, args, kwargs, context):
            nonlocal is_first, behind_removable
            if context.method_name != "__call__" or not isinstance(context.module, (Conv, BatchNorm)):
                return layer(*args, **kwargs)
            x, y = args[0], layer(*args, **kwargs)
            if isinstance(context.module, Conv):
                # The first layer reads the image. Others read a ReLU's output, which their own ReLU leaves unchanged.
                behind_removable = x.shape == y.shape and not is_first
                is_first = False
                if behind_removable:
                    names.append("/".join(context.module.path))
            if removed is None or not behind_removable:
                return y
            return jnp.where(removed[len(names) - 1], x, y)

        with nn.intercept_methods(without):
            return model.apply(variables, images)

    return apply, variables


def transition_blocks(model: Network, variables: Any, images: np.ndarray) -> list[int]:
    """Indices of the residual blocks that change resolution or width; without them the shapes would not match."""
    require_blocks(model)
    changes = []

    def observe(block, args, kwargs, context):
        y = block(*args, **kwargs)
        if context.method_name == "__call__" and is_block(context.module):
            changes.append(args[0].shape != y.shape)
        return y

    def apply(variables, images):
        return unrolled(model).apply(restack(variables, ()), images)

    with nn.intercept_methods(observe):
        jax.eval_shape(apply, variables, jnp.asarray(images[:1]))
    return [i for i, change in enumerate(changes) if change]


def require_blocks(model: Network) -> None:
    """Raises InputError for a network without residual blocks."""
    if model.num_blocks == 0:
        raise InputError(f"{type(model).__name__}: has no residual blocks; give a residual network")
