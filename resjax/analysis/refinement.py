"""Iterative refinement: whether a block moves its input down the gradient, and what more or fewer blocks predict.

Jastrzebski et al. 2018, arXiv 1710.04773; Greff et al. 2017, arXiv 1612.07771.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from resjax.analysis.chain import Chain, is_block
from resjax.errors import InputError
from resjax.models import Network, restack, unrolled
from resjax.train.sharding import batch_sharding, data_mesh, replicated


@dataclasses.dataclass(frozen=True)
class Refinement:
    """What the B blocks that keep the shape do to their input h, on N images.

    Attributes:
      blocks: indices of the blocks.
      cosines: of the change block(h) - h with the gradient of the image's loss by h, float64 [B, N]; negative: the
        block goes down the loss. NaN where a block changes nothing, or the gradient is zero.
      ratios: norm of the change by the norm of h, float64 [B, N].
    """

    blocks: tuple[int, ...]
    cosines: np.ndarray
    ratios: np.ndarray


def block_refinement(
    model: Network,
    variables: Any,
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int = 256,
    mesh: Mesh | None = None,
) -> Refinement:
    """The direction of each block's change, in evaluation mode (Jastrzebski et al. 2018, section 4).

    In memory are the inputs, the outputs and the gradients of all blocks for one batch.

    Args:
      model, variables: a residual network, or its plain twin.
      images: normalised, [N, H, W, C].
      labels: int [N].
      batch_size: images at a time, over all devices.
      mesh: devices that a batch is split over; default: all.

    Raises:
      InputError: for a network without blocks that keep the shape, labels that do not fit, no images, or a batch that
        the devices do not divide.
    """
    if len(labels) != len(images):
        raise InputError(f"images, labels: expected as many labels as images, got {len(images)} and {len(labels)}")
    mesh = mesh or data_mesh()
    chain = Chain(model, variables, images, mesh)
    model = unrolled(model)
    kept: list[int] = []

    def run(variables, images, labels):
        kept.clear()
        changes: list[tuple[jax.Array, jax.Array]] = []

        def loss(offsets):
            changes.clear()

            def moved(block, args, kwargs, context):
                if context.method_name != "__call__" or not is_block(context.module):
                    return block(*args, **kwargs)
                i = chain.names.index("/".join(context.module.path))
                x = args[0] if offsets[i] is None else args[0] + offsets[i]
                y = block(x, *args[1:], **kwargs)
                changes.append((x, y))
                return y

            with nn.intercept_methods(moved):
                logits = model.apply(variables, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum(), list(changes)

        inputs = [x for x, _ in jax.eval_shape(lambda: loss([None] * len(chain)))[1]]
        kept.extend(i for i, x in enumerate(inputs) if x.shape[1:] == chain.shapes[i])
        offsets = [jnp.zeros(x.shape, x.dtype) if i in kept else None for i, x in enumerate(inputs)]
        gradients, found = jax.grad(loss, has_aux=True)(offsets)
        results = []
        for i in kept:
            (x, y), gradient = found[i], gradients[i]
            change, axes = y - x, (1, 2, 3)
            products = (change * gradient).sum(axes)
            norms = [jnp.sqrt(jnp.square(values).sum(axes)) for values in (change, gradient, x)]
            results.append(jnp.stack([products / (norms[0] * norms[1]), norms[0] / norms[2]]))
        return jnp.stack(results) if results else jnp.zeros((0, 2, len(labels)))

    split, whole = batch_sharding(mesh), replicated(mesh)
    compiled = jax.jit(run, in_shardings=(whole, split, split), out_shardings=whole)
    unstacked, parts, start = restack(variables, ()), [], 0
    for batch, number in chain.batches(images, batch_size):
        own = np.zeros(batch_size, np.int32)
        own[:number] = labels[start : start + number]
        parts.append(np.asarray(compiled(unstacked, batch, own), np.float64)[..., :number])
        start += number
    if not kept:
        raise InputError(f"{type(model).__name__}: no block keeps the shape of its input")
    found = np.concatenate(parts, axis=-1)
    return Refinement(tuple(kept), found[:, 0], found[:, 1])


def predict_unrolled(
    model: Network,
    variables: Any,
    images: np.ndarray,
    repeats: int,
    batch_size: int = 256,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """The classes that a network predicts whose last block runs 0 .. repeats times: int32 [repeats + 1, N].

    One time is the network as it was trained (Jastrzebski et al. 2018, section 5, unroll a block more often than that).

    Args:
      model, variables, images, batch_size, mesh: see `block_refinement`.
      repeats: largest number of times.

    Raises:
      InputError: as `block_refinement`, and if the last block changes the shape.
    """
    if repeats < 1:
        raise InputError(f"repeats: expected a positive integer, got {repeats}")
    chain = Chain(model, variables, images, mesh)
    last = len(chain) - 1
    if last < 1 or chain.shapes[last] != chain.shapes[last - 1]:
        raise InputError(f"{type(model).__name__}: its last block changes the shape, so that it cannot be repeated")
    columns = []
    for batch, number in chain.batches(images, batch_size):
        x = chain.start(batch)
        for i in range(last):
            x = chain.behind(i, chain.block(i, x))
        logits = []
        for _ in range(repeats + 1):
            logits.append(np.asarray(chain.finish(x))[:number])
            x = chain.block(last, x)
        columns.append(np.stack(logits).argmax(-1).astype(np.int32))
    return np.concatenate(columns, axis=1)
