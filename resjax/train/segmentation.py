"""Segmentation: losses of pixels, the confusion matrix, and prediction over scales and windows; all on the device."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from resjax.errors import InputError
from resjax.train.step import Objective

IGNORED = 255
"""Label of a pixel that does not count, as `resjax.data` gives it."""


def pixel_cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each pixel, float [N, H, W], 0 where the label is ignored; and where it is not, bool.

    Args:
      logits: [N, H, W, K].
      labels: int [N, H, W], 0 .. K - 1 or `IGNORED`.
    """
    valid = labels != IGNORED
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0))
    return jnp.where(valid, losses, 0), valid


def mine_hard_pixels(
    losses: jax.Array, valid: jax.Array, threshold: float = 0.6, least: int = 256
) -> tuple[jax.Array, jax.Array]:
    """Online hard example mining: which pixels count, bool as `valid`, and their mean loss.

    Those of a probability of their own class p <= `threshold`; where they are fewer than `least`, the `least` with the
    smallest p (Wu et al. 2016, arXiv 1611.10080, section 4, and the authors' code: over the whole batch). The choice
    has no gradient.

    Args:
      losses: -log p of each pixel, any shape.
      valid: bool, pixels that have a label.
      threshold: p up to which a pixel counts.
      least: number of pixels that count at least, as far as there are so many.
    """
    fixed = jax.lax.stop_gradient(jnp.where(valid, losses, -jnp.inf))
    kth = jax.lax.top_k(fixed.reshape(-1), min(least, losses.size))[0][-1] if least else jnp.inf
    kept = valid & (fixed >= jnp.minimum(-jnp.log(threshold), kth))
    return kept, masked_mean(losses, kept)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of the values where `mask` holds; 0 where it holds nowhere."""
    return jnp.where(mask, values, 0).sum() / jnp.maximum(mask.sum(), 1)


def segmentation(num_classes: int, stride: int = 1, ohem_threshold: float = 0.0, ohem_least: int = 256) -> Objective:
    """Mean cross-entropy of the labelled pixels, or of the hard ones; counts their `confusion`.

    Args:
      num_classes: K.
      stride: pixels of the masks to one of the logits, which are compared with the labels at their places, see
        `resjax.models.SegmentationNetwork`.
      ohem_threshold, ohem_least: see `mine_hard_pixels`; a threshold of 0 takes every pixel.
    """

    def objective(logits, masks, *labels):
        masks = masks[:, ::stride, ::stride]
        losses, valid = pixel_cross_entropy(logits, masks)
        if ohem_threshold:
            _, loss = mine_hard_pixels(losses, valid, ohem_threshold, ohem_least)
        else:
            loss = masked_mean(losses, valid)
        return loss, {"confusion": confusion_matrix(masks, logits.argmax(-1), num_classes)}

    return objective


def confusion_matrix(labels: jax.Array, predicted: jax.Array, num_classes: int) -> jax.Array:
    """Number of pixels of each true class (row) and predicted class (column), int32 [K, K], without ignored ones."""
    cells = jnp.where(labels == IGNORED, num_classes**2, labels.astype(jnp.int32) * num_classes + predicted)
    # One more than there are cells takes what is ignored.
    counts = jnp.bincount(cells.reshape(-1), length=num_classes**2 + 1)[:-1]
    return counts.reshape(num_classes, num_classes).astype(jnp.int32)


def predict_probabilities(
    apply: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: int = 0,
) -> jax.Array:
    """Class probabilities of each pixel, float32 [N, H, W, K], averaged over what is asked for.

    Args:
      apply: normalised images [N, h, w, C], of any size -> logits [N, h, w, K].
      images: normalised, float [N, H, W, C].
      scales: of the images.
      flip: whether mirrored images are averaged in.
      window: side in pixels of the squares in which images that are larger are worked through, half of it at a step;
        where they overlap, they are averaged. 0 takes whole images.

    Raises:
      InputError: for no scale, a scale that is not positive, or a negative window.
    """
    if not scales or not all(scale > 0 for scale in scales):
        raise InputError(f"scales: expected positive numbers, got {tuple(scales)}")
    if window < 0:
        raise InputError(f"window: expected a number of pixels, or 0 for whole images, got {window}")
    n, height, width, channels = images.shape
    total = 0.0
    for scale in scales:
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        scaled = images if scale == 1 else jax.image.resize(images, (n, *size, channels), "linear")
        for mirrored in (False, True) if flip else (False,):
            probabilities = _in_windows(apply, scaled[:, :, ::-1] if mirrored else scaled, window)
            probabilities = probabilities[:, :, ::-1] if mirrored else probabilities
            if size != (height, width):
                shape = (n, height, width, probabilities.shape[-1])
                probabilities = jax.image.resize(probabilities, shape, "linear")
            total += probabilities
    return total / (len(scales) * (2 if flip else 1))


def _in_windows(apply, images, window):
    height, width = images.shape[1:3]
    size = (min(window or height, height), min(window or width, width))
    places = [(top, left) for top in _starts(height, size[0]) for left in _starts(width, size[1])]
    if len(places) == 1:
        return nn.softmax(apply(images))

    def add(carry, place):
        total, count = carry
        part = jax.lax.dynamic_slice(images, (0, *place, 0), (len(images), *size, images.shape[-1]))
        probabilities = nn.softmax(apply(part))
        start = (0, *place, 0)
        old = jax.lax.dynamic_slice(total, start, probabilities.shape)
        total = jax.lax.dynamic_update_slice(total, old + probabilities, start)
        seen = jax.lax.dynamic_slice(count, place, size)
        return (total, jax.lax.dynamic_update_slice(count, seen + 1, place)), None

    classes = jax.eval_shape(apply, jax.ShapeDtypeStruct((1, *size, images.shape[-1]), images.dtype)).shape[-1]
    empty = jnp.zeros((len(images), height, width, classes)), jnp.zeros((height, width))
    rows, columns = (jnp.asarray(values, jnp.int32) for values in zip(*places, strict=True))
    (total, count), _ = jax.lax.scan(add, empty, (rows, columns))
    return total / count[..., None]


def _starts(length: int, window: int) -> list[int]:
    """First pixels of windows half a window apart; the last one ends with the image."""
    return sorted({*range(0, length - window, max(window // 2, 1)), length - window})


def make_segmentation_eval_step(
    model: nn.Module, normalize: Callable[[jax.Array, jax.Array], jax.Array], num_classes: int, **options: Any
) -> Callable[..., dict[str, jax.Array]]:
    """Builds `eval_step(variables, (images, masks, sizes), valid) -> sums`; every labelled pixel counts once.

    `loss` is the sum over images of the mean loss of their labelled pixels.

    Args:
      model: a `resjax.models.SegmentationNetwork`.
      normalize: (uint8 images, sizes) -> float images, zero outside of each image's own size.
      num_classes: K.
      **options: `scales`, `flip` and `window` of `predict_probabilities`.
    """

    def eval_step(variables, batch, valid):
        images, masks, sizes = batch
        probabilities = predict_probabilities(
            lambda x: model.apply(variables, x, train=False), normalize(images, sizes), **options
        )
        masks = jnp.where(valid[:, None, None], masks, IGNORED)
        losses, labelled = pixel_cross_entropy(jnp.log(jnp.maximum(probabilities, 1e-12)), masks)
        return {
            "loss": jax.vmap(masked_mean)(losses, labelled).sum(),
            "confusion": confusion_matrix(masks, probabilities.argmax(-1), num_classes),
            "images": valid.sum(dtype=jnp.int32),
        }

    return eval_step
