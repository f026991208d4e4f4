"""The paths of a residual network: how long they are, and how much gradient each carries.

Veit et al. 2016, arXiv 1605.06431, sections 3 and 4.3: n blocks form 2^n paths, each through a branch or past it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resjax.analysis.lesion import require_blocks
from resjax.layers import Gates
from resjax.models import Network, restack
from resjax.train.sharding import DATA_AXIS, batch_sharding, check_batch_size, data_mesh, replicated


def path_length_distribution(num_blocks: int) -> np.ndarray:
    """Fraction of paths with 0 .. n branches, Binomial(n, 1/2): [n + 1].

    Example:
      >>> path_length_distribution(3).tolist()
      [0.125, 0.375, 0.375, 0.125]
    """
    return np.array([math.comb(num_blocks, k) / 2**num_blocks for k in range(num_blocks + 1)])


def all_paths(num_blocks: int) -> np.ndarray:
    """Every path: bool [2^n, n], True for branches on the path."""
    return (np.arange(2**num_blocks)[:, None] >> np.arange(num_blocks)) % 2 == 1


def random_paths(seed: int, num_blocks: int, lengths: np.ndarray) -> np.ndarray:
    """A random path for each of `lengths` [..], through that number of branches: bool [.., num_blocks]."""
    lengths = np.asarray(lengths)[..., None]
    order = np.broadcast_to(np.arange(num_blocks), (*lengths.shape[:-1], num_blocks))
    return np.random.default_rng(seed).permuted(order, axis=-1) < lengths


def input_gradients(
    model: Network, variables: Any, images: jax.Array, labels: jax.Array, path: jax.Array | None = None
) -> jax.Array:
    """Gradient of each image's cross-entropy along one path, after a forward pass through the whole network.

    Args:
      model: a network with residual blocks, in evaluation mode, so that images do not depend on each other.
      variables: variables of the model.
      images: normalised, [N, H, W, C].
      labels: int [N].
      path: bool [num_blocks], or [num_blocks, N] for one path per image. None takes all branches and shortcuts at once,
        which is the sum over all paths.

    Returns:
      [N, H, W, C].
    """

    def loss(images):
        logits = model.apply(variables, images, gates=_route(path))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    return jax.grad(loss)(images)


def path_gradient_norms(
    model: Network, variables: Any, images: np.ndarray, labels: np.ndarray, paths: np.ndarray, mesh: Mesh | None = None
) -> np.ndarray:
    """L2 norms of the gradient at the input along paths. The program is compiled once and runs path after path.

    Args:
      model, variables: a network with residual blocks.
      images: normalised, [N, H, W, C]; all are one batch.
      labels: int [N].
      paths: bool [P, num_blocks, N]: a path for each image in each of P passes.
      mesh: devices that the images are split over; default: all.

    Returns:
      [P, N].

    Raises:
      InputError: for a network without residual blocks, or a number of images that the devices do not divide.
    """
    mesh = mesh or data_mesh()
    require_blocks(model)
    check_batch_size(len(images), mesh)

    def run(variables, images, labels, paths):
        def norms(path):
            return _norm(input_gradients(model, variables, images, labels, path), (1, 2, 3))

        return lax.map(norms, paths)

    split = batch_sharding(mesh)
    each = NamedSharding(mesh, PartitionSpec(None, None, DATA_AXIS))
    run = jax.jit(run, in_shardings=(replicated(mesh), split, split, each), out_shardings=replicated(mesh))
    return np.asarray(run(variables, np.asarray(images, np.float32), labels, paths))


def effective_lengths(weights: np.ndarray, fraction: float = 0.95) -> tuple[int, int]:
    """The shortest range of lengths, both ends included, that holds a `fraction` of the `weights` [n + 1]."""
    total = np.concatenate([[0.0], np.cumsum(weights)])
    ranges = [
        (high - low, low, high)
        for low in range(len(weights))
        for high in range(low, len(weights))
        if total[high + 1] - total[low] >= fraction * total[-1] * (1 - 1e-9)
    ]
    _, low, high = min(ranges)
    return low, high


def block_gradient_norms(
    model: Network, variables: Any, images: np.ndarray, labels: np.ndarray, paths: np.ndarray, mesh: Mesh | None = None
) -> np.ndarray:
    """L2 norms of the gradients of each block's kernels along paths: [P, num_blocks], 0 for blocks not on the path.

    The gradient of the mean cross-entropy of `images` reaches a block only through the later blocks of the path. This
    is what one sub-network contributes (Wu et al. 2016, arXiv 1611.10080, section 2).

    Args:
      paths: bool [P, num_blocks].

    For the rest, see `path_gradient_norms`.
    """
    mesh = mesh or data_mesh()
    require_blocks(model)
    check_batch_size(len(images), mesh)

    def run(variables, images, labels, paths):
        def norms(path):
            def loss(params):
                logits = model.apply({**variables, "params": params}, images, gates=_route(path))
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            return block_norms(jax.grad(loss)(variables["params"]))

        return lax.map(norms, paths)

    whole, split = replicated(mesh), batch_sharding(mesh)
    run = jax.jit(run, in_shardings=(whole, split, split, whole), out_shardings=whole)
    return np.asarray(run(variables, np.asarray(images, np.float32), labels, paths))


def block_norms(params: Any) -> jax.Array:
    """L2 norm of the kernels of each block's branch, for parameters or gradients: [num_blocks].

    Only kernels count: the first BN of a pre-activation block may belong to its shortcut, too.
    """
    stages = restack(params, ())
    names = [
        (stage, name)
        for stage in stages
        if stage.startswith("stage_")
        for name in stages[stage]
        if name.startswith("block_")
    ]
    norms = []
    for stage, block in sorted(names, key=_place):
        layers = {name: layer for name, layer in stages[stage][block].items() if not name.startswith("shortcut")}
        kernels = [layer["kernel"] for layer in layers.values() if "kernel" in layer]
        norms.append(_norm(jnp.stack([_norm(kernel) for kernel in kernels])))
    return jnp.stack(norms)


def _norm(x, axes=None):
    """L2 norm over `axes` or all; exact also if squares would underflow, because the longest paths carry 1e-30."""
    largest = jnp.abs(x).max(axes, keepdims=True)
    unit = jnp.where(largest > 0, largest, 1)
    return jnp.sqrt(jnp.square(x / unit).sum(axes)) * unit.squeeze(axes)


def _place(name: tuple[str, str]) -> tuple[int, ...]:
    return tuple(int(part.split("_")[1]) for part in name)


def _route(path: jax.Array | None) -> Gates | None:
    return None if path is None else Gates(backward=Gates(path.astype("float32"), 1 - path.astype("float32")))
