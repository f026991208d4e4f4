"""Segmentation on the device: losses of pixels, the confusion matrix, and prediction over scales and windows."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from resjax.errors import InputError
from resjax.train.metrics import check_labels
from resjax.train.state import Objective

IGNORED = 255
"""Label of an ignored pixel, as `resjax.data` gives it."""


def pixel_cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each pixel, float [N, H, W], 0 for ignored labels; and a mask of the other pixels, bool.

    Args:
      logits: [N, H, W, K].
      labels: int [N, H, W], 0 .. K - 1 or `IGNORED`.

    Raises:
      InputError: for labels of another shape or dtype, or out of range. Compiled code cannot raise for a value; there,
        a label out of range is ignored.
    """
    _check_classes(logits.shape[-1])
    if labels.shape != logits.shape[:-1]:
        raise InputError(f"labels: expected the logits' shape {list(logits.shape[:-1])}, got {list(labels.shape)}")
    check_labels(labels, logits.shape[-1], IGNORED)
    valid = _labelled(labels, logits.shape[-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0))
    return jnp.where(valid, losses, 0), valid


def _labelled(labels: jax.Array, num_classes: int) -> jax.Array:
    """Mask of the labels that are classes, bool."""
    return (labels >= 0) & (labels < num_classes)


def _check_classes(num_classes: int) -> None:
    if not 1 <= num_classes <= IGNORED:
        raise InputError(f"num_classes: expected 1 to {IGNORED}, the label of ignored pixels; got {num_classes}")


def mine_hard_pixels(
    losses: jax.Array, valid: jax.Array, threshold: float = 0.6, min_pixels: int = 256
) -> tuple[jax.Array, jax.Array]:
    """Online hard example mining: a mask of the pixels that count, bool like `valid`, and their mean loss.

    Pixels count if the probability p of their own class is at most `threshold`. If these are fewer than `min_pixels`,
    the `min_pixels` pixels with the smallest p count (Wu et al. 2016, arXiv 1611.10080, section 4, and the authors'
    code: over the whole batch). The choice has no gradient.

    Args:
      losses: -log p of each pixel, any shape.
      valid: bool, mask of the labelled pixels.
      threshold: largest p with which a pixel counts.
      min_pixels: minimum number of pixels that count, if that many are valid.
    """
    fixed = jax.lax.stop_gradient(jnp.where(valid, losses, -jnp.inf))
    kth = jax.lax.top_k(fixed.reshape(-1), min(min_pixels, losses.size))[0][-1] if min_pixels else jnp.inf
    kept = valid & (fixed >= jnp.minimum(-jnp.log(threshold), kth))
    return kept, masked_mean(losses, kept)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of the values where `mask` is True; 0 if it is False everywhere."""
    return jnp.where(mask, values, 0).sum() / jnp.maximum(mask.sum(), 1)


def segmentation(
    num_classes: int, stride: int = 1, ohem_threshold: float = 0.0, ohem_min_pixels: int = 256
) -> Objective:
    """Mean cross-entropy of the labelled pixels, or of the hard ones; counts their `confusion`.

    Args:
      num_classes: K.
      stride: mask pixels per logit. Labels are compared at the positions of the logits, see
        `resjax.models.SegmentationNetwork`.
      ohem_threshold, ohem_min_pixels: see `mine_hard_pixels`; a threshold of 0 takes every pixel.

    Raises:
      InputError: for more than 255 classes. The objective raises it for logits of another number of classes, and like
        `pixel_cross_entropy`.
    """
    _check_classes(num_classes)

    def objective(logits, masks, *labels):
        _check_logits(logits.shape[-1], num_classes)
        masks = masks[:, ::stride, ::stride]
        losses, valid = pixel_cross_entropy(logits, masks)
        if ohem_threshold:
            _, loss = mine_hard_pixels(losses, valid, ohem_threshold, ohem_min_pixels)
        else:
            loss = masked_mean(losses, valid)
        return loss, {"confusion": confusion_matrix(masks, logits.argmax(-1), num_classes)}

    return objective


def _check_logits(found: int, num_classes: int) -> None:
    if found != num_classes:
        raise InputError(f"num_classes: expected {found}, as the network's logits have, got {num_classes}")


def confusion_matrix(labels: jax.Array, predicted: jax.Array, num_classes: int) -> jax.Array:
    """Number of pixels of each true class (row) and predicted class (column), int32 [K, K], without ignored ones.

    Args:
      labels: int, of any shape, 0 .. K - 1 or `IGNORED`.
      predicted: int, of the same shape, 0 .. K - 1.
      num_classes: K.

    Raises:
      InputError: for arrays of different shapes, no integers, or values out of range. Compiled code cannot raise for a
        value; there, such a pixel does not count.

    Example:
      >>> labels, predicted = jnp.array([[0, 1, 1, IGNORED]]), jnp.array([[0, 1, 0, 1]])
      >>> confusion_matrix(labels, predicted, num_classes=2).tolist()
      [[1, 0], [1, 1]]
    """
    _check_classes(num_classes)
    if labels.shape != predicted.shape:
        raise InputError(f"predicted: expected the labels' shape {list(labels.shape)}, got {list(predicted.shape)}")
    check_labels(labels, num_classes, IGNORED)
    check_labels(predicted, num_classes)
    counted = _labelled(labels, num_classes) & _labelled(predicted, num_classes)
    cells = jnp.where(counted, labels.astype(jnp.int32) * num_classes + predicted, num_classes**2)
    # One more cell takes the ignored pixels.
    counts = jnp.bincount(cells.reshape(-1), length=num_classes**2 + 1)[:-1]
    return counts.reshape(num_classes, num_classes).astype(jnp.int32)


def predict_probabilities(
    apply: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: int = 0,
) -> jax.Array:
    """Class probabilities of each pixel, float32 [N, H, W, K], averaged over scales, flips and windows.

    Args:
      apply: normalised images [N, h, w, C], of any size -> logits [N, h, w, K].
      images: normalised, float [N, H, W, C].
      scales: scales of the images.
      flip: whether to average in the mirrored images.
      window: side in pixels of square windows that cover larger images, in steps of half a window. Overlaps are
        averaged. 0 takes whole images.

    Raises:
      InputError: for no scale, a scale that is not positive, or a negative window.
    """
    if not scales or not all(scale > 0 for scale in scales):
        raise InputError(f"scales: expected positive numbers, got {tuple(scales)}")
    if window < 0:
        raise InputError(f"window: expected a number of pixels, or 0 for whole images, got {window}")
    n, height, width, channels = images.shape
    total = jnp.asarray(0.0)
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


def _in_windows(apply: Callable[[jax.Array], jax.Array], images: jax.Array, window: int) -> jax.Array:
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
    """First pixels of windows, half a window from each other. The last window ends with the image."""
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
      normalize: (uint8 images, sizes) -> float images, zero outside each image's own size.

    Raises:
      InputError: for more than 255 classes. The step raises it as `segmentation` does.
    """
    _check_classes(num_classes)

    def eval_step(variables, batch, valid):
        images, masks, sizes = batch
        probabilities = predict_probabilities(
            lambda x: cast(jax.Array, model.apply(variables, x, train=False)), normalize(images, sizes), **options
        )
        _check_logits(probabilities.shape[-1], num_classes)
        masks = jnp.where(valid[:, None, None], masks, IGNORED)
        losses, labelled = pixel_cross_entropy(jnp.log(jnp.maximum(probabilities, 1e-12)), masks)
        return {
            "loss": jax.vmap(masked_mean)(losses, labelled).sum(),
            "confusion": confusion_matrix(masks, probabilities.argmax(-1), num_classes),
            "images": valid.sum(dtype=jnp.int32),
        }

    return eval_step
