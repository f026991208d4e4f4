"""What the features of a frozen network are worth: a linear classifier, and nearest neighbours."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resjax.errors import InputError

WEIGHT_DECAYS = tuple(10.0**exponent for exponent in range(1, -7, -1))
# Of the images that a weight decay is chosen on, one of so many, class by class.
_HELD_OUT = 5
_ITERATIONS, _TOLERANCE = 300, 2e-5


class LinearProbe(NamedTuple):
    """A linear classifier of features.

    Attributes:
      kernel, bias: float32 [C, K] and [K].
      weight_decay: the one that was chosen.
    """

    kernel: np.ndarray
    bias: np.ndarray
    weight_decay: float

    def logits(self, features: Any) -> np.ndarray:
        """float32 [N, K] of features [N, C]."""
        return np.asarray(features, np.float32) @ self.kernel + self.bias


def fit_linear_probe(
    features: Any, labels: Any, num_classes: int, weight_decays: tuple[float, ...] = WEIGHT_DECAYS
) -> LinearProbe:
    """Multinomial logistic regression by L-BFGS (Kornblith et al. 2019, arXiv 1805.08974, appendix A).

    The mean cross-entropy plus weight_decay / 2 times the squared norm of the kernel is minimised, over features that
    are shifted and scaled to mean 0 and variance 1. Of several weight decays, the one with the fewest errors on a fifth
    of the images is taken, and the classifier is fitted again on all of them.

    Args:
      features: float [N, C].
      labels: int [N], from 0 to num_classes - 1.
      num_classes: K.
      weight_decays: to choose from; of equal ones the earliest is taken.

    Raises:
      InputError: for fewer than 5 images, or features and labels that do not fit.
    """
    features, labels = _checked(features, labels, num_classes)
    mean, std = features.mean(0), features.std(0)
    scale = 1 / np.maximum(std, 1e-6 * max(float(std.max()), 1e-6))
    scaled, targets = (features - mean) * scale, np.eye(num_classes, dtype=np.float32)[labels]
    if len(weight_decays) > 1:
        kept_apart = _fifth(labels)
        rest = np.setdiff1d(np.arange(len(labels)), kept_apart)
        errors, solution = [], _start(features.shape[1], num_classes)
        for weight_decay in weight_decays:
            solution = _fit(scaled[rest], targets[rest], weight_decay, solution)
            found = (scaled[kept_apart] @ np.asarray(solution[0]) + np.asarray(solution[1])).argmax(1)
            errors.append(int((found != labels[kept_apart]).sum()))
        chosen = weight_decays[int(np.argmin(errors))]
    else:
        (chosen,) = weight_decays
    kernel, bias = map(np.asarray, _fit(scaled, targets, chosen, _start(features.shape[1], num_classes)))
    return LinearProbe(kernel * scale[:, None], bias - (mean * scale) @ kernel, chosen)


def nearest_neighbours(
    features: Any, labels: Any, queries: Any, num_classes: int, neighbours: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """Weighted votes of the nearest images, by cosine similarity (Wu et al. 2018, arXiv 1805.01978, section 3.4).

    The class of each of the nearest images gets exp(similarity / temperature). The number of neighbours is that of
    Caron et al. 2021 (arXiv 2104.14294, appendix D).

    Args:
      features, labels: the known images, float [N, C] and int [N].
      queries: float [M, C].
      num_classes: K.
      neighbours: number of the nearest images; at most N are there.
      temperature: see above.

    Returns:
      The part of the votes that each class gets, float32 [M, K].

    Raises:
      InputError: for features and labels that do not fit.
    """
    features, labels = _checked(features, labels, num_classes, least=1)
    queries = np.asarray(queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != features.shape[1]:
        raise InputError(f"queries: expected float [M, {features.shape[1]}], got shape {queries.shape}")
    number = min(neighbours, len(labels))
    votes = [
        _votes(features, labels, queries[first : first + 1024], temperature, number, num_classes)
        for first in range(0, len(queries), 1024)
    ]
    return np.concatenate([np.zeros((0, num_classes), np.float32), *map(np.asarray, votes)])


@functools.partial(jax.jit, static_argnums=(4, 5))
def _votes(features, labels, queries, temperature, number, num_classes):
    unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)  # noqa: E731
    similarity, nearest = jax.lax.top_k(unit(queries) @ unit(features).T, number)
    weights = jax.nn.softmax(similarity / temperature)
    return jnp.einsum("mn,mnk->mk", weights, jax.nn.one_hot(labels[nearest], num_classes))


@jax.jit
def _fit(features, targets, weight_decay, start):
    """(kernel, bias) by L-BFGS from `start`."""

    def loss(solution):
        kernel, bias = solution
        losses = optax.softmax_cross_entropy(features @ kernel + bias, targets)
        return losses.mean() + weight_decay / 2 * (kernel**2).sum()

    solver, value_and_grad = optax.lbfgs(), optax.value_and_grad_from_state(loss)

    def step(carry):
        solution, state, _, count = carry
        value, gradient = value_and_grad(solution, state=state)
        updates, state = solver.update(gradient, state, solution, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(solution, updates), state, optax.tree.norm(gradient), count + 1

    def goes_on(carry):
        return (carry[2] > _TOLERANCE) & (carry[3] < _ITERATIONS)

    first = (start, solver.init(start), jnp.float32(jnp.inf), 0)
    return jax.lax.while_loop(goes_on, step, first)[0]


def _start(channels: int, num_classes: int) -> tuple[jax.Array, jax.Array]:
    return jnp.zeros((channels, num_classes)), jnp.zeros(num_classes)


def _fifth(labels: np.ndarray) -> np.ndarray:
    """Positions of every fifth image, class by class."""
    order = np.argsort(labels, kind="stable")
    return np.sort(order[_HELD_OUT - 1 :: _HELD_OUT])


def _checked(features: Any, labels: Any, num_classes: int, least: int = _HELD_OUT) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features, np.float32), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"features, labels: expected float [N, C] and int [N], got shapes {features.shape} and {labels.shape} of"
            f" {labels.dtype}"
        )
    if len(labels) < least:
        raise InputError(f"features: expected {least} images or more, got {len(labels)}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(f"labels: expected 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}")
    return features, labels
