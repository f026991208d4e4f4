"""Adversarial images within a distance of their own: what a network says of the worst of them."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from resjax.errors import InputError

Loss = Callable[[jax.Array], jax.Array]
"""Images in [0, 1], [N, H, W, C] -> the loss of each, [N]; an image's loss depends on no other image."""


def fgsm(loss: Loss, images: jax.Array, epsilon: float | jax.Array) -> jax.Array:
    """One step of size epsilon along the sign of the gradient (Goodfellow et al. 2015, arXiv 1412.6572, section 4).

    Args:
      loss: what is to grow.
      images: float [N, H, W, C] in [0, 1], before normalisation.
      epsilon: largest change of a value, on the scale of [0, 1].

    Returns:
      Images like `images`, in [0, 1] and within epsilon of them.

    Raises:
      InputError: for images that are not floating point.

    Example:
      >>> image = jnp.full((1, 1, 1, 3), 0.5)
      >>> attacked = fgsm(lambda images: (images @ jnp.array([1.0, -1.0, 0.0])).sum((1, 2)), image, 0.1)
      >>> [round(float(value), 2) for value in attacked.ravel()]
      [0.6, 0.4, 0.5]
    """
    _check(images)
    return jnp.clip(images + epsilon * jnp.sign(_gradient(loss, images)[1]), 0, 1)


def pgd(
    key: jax.Array,
    loss: Loss,
    images: jax.Array,
    epsilon: float | jax.Array,
    steps: int = 20,
    step_size: float | jax.Array | None = None,
    enough: float = math.inf,
) -> jax.Array:
    """Steps along the sign of the gradient from a random start, each projected back (Madry et al. 2018).

    Of the images and all iterates, those of the largest loss are returned, where the paper (arXiv 1706.06083) takes the
    last: the loss is never below that of the images.

    Args:
      key: of the start, uniform within epsilon.
      loss, images, epsilon: see `fgsm`.
      steps: number of steps.
      step_size: on the scale of [0, 1]; default: 2.5 epsilon / steps (appendix of the paper).
      enough: steps end once the loss of every image is larger; by default none is left out.

    Returns:
      Images like `images`, in [0, 1] and within epsilon of them.

    Raises:
      InputError: for images that are not floating point, or fewer than one step.
    """
    _check(images)
    if steps < 1:
        raise InputError(f"steps: expected a positive integer, got {steps}")
    size = 2.5 * epsilon / steps if step_size is None else step_size
    low, high = jnp.maximum(images - epsilon, 0), jnp.minimum(images + epsilon, 1)

    def goes_on(carry):
        taken, *_, largest = carry
        return (taken < steps) & (largest <= enough).any()

    def step(carry):
        taken, current, best, largest = carry
        losses, gradient = _gradient(loss, current)
        best, largest = _worse(best, largest, current, losses)
        return taken + 1, jnp.clip(current + size * jnp.sign(gradient), low, high), best, largest

    noise = jax.random.uniform(key, images.shape, images.dtype, minval=-1)
    start = jnp.clip(images + epsilon * noise, low, high)
    _, last, best, largest = jax.lax.while_loop(goes_on, step, (0, start, images, loss(images)))
    return _worse(best, largest, last, loss(last))[0]


def _worse(best, largest, current, losses):
    better = losses > largest
    return jnp.where(better[:, None, None, None], current, best), jnp.where(better, losses, largest)


def _gradient(loss, images):
    """The losses [N], and the gradient of their sum, which is that of each with respect to its own image."""

    def total(images):
        losses = loss(images)
        return losses.sum(), losses

    (_, losses), gradient = jax.value_and_grad(total, has_aux=True)(images)
    return losses, gradient


def _check(images):
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"images: expected floating point in [0, 1], got {images.dtype}; divide pixels by 255")
