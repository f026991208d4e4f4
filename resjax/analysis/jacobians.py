"""Residual Jacobians: the singular vectors of each block's branch, and how far blocks share them.

Li & Papyan 2023, Residual Alignment, arXiv 2401.09018.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resjax.analysis.chain import Chain
from resjax.errors import InputError
from resjax.layers import Gates
from resjax.models import Network
from resjax.train.sharding import data_mesh


@dataclasses.dataclass(frozen=True)
class Jacobians:
    """The residual Jacobians J_i = U_i S_i V_i^T of the B blocks that keep the shape, each at N images.

    Attributes:
      blocks: indices of the blocks.
      stages: names of their stages.
      sizes: d of each: a Jacobian is [d, d].
      singular_values: the k largest, float64 [B, N, k].
      energy: their squares' fraction of the squared Frobenius norm, which is estimated, float64 [B, N].
      within: how far the top left and right singular vectors of one block span the same space: |U_i^T V_i|_F^2 / k,
        float64 [B, N]. Random spaces have k / d on average.
      left, right: the same of a block and the next: |U_i^T U_i+1|_F^2 / k, |V_i^T V_i+1|_F^2 / k, float64 [B - 1, N];
        NaN from one stage to the next.
      shared: how far the singular vectors of block j are those of block i, float64 [B, B]: the mean over images of
        sum_m |u_jm^T J_i v_jm| / sum_m s_im, in [0, 1]; 1 if they are the same, in any order. NaN between stages.
    """

    blocks: tuple[int, ...]
    stages: tuple[str, ...]
    sizes: tuple[int, ...]
    singular_values: np.ndarray
    energy: np.ndarray
    within: np.ndarray
    left: np.ndarray
    right: np.ndarray
    shared: np.ndarray


def residual_jacobians(
    model: Network,
    variables: Any,
    images: np.ndarray,
    seed: int = 0,
    count: int = 10,
    steps: int = 6,
) -> Jacobians:
    """The largest singular values and vectors of the blocks' residual Jacobians, without the matrices.

    The Jacobian is that of the branch, through the activation after the addition if the block has one. Without a
    shortcut, as in a plain network, it is that of the whole block. Block Krylov iteration (Musco & Musco 2015, arXiv
    1504.05477) starts from `count` random vectors. In memory are count (steps + 2) vectors of N d numbers, and of the
    blocks of one stage 2 count each.

    Args:
      model, variables: a residual network, or its plain twin.
      images: normalised, [N, H, W, C]; all are one batch.
      seed: of the random vectors.
      count: k, the number of singular values.
      steps: products with J^T J.

    Raises:
      InputError: for a network without blocks that keep the shape, no images, or more singular values than a Jacobian
        has.
    """
    if count < 1 or steps < 1:
        raise InputError(f"count, steps: expected positive integers, got {count} and {steps}")
    # One device: the decompositions would gather what several share.
    chain = Chain(model, variables, images, data_mesh(jax.devices()[:1]))
    ((batch, _),) = chain.batches(images, max(1, len(images)))
    x = chain.start(batch)
    inputs: dict[int, jax.Array] = {}
    for i in range(len(chain)):
        if x.shape[1:] == chain.shapes[i]:
            inputs[i] = x
        if i + 1 < len(chain):
            x = chain.behind(i, chain.block(i, x))
    if not inputs:
        raise InputError(f"{type(model).__name__}: no block keeps the shape of its input")
    blocks = tuple(inputs)
    sizes = tuple(int(np.prod(x.shape[1:])) for x in inputs.values())
    if count > min(sizes):
        raise InputError(f"count: expected at most {min(sizes)}, the size of the smallest Jacobian, got {count}")
    stages = tuple(chain.names[i].split("/")[0] for i in blocks)
    values, energy, within = (np.zeros((len(blocks), len(images), *more)) for more in ((count,), (), ()))
    left, right = np.full((2, len(blocks) - 1, len(images)), np.nan)
    shared = np.full((len(blocks), len(blocks)), np.nan)
    for stage in dict.fromkeys(stages):
        vectors: dict[int, tuple[jax.Array, jax.Array]] = {}
        for row in [row for row, name in enumerate(stages) if name == stage]:
            i, x = blocks[row], inputs[blocks[row]]
            start = jax.random.normal(jax.random.fold_in(jax.random.key(seed), row), (count, *x.shape), x.dtype)
            of_block = (chain.parameters[i], x, chain.gates(i))
            values[row], u, v, squared_norm = _singular_vectors(chain.program(i), steps, *of_block, start)
            energy[row] = np.square(values[row]).sum(-1) / squared_norm
            within[row] = _overlap(u, v)
            if vectors:
                left[row - 1], right[row - 1] = map(_overlap, vectors[row - 1], (u, v))
            vectors[row] = u, v
        for row, (other, (u, v)) in itertools.product(vectors, vectors.items()):
            i = blocks[row]
            sums = _diagonal(chain.program(i), chain.parameters[i], inputs[i], chain.gates(i), u, v)
            shared[row, other] = np.mean(np.asarray(sums, np.float64) / values[row].sum(-1))
    return Jacobians(blocks, stages, sizes, values, energy, within, left, right, shared)


def _products(program, variables, x, gates):
    """J and J^T of the branch at x, each mapping [k, N, H, W, C] to the same shape."""
    branch = gates.times(Gates(backward=Gates(jnp.float32(1), jnp.float32(0))))

    def run(x):
        return program(variables, x, branch)

    _, forward = jax.linearize(run, x)
    _, backward = jax.vjp(run, x)
    return jax.vmap(forward), jax.vmap(lambda y: backward(y)[0])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _singular_vectors(program, steps, variables, x, gates, start):
    """s [N, k], U and V [N, d, k], and the squared Frobenius norm [N] as estimated from `start` [k, N, H, W, C]."""
    forward, backward = _products(program, variables, x, gates)
    count, images = start.shape[:2]

    def columns(vectors):
        return vectors.reshape(count, images, -1).transpose(1, 2, 0)

    def rows(matrices):
        return matrices.transpose(2, 0, 1).reshape(-1, *x.shape)

    first = forward(start)
    norm = jnp.square(columns(first)).sum((1, 2)) / count  # E |J g|^2 = |J|_F^2 (Hutchinson)
    basis = []
    vectors = backward(first)
    for _ in range(steps):
        basis.append(jnp.linalg.qr(columns(vectors))[0])
        vectors = backward(forward(rows(basis[-1])))
    basis.append(columns(vectors) / jnp.linalg.norm(columns(vectors), axis=1, keepdims=True))
    # Of more columns than rows, the basis is one of the whole space.
    space = jnp.linalg.qr(jnp.concatenate(basis, -1))[0]
    mapped = forward(rows(space)).reshape(space.shape[-1], images, -1).transpose(1, 2, 0)
    u, s, turned = jnp.linalg.svd(mapped, full_matrices=False)
    v = jnp.einsum("ndm,nkm->ndk", space, turned)
    return s[:, :count], u[..., :count], v[..., :count], norm


@functools.partial(jax.jit, static_argnums=0)
def _diagonal(program, variables, x, gates, u, v):
    """sum_m |u_m^T J v_m| of each image, [N]."""
    forward, _ = _products(program, variables, x, gates)
    mapped = forward(v.transpose(2, 0, 1).reshape(-1, *x.shape)).reshape(v.shape[2], v.shape[0], -1)
    return jnp.abs(jnp.einsum("ndk,knd->nk", u, mapped)).sum(-1)


@jax.jit
def _overlap(a, b):
    """|A^T B|_F^2 / k of orthonormal columns [N, d, k] each: [N]."""
    return jnp.square(jnp.einsum("ndk,ndm->nkm", a, b)).sum((1, 2)) / a.shape[-1]
