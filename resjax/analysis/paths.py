"""The paths of a residual network: how long they are, and how much gradient each carries.

Veit et al. 2016, arXiv 1605.06431, sections 3 and 4.3: n blocks form 2^n paths, each through a branch or past it.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resjax.analysis.chain import Chain, common
from resjax.analysis.lesion import require_blocks
from resjax.layers import Gates
from resjax.models import Network, restack
from resjax.train.sharding import check_batch_size, data_mesh, put_batch


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
    """L2 norms of the gradient at the input along paths, all behind one forward pass.

    What two passes have in common behind the last block in which they differ is computed once. In memory is what the
    gradient needs of all blocks.

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
    chain = _Linearised(model, variables, images, labels, mesh)
    # From the last block to the first, which is the way of the gradient; passes that begin alike follow each other.
    backwards = [np.asarray(path, bool)[::-1].tolist() for path in paths]
    order = sorted(range(len(paths)), key=lambda p: backwards[p])
    norms: list[Any] = [None] * len(paths)
    reached, before = [chain.cotangents], order[0]
    for p in order:
        shared = common(backwards[before], backwards[p]) if len(reached) > 1 else 0
        del reached[shared + 1 :]
        for i in reversed(range(model.num_blocks - shared)):
            reached.append(chain.pull_both(i, reached[-1], np.asarray(paths[p][i], bool)))
        norms[p], before = chain.image_norms(reached[-1]), p
    return np.stack([np.asarray(found) for found in norms])


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
    chain = _Linearised(model, variables, images, labels, mesh)
    norms: list[list[Any]] = []
    for path in paths:
        cotangents, found = chain.cotangents / len(images), [np.float32(0)] * model.num_blocks
        for i in reversed(range(model.num_blocks)):
            found[i], cotangents = (
                chain.pull_one(i, cotangents) if path[i] else (found[i], chain.pull_past(i, cotangents))
            )
        norms.append(found)
    return np.array(jax.device_get(norms))


class _Linearised:
    """The gradient of the summed cross-entropy, block by block, behind one forward pass through the whole network.

    The gradient along a path is linear in what goes through each branch and past it, so that any number of paths has
    the same forward pass, and a branch off the path is not run.

    Attributes:
      cotangents: gradient with respect to the output of the last block, [N, H, W, C].
    """

    def __init__(self, model, variables, images, labels, mesh):
        mesh = mesh or data_mesh()
        require_blocks(model)
        check_batch_size(len(images), mesh)
        chain = self._chain = Chain(model, variables, images, mesh)
        x, labels = put_batch((np.asarray(images, np.float32), np.asarray(labels)), mesh)
        x, self._pull_start = _linearised(chain.rest, None, 0, chain.variables, x)
        self._branches, self._skips, self._between = [], [], {}
        for i in range(len(chain)):
            y, branch, skip = _pullbacks(chain.program(i), chain.parameters[i], x, chain.gates(i))
            self._branches.append(branch)
            self._skips.append(skip)
            if chain.follows(i + 1):
                x = y
            elif i + 1 < len(chain):
                x, self._between[i] = _linearised(chain.rest, i, i + 1, chain.variables, y)
        self.cotangents = _loss_gradient(chain.rest, chain.variables, y, labels)

    def pull_both(self, i, cotangents, open_):
        """Through block i for the images that are `open_` [N], past it for the others."""
        if not open_.any():
            return self.pull_past(i, cotangents)
        return _pull_both(self._branches[i], self._skips[i], self._behind(i, cotangents), np.float32(open_))

    def pull_one(self, i, cotangents):
        """Through the branch of block i: the norm of its kernels' gradients, and the gradient before it."""
        # Kernels' gradients are sums over all devices. Several such programs at once may each hold a thread of a CPU
        # with one device's part, and wait for the other parts, which have no thread left.
        return jax.block_until_ready(_pull_one(self._branches[i], self._behind(i, cotangents)))

    def pull_past(self, i, cotangents):
        """Through the shortcut of block i."""
        return _pull(self._skips[i], self._behind(i, cotangents))

    def image_norms(self, cotangents):
        """The norms of the gradients of the images, [N]."""
        return _image_norms(self._pull_start, cotangents)

    def _behind(self, i, cotangents):
        return _pull(self._between[i], cotangents) if i in self._between else cotangents


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _linearised(rest, given, wanted, variables, x):
    """What block `wanted` reads of x, see `Rest`, and its pullback to x."""
    return jax.vjp(functools.partial(rest, given, wanted, variables), x)


@functools.partial(jax.jit, static_argnums=0)
def _pullbacks(program, variables, x, gates):
    """The output of a block, and the pullbacks of its branch, to its variables and x, and of its shortcut."""
    branch, skip = (gates.times(Gates(backward=Gates(jnp.float32(b), jnp.float32(1 - b)))) for b in (1, 0))
    y, pull_branch = jax.vjp(lambda variables, x: program(variables, x, branch), variables, x)
    _, pull_skip = jax.vjp(lambda x: program(variables, x, skip), x)
    return y, pull_branch, pull_skip


@functools.partial(jax.jit, static_argnums=0)
def _loss_gradient(rest, variables, y, labels):
    """The gradient of the summed cross-entropy with respect to the last block's output y."""

    def loss(y):
        return optax.softmax_cross_entropy_with_integer_labels(rest.after(variables, y), labels).sum()

    return jax.grad(loss)(y)


@jax.jit
def _pull(pull, cotangents):
    return pull(cotangents)[0]


@jax.jit
def _pull_both(branch, skip, cotangents, open_):
    open_ = open_[:, None, None, None]
    return branch(open_ * cotangents)[1] + skip((1 - open_) * cotangents)[0]


@jax.jit
def _pull_one(branch, cotangents):
    variables, x = branch(cotangents)
    return _kernel_norm(variables["params"]), x


@jax.jit
def _image_norms(pull, cotangents):
    return _norm(pull(cotangents)[0], (1, 2, 3))


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
    return jnp.stack([_kernel_norm(stages[stage][block]) for stage, block in sorted(names, key=_place)])


def _kernel_norm(block):
    layers = {name: layer for name, layer in block.items() if not name.startswith("shortcut")}
    return _norm(jnp.stack([_norm(layer["kernel"]) for layer in layers.values() if "kernel" in layer]))


def _norm(x, axes=None):
    """L2 norm over `axes` or all; exact also if squares would underflow, because the longest paths carry 1e-30."""
    largest = jnp.abs(x).max(axes, keepdims=True)
    unit = jnp.where(largest > 0, largest, 1)
    return jnp.sqrt(jnp.square(x / unit).sum(axes)) * unit.squeeze(axes)


def _place(name: tuple[str, str]) -> tuple[int, ...]:
    return tuple(int(part.split("_")[1]) for part in name)


def _route(path: jax.Array | None) -> Gates | None:
    return None if path is None else Gates(backward=Gates(path.astype("float32"), 1 - path.astype("float32")))
