"""Which pixels a classifier's answer comes from: Grad-CAM, occlusion and integrated gradients.

All are pure functions of (variables, images, classes), to be called inside `jax.jit`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from resjax.errors import InputError
from resjax.models import Network


def grad_cam(model: Network, variables: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
    """Where the features that speak for a class are: Grad-CAM of the features that the classifier pools.

    ReLU(sum_k alpha_k A_k), where A_k is channel k of these features and alpha_k the mean over its pixels of the
    gradient of the class's logit (Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2).

    Args:
      model: a classifier of `resjax.models`.
      variables: its variables.
      images: normalised, [N, H, W, C].
      classes: int [N], the class to explain of each image.

    Returns:
      float32 [N, h, w] >= 0, in the resolution of the features.

    Raises:
      InputError: for a network that has no classifier behind features, or another number of classes than images.
    """
    _check(images, classes)
    if not isinstance(model, Network) or model.num_classes == 0 or model.features_only:
        raise InputError(f"grad_cam: expected a classifier of resjax.models, got {type(model).__name__} without one")
    trunk = {name: {key: part for key, part in parts.items() if key != "head"} for name, parts in variables.items()}
    head = {name: parts["head"] for name, parts in variables.items() if "head" in parts}
    stages: Any = model.clone(features_only=True).apply(trunk, images)
    features = stages["final"].astype(jnp.float32)
    classifier: Any = model.clone(parent=None).make_head().clone(parent=None, name=None)
    gradients = jax.grad(lambda features: _of_classes(classifier.apply(head, features), classes).sum())(features)
    return jax.nn.relu(jnp.einsum("nhwc,nc->nhw", features, gradients.mean((1, 2))))


def occlusion(
    model: Any,
    variables: Any,
    images: jax.Array,
    classes: jax.Array,
    window: int = 8,
    stride: int = 4,
    value: float = 0.0,
) -> jax.Array:
    """How much a class's probability falls where a square hides a part of the image.

    Zeiler & Fergus 2014, arXiv 1311.2901, section 4.2. The square stands at every `stride` pixels, also cut
    off by the border, so that each pixel is hidden as often as the others.

    Args:
      model: a classifier; images, classes: as of `grad_cam`.
      variables: its variables.
      window: side of the square in pixels.
      stride: pixels between the places of the square; it divides `window`.
      value: of the hidden pixels; 0 is the mean colour of normalised images.

    Returns:
      float32 [N, H, W]: the mean, over the squares that hide a pixel, of what the probability lost; negative where it
      rose.

    Raises:
      InputError: for a window that is no multiple of the stride, or another number of classes than images.
    """
    _check(images, classes)
    if window < 1 or stride < 1 or window % stride:
        raise InputError(f"occlusion: expected a window that is a multiple of the stride, got {window} and {stride}")
    height, width = images.shape[1:3]

    def probabilities(images):
        return _of_classes(jax.nn.softmax(model.apply(variables, images).astype(jnp.float32)), classes)

    whole = probabilities(images)
    tops, lefts = (jnp.arange(stride - window, size, stride) for size in (height, width))
    rows, columns = (jnp.arange(size) for size in (height, width))

    def add(total, place):
        top, left = tops[place // len(lefts)], lefts[place % len(lefts)]
        down, right = (rows >= top) & (rows < top + window), (columns >= left) & (columns < left + window)
        hidden = down[:, None] & right[None, :]
        lost = whole - probabilities(jnp.where(hidden[..., None], jnp.asarray(value, images.dtype), images))
        return total + lost[:, None, None] * hidden, None

    total, _ = jax.lax.scan(add, jnp.zeros(images.shape[:3], jnp.float32), jnp.arange(len(tops) * len(lefts)))
    return total / (window // stride) ** 2


def integrated_gradients(
    model: Any,
    variables: Any,
    images: jax.Array,
    classes: jax.Array,
    baseline: jax.Array | float = 0.0,
    steps: int = 64,
) -> jax.Array:
    """What each value of an image adds to a class's logit (Sundararajan et al. 2017, arXiv 1703.01365, equation 1).

    (x - x') times the mean of the gradient along the straight line from the baseline x' to x, at the middles of
    `steps` equal parts. The values of an image add up to logit(x) - logit(x') (completeness, proposition 1), to within
    the error of that mean.

    Args:
      model: a classifier; images, classes: as of `grad_cam`.
      variables: its variables.
      baseline: image without information, to be broadcast to `images`; 0 is the mean colour of normalised images.
      steps: points of the line; the paper uses 20 to 300.

    Returns:
      float32 [N, H, W, C].

    Raises:
      InputError: for fewer than one step, or another number of classes than images.
    """
    _check(images, classes)
    if steps < 1:
        raise InputError(f"integrated_gradients: expected at least one step, got {steps}")
    difference = images - jnp.asarray(baseline, images.dtype)

    def logits(images):
        return _of_classes(model.apply(variables, images).astype(jnp.float32), classes).sum()

    def add(total, place):
        return total + jax.grad(logits)(images - (1 - place) * difference), None

    places = ((jnp.arange(steps) + 0.5) / steps).astype(images.dtype)
    total, _ = jax.lax.scan(add, jnp.zeros_like(images), places)
    return (difference * total / steps).astype(jnp.float32)


def _check(images: jax.Array, classes: jax.Array) -> None:
    if jnp.shape(classes) != images.shape[:1]:
        raise InputError(f"classes: expected one for each of {images.shape[0]} images, got shape {jnp.shape(classes)}")


def _of_classes(scores: jax.Array, classes: jax.Array) -> jax.Array:
    """The score of each image's class, of scores [N, K]."""
    return jnp.take_along_axis(scores, jnp.asarray(classes)[:, None], 1)[:, 0]
