"""The Hessian of the loss: its largest eigenvalues, its trace and its spectral density, by Lanczos.

Ghorbani et al. 2019, arXiv 1901.10159, sections 2 and 3; Yao et al. 2020, arXiv 1912.07145 (PyHessian).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resjax.analysis.landscape import whole_batches, without_noise
from resjax.errors import InputError
from resjax.models import Network
from resjax.train.sharding import put_batch, put_whole

Product = Callable[[np.ndarray], np.ndarray]
"""A symmetric matrix as a function: v [P] -> its product with v, [P]."""


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """What Lanczos says of a symmetric matrix [P, P].

    Attributes:
      nodes, weights: Ritz values and their weights of each of R random starts, float64 [R, m]; weights sum to 1. The
        sum of weight * f(node), averaged over starts, estimates the mean of f over the eigenvalues.
      size: P.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int

    @property
    def trace(self) -> float:
        """Estimated trace: that of Hutchinson with the same random starts."""
        return float(self.size * (self.nodes * self.weights).sum(-1).mean())

    @property
    def largest(self) -> float:
        """Largest eigenvalue, from below."""
        return float(self.nodes.max())

    @property
    def smallest(self) -> float:
        """Smallest eigenvalue, from above."""
        return float(self.nodes.min())

    def density(self, grid: np.ndarray, width: float) -> np.ndarray:
        """Density of the eigenvalues at `grid` [G], each widened to a normal distribution of deviation `width`: [G]."""
        distance = (grid[:, None, None] - self.nodes) / width
        bumps = np.exp(-np.square(distance) / 2) / (width * np.sqrt(2 * np.pi))
        return (bumps * self.weights).sum(-1).mean(-1)


def loss_hessian(
    model: Network,
    variables: Any,
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int = 256,
    mesh: Mesh | None = None,
) -> tuple[Product, int]:
    """Products with the Hessian of the mean cross-entropy by all parameters, and the number of parameters.

    BN normalises by the statistics of each batch, through which the Hessian is taken, as in training (Ghorbani
    et al. 2019: with those of the population, large eigenvalues come back). Dropout and stochastic depth are off. In
    memory is one batch, with what two gradients of it need.

    Args:
      model, variables: the network.
      images: normalised, [N, H, W, C].
      labels: int [N].
      batch_size: images at a time, over all devices. The last N % batch_size are not read, unless there are fewer than
        one batch.
      mesh: devices that a batch is split over; default: all. One device takes what they do not divide.

    Raises:
      InputError: for no images, or a batch that the devices do not divide.
    """
    mesh, parts = whole_batches(images, labels, batch_size, mesh)
    quiet, variables = without_noise(model), put_whole(variables, mesh)
    leaves = jax.tree.leaves(variables["params"])
    size, dtype = sum(leaf.size for leaf in leaves), jnp.result_type(*leaves)
    batches = [put_batch((np.asarray(images[part], np.float32), np.asarray(labels[part])), mesh) for part in parts]

    def mean(vector):
        moved = put_whole(jnp.asarray(vector, dtype), mesh)
        parts = [np.asarray(_product(quiet, moved, variables, *batch), np.float64) for batch in batches]
        return sum(parts) / len(parts)

    return mean, size


@functools.partial(jax.jit, static_argnums=0)
def _product(model, vector, variables, images, labels):
    """The product of the Hessian with `vector` [P]; one program for all variables of a network."""
    flat, unravel = jax.flatten_util.ravel_pytree(variables["params"])

    def loss(flat):
        moved = {**variables, "params": unravel(flat)}
        logits, _ = model.apply(moved, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return jax.jvp(jax.grad(loss), (flat,), (vector,))[1]


def lanczos_spectrum(product: Product, size: int, seed: int = 0, starts: int = 1, steps: int = 80) -> Spectrum:
    """Stochastic Lanczos quadrature with full reorthogonalisation (Ghorbani et al. 2019, algorithm 1).

    The basis of one start is in memory, float64 [steps, size]: without reorthogonalisation, eigenvalues would come
    several times.

    Args:
      product: the symmetric matrix.
      size: P, its number of rows.
      seed: of the starts, normal vectors.
      starts: number of random starts.
      steps: matrix products of each, at most P.

    Raises:
      InputError: for numbers that are not positive.
    """
    if min(size, starts, steps) < 1:
        raise InputError(f"size, starts, steps: expected positive integers, got {size}, {starts} and {steps}")
    rng, nodes, weights = np.random.default_rng(seed), [], []
    steps = min(steps, size)
    for _ in range(starts):
        basis, diagonal, beside = np.zeros((steps, size)), np.zeros(steps), np.zeros(steps)
        vector = rng.normal(size=size)
        basis[0] = vector / np.linalg.norm(vector)
        for i in range(steps):
            vector = np.asarray(product(basis[i]), np.float64)
            diagonal[i] = basis[i] @ vector
            for _ in range(2):  # once is not enough in floating point (Parlett 1998, section 6.9)
                vector = vector - (basis[: i + 1] @ vector) @ basis[: i + 1]
            beside[i] = np.linalg.norm(vector)
            if i + 1 == steps:
                break
            if beside[i] <= 1e-10 * max(np.abs(diagonal).max(), np.finfo(float).tiny):
                # The start lies in an invariant subspace: what is left of the basis weighs nothing.
                beside[i] = 0
                vector = rng.normal(size=size)
                for _ in range(2):
                    vector = vector - (basis[: i + 1] @ vector) @ basis[: i + 1]
                basis[i + 1] = vector / np.linalg.norm(vector)
                continue
            basis[i + 1] = vector / beside[i]
        ritz, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1))
        nodes.append(ritz)
        weights.append(np.square(vectors[0]))
    return Spectrum(np.array(nodes), np.array(weights), size)
