"""Resizing inside a compiled program, as Pillow resizes: separable, antialiased, rounded to uint8 after each pass."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from resjax.errors import unknown_name


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys 1981 ("Cubic convolution interpolation for digital image processing") with a = -0.5."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


# Filter, and the distance in pixels from which on it is zero.
_FILTERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "bilinear": (_bilinear, 1),
    "bicubic": (_bicubic, 2),
    "lanczos": (_lanczos, 3),
}
INTERPOLATIONS = tuple(_FILTERS)


def resize(
    images: jax.Array,
    scaled: tuple[int, int],
    interpolation: str = "bilinear",
    corner: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
) -> jax.Array:
    """A part of images resized as `PIL.Image.resize` does, which torchvision and timm evaluate with.

    Equal to Pillow's numbers but where a sum lies between two of them: those may differ by 1. So may more of them in
    images three times as high as wide, whose rows newer versions of Pillow resize first.

    Args:
      images: uint8 [N, H, W, C].
      scaled: height and width of the whole resized image.
      interpolation: one of `INTERPOLATIONS`; with antialiasing where the image gets smaller.
      corner: top and left of the part, in pixels of the resized image.
      size: height and width of the part; None takes the whole.

    Returns:
      uint8 [N, *size, C].

    Raises:
      InputError: for an unknown interpolation.
    """
    if interpolation not in _FILTERS:
        raise unknown_name("interpolation", interpolation, _FILTERS)
    height, width = size or scaled
    rows = _weights(images.shape[1], scaled[0], corner[0], height, interpolation)
    columns = _weights(images.shape[2], scaled[1], corner[1], width, interpolation)
    # Columns first, as Pillow: what is rounded between the passes is the same.
    return _pass(rows, _pass(columns, images, "ow,nhwc->nhoc"), "oh,nhwc->nowc")


def _pass(weights: np.ndarray, images: jax.Array, axes: str) -> jax.Array:
    if len(weights) == weights.shape[1] and (weights == np.eye(len(weights))).all():
        return images
    # Not in bfloat16, as accelerators would: its 8 bits are those of the result.
    sums = jnp.einsum(axes, jnp.asarray(weights), images.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return jnp.clip(jnp.floor(sums + 0.5), 0, 255).astype(jnp.uint8)


def _weights(pixels: int, scaled: int, start: int, length: int, interpolation: str) -> np.ndarray:
    """Weights of the old pixels in the new ones from `start` on, float32 [length, pixels]."""
    kernel, support = _FILTERS[interpolation]
    scale = pixels / scaled
    stretch = max(scale, 1.0)  # a smaller image: the filter covers all pixels that fall into a new one
    weights = np.zeros((length, pixels))
    for row, new in zip(weights, range(start, start + length), strict=True):
        centre = (new + 0.5) * scale
        # Whole pixels, cut as in Pillow's Resample.c.
        first = max(math.trunc(centre - support * stretch + 0.5), 0)
        last = min(math.trunc(centre + support * stretch + 0.5), pixels)
        row[first:last] = kernel((np.arange(first, last) - centre + 0.5) / stretch)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
