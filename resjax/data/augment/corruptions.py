"""Fifteen kinds of damage to images at five severities, computed inside the step, to measure robustness by.

The kinds are those of Hendrycks & Dietterich 2019 (arXiv 1903.12261, section 3). So are the strengths of most: those of
CIFAR-10-C for images below 96 pixels, of ImageNet-C for larger ones. They are no copy of these benchmarks: frost is
drawn, not photographed, and blurs, snow, fog and elastic transforms draw their randomness differently. Errors under
them compare networks with each other, not with published numbers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from resjax.errors import InputError, unknown_name

SEVERITIES = 5
_SMALL = 96  # pixels
# Of each kind: five strengths for small images, and five for large ones.
_LEVELS = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),  # standard deviation
    "shot_noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),  # photons of a white pixel
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),  # fraction of the values
    "defocus_blur": ((0.6, 0.75, 0.9, 1.2, 1.6), (3, 4, 6, 8, 10)),  # radius; of large images at 224 pixels
    "glass_blur": ((0.6, 0.8, 1.0, 1.3, 1.6), (1.2, 1.8, 2.4, 3.2, 4.2)),  # farthest displacement, likewise
    "motion_blur": ((2, 3, 4, 5, 6.5), (9, 13, 17, 23, 30)),  # length, likewise
    "zoom_blur": ((1.06, 1.11, 1.16, 1.21, 1.26), (1.11, 1.16, 1.21, 1.26, 1.33)),  # largest magnification
    "snow": ((0.2, 0.3, 0.4, 0.5, 0.6), (0.25, 0.4, 0.5, 0.6, 0.7)),
    "frost": ((0.2, 0.3, 0.4, 0.45, 0.55), (0.4, 0.5, 0.6, 0.65, 0.7)),  # opacity
    "fog": ((0.2, 0.5, 0.75, 1.0, 1.5), (1.5, 2.0, 2.5, 2.8, 3.2)),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),  # added to the value of HSV
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),  # what is left of it
    "elastic_transform": ((0.03, 0.04, 0.05, 0.06, 0.075), (0.03, 0.045, 0.06, 0.075, 0.09)),  # of the side
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),  # of the resolution
    "jpeg_compression": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),  # quality
}
CORRUPTIONS = tuple(_LEVELS)

# ITU-T T.81, tables K.1 and K.2.
_LUMINANCE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMINANCE = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""
# Of JFIF: RGB to YCbCr.
_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def corrupt(key: jax.Array, images: jax.Array, name: str, severity: int | jax.Array) -> jax.Array:
    """Images with one kind of damage; may be called in `jax.jit` with a traced severity.

    Args:
      key: of all images, or [N], one for each, so that an image's damage does not depend on its batch.
      images: pixels 0 .. 255, uint8 or float [N, H, W, C] with C of 1 or 3.
      name: one of `CORRUPTIONS`.
      severity: 1 .. 5.

    Returns:
      float32 [N, H, W, C], whole numbers from 0 to 255.

    Raises:
      InputError: for an unknown name, a severity out of range, or images of another shape.

    Example:
      >>> damaged = corrupt(jax.random.key(0), np.full((2, 32, 32, 3), 128, np.uint8), "gaussian_noise", 5)
      >>> damaged.shape, 20 < float(damaged.std()) < 30  # 0.10 of 255
      ((2, 32, 32, 3), True)
    """
    if name not in _LEVELS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    if isinstance(severity, int) and not 1 <= severity <= SEVERITIES:
        raise InputError(f"severity: expected 1 to {SEVERITIES}, got {severity}")
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(f"images: expected [N, H, W, 1 or 3], got {list(images.shape)}")
    keys = jax.random.split(key, len(images)) if key.ndim == 0 else key
    large = min(images.shape[1:3]) >= _SMALL
    levels = np.array(_LEVELS[name][large], np.float32)
    if large and name in ("defocus_blur", "glass_blur", "motion_blur"):
        levels = levels * np.float32(min(images.shape[1:3]) / 224)
    function = functools.partial(_FUNCTIONS[name], levels=levels, place=jnp.asarray(severity) - 1)
    damaged = jax.vmap(function)(keys, jnp.asarray(images, jnp.float32) / 255)
    return jnp.round(jnp.clip(damaged, 0, 1) * 255)


# Each takes a key, an image [H, W, C] in [0, 1], the five levels, and which of them it is.


def _gaussian_noise(key, image, levels, place):
    return image + jnp.asarray(levels)[place] * jax.random.normal(key, image.shape)


def _shot_noise(key, image, levels, place):
    photons = jnp.asarray(levels)[place]
    return jax.random.poisson(key, image * photons) / photons


def _impulse_noise(key, image, levels, place):
    half = jnp.asarray(levels)[place] / 2
    draw = jax.random.uniform(key, image.shape)
    return jnp.where(draw < half, 0, jnp.where(draw > 1 - half, 1, image))


def _defocus_blur(key, image, levels, place):
    reach = int(np.ceil(levels.max()))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    # A disk whose edge is one pixel wide; up to a radius of 0.5 only the centre is in it.
    disks = np.clip(levels[:, None, None] + 0.5 - np.hypot(y, x), 0, 1)
    kernel = jnp.asarray(disks / disks.sum((1, 2), keepdims=True), jnp.float32)[place]
    padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge").transpose(2, 0, 1)
    blurred = jax.lax.conv_general_dilated(padded[:, None], kernel[None, None], (1, 1), "VALID")
    return blurred[:, 0].transpose(1, 2, 0)


def _glass_blur(key, image, levels, place):
    height, width, _ = image.shape
    moved = jax.random.uniform(key, (2, height, width), minval=-1) * jnp.asarray(levels)[place]
    return _sample(image, *(grid + shift for grid, shift in zip(_grid(image), moved, strict=True)))


def _motion_blur(key, image, levels, place):
    angle = jax.random.uniform(key, maxval=np.pi)
    return _moved(image, angle, jnp.asarray(levels)[place], int(np.ceil(levels.max())) | 1)


def _zoom_blur(key, image, levels, place):
    centre = [(side - 1) / 2 for side in image.shape[:2]]

    def zoomed(factor):
        return _sample(image, *(c + (grid - c) / factor for c, grid in zip(centre, _grid(image), strict=True)))

    return jax.lax.map(zoomed, jnp.linspace(1, jnp.asarray(levels)[place], 8)).mean(0)


def _snow(key, image, levels, place):
    level, (flake_key, angle_key) = jnp.asarray(levels)[place], jax.random.split(key)
    height, width, _ = image.shape
    flakes = jax.random.uniform(flake_key, (-(-height // 2), -(-width // 2), 1)) < 0.15 * level
    # Flakes of a few pixels fall from above, up to 45 degrees aslant.
    flakes = jax.image.resize(flakes.astype(jnp.float32), (height, width, 1), "linear")
    angle = np.pi / 2 + jax.random.uniform(angle_key, minval=-np.pi / 4, maxval=np.pi / 4)
    length = max(2.0, min(height, width) / 12)
    fallen = _moved(flakes, angle, length, int(length) | 1)
    grey = image.mean(-1, keepdims=True)
    whitened = jnp.maximum(image, 0.5 + 0.5 * grey)
    return image + 0.6 * level * (whitened - image) + 2 * level * fallen


def _frost(key, image, levels, place):
    opacity = jnp.asarray(levels)[place]
    # Crystals are where a fractal surface crosses its middle.
    ridges = 1 - jnp.abs(2 * _fractal(key, image.shape[:2], 0.6) - 1)
    return (1 - 0.7 * opacity) * image + opacity * (ridges**3)[..., None]


def _fog(key, image, levels, place):
    level, brightest = jnp.asarray(levels)[place], image.max()
    return (image + level * _fractal(key, image.shape[:2], 0.5)[..., None]) * brightest / (brightest + level)


def _brightness(key, image, levels, place):
    value = image.max(-1, keepdims=True)
    brighter = jnp.minimum(value + jnp.asarray(levels)[place], 1)
    return jnp.where(value > 0, image * brighter / jnp.maximum(value, 1e-6), brighter)


def _contrast(key, image, levels, place):
    mean = image.mean((0, 1))
    return mean + (image - mean) * jnp.asarray(levels)[place]


def _elastic_transform(key, image, levels, place):
    height, width, _ = image.shape
    # A smooth field of displacements, which goes to and fro about every sixth of the side.
    field = jax.image.resize(jax.random.normal(key, (2, 6, 6)), (2, height, width), "cubic")
    reach = jnp.asarray(levels)[place] * min(height, width) / 2
    return _sample(image, *(grid + reach * shift for grid, shift in zip(_grid(image), field, strict=True)))


def _pixelate(key, image, levels, place):
    rows, columns = (
        jnp.asarray(np.stack([_coarse(side, level) for level in levels]))[place] for side in image.shape[:2]
    )
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision="highest")


def _coarse(side: int, fraction: float) -> np.ndarray:
    """Averages over `side * fraction` boxes, and repeats each: float32 [side, side]."""
    boxes = max(1, int(side * fraction))
    edges = np.arange(boxes + 1) * side / boxes
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    down = np.maximum(overlap, 0) * boxes / side
    return down[((pixels + 0.5) * boxes / side).astype(int)].astype(np.float32)


def _jpeg_compression(key, image, levels, place):
    """What JPEG loses: rounding of the cosine transform of blocks of 8x8, colours at half the resolution."""
    quality = jnp.asarray(levels)[place]
    scale = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    height, width, channels = image.shape
    rest = ((0, -height % 16), (0, -width % 16), (0, 0))
    pixels = jnp.pad(image * 255, rest, mode="edge")
    if channels == 1:
        return (_rounded_blocks(pixels[..., 0] - 128, _LUMINANCE, scale) + 128)[:height, :width, None] / 255
    luma, *colours = jnp.moveaxis(jnp.einsum("hwc,kc->hwk", pixels, jnp.asarray(_YCBCR), precision="highest"), -1, 0)
    parts = [_rounded_blocks(luma - 128, _LUMINANCE, scale) + 128]
    for colour in colours:
        halved = colour.reshape(colour.shape[0] // 2, 2, colour.shape[1] // 2, 2).mean((1, 3))
        halved = jnp.pad(halved, [(0, -side % 8) for side in halved.shape], mode="edge")
        coded = _rounded_blocks(halved, _CHROMINANCE, scale)[: colour.shape[0] // 2, : colour.shape[1] // 2]
        parts.append(coded.repeat(2, 0).repeat(2, 1))
    to_rgb = jnp.asarray(np.linalg.inv(np.array(_YCBCR)), jnp.float32)
    return jnp.einsum("khw,ck->hwc", jnp.stack(parts), to_rgb, precision="highest")[:height, :width] / 255


def _rounded_blocks(plane, table, scale):
    """A plane [H, W], H and W multiples of 8, after quantisation of its blocks."""
    steps = jnp.asarray(np.array(table.split(), np.float32).reshape(8, 8))
    steps = jnp.clip(jnp.floor((steps * scale + 50) / 100), 1, 255)
    angles = np.pi * np.outer(np.arange(8), 2 * np.arange(8) + 1) / 16
    cosines = np.cos(angles) / 2
    cosines[0] /= np.sqrt(2)
    transform = jnp.asarray(cosines, jnp.float32)
    blocks = plane.reshape(plane.shape[0] // 8, 8, plane.shape[1] // 8, 8)
    coded = jnp.einsum("ui,aibj,vj->aubv", transform, blocks, transform, precision="highest")
    coded = jnp.round(coded / steps[:, None]) * steps[:, None]
    return jnp.einsum("ui,aubv,vj->aibj", transform, coded, transform, precision="highest").reshape(plane.shape)


def _grid(image):
    """Row and column of each pixel, float32 [H, W] each."""
    return jnp.meshgrid(*(jnp.arange(side, dtype=jnp.float32) for side in image.shape[:2]), indexing="ij")


def _sample(image, rows, columns):
    """Bilinear values of [H, W, C] at these places; beyond the edge, those of the edge."""
    return jax.vmap(lambda plane: map_coordinates(plane, [rows, columns], 1, "nearest"), -1, -1)(image)


def _moved(image, angle, length, taps):
    """The mean along a line through each pixel."""
    along = jnp.linspace(-0.5, 0.5, taps) * length
    rows, columns = _grid(image)
    return jax.lax.map(lambda t: _sample(image, rows + t * jnp.sin(angle), columns + t * jnp.cos(angle)), along).mean(0)


def _fractal(key, shape, decay):
    """A surface of random bumps, each octave of half the size and `decay` of the height, scaled to [0, 1]: [H, W].

    The finest bumps are of two to four pixels.
    """
    total = jnp.zeros(shape)
    for octave in range(1, max(2, int(np.log2(min(shape))))):
        bumps = jax.random.normal(jax.random.fold_in(key, octave), (2**octave, 2**octave))
        total += decay**octave * jax.image.resize(bumps, shape, "cubic")
    return (total - total.min()) / (total.max() - total.min())


_FUNCTIONS = {name: globals()[f"_{name}"] for name in CORRUPTIONS}
