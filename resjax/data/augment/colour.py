"""Augmentation of photographs inside the step: colour jitter, PCA lighting, random erasing, random policies.

Images are float [N, H, W, 3] on the 0-255 scale, before normalisation. TrivialAugment and RandAugment draw from one
table of operations. Each operation is an affine map of the coordinates, a table of 256 values for each channel, or a
blend with another version of the image. A batch of different operations therefore costs one gather, one table and
one blend, not fourteen.
"""

import jax
import jax.numpy as jnp

# Eigenvectors (columns) and eigenvalues of ImageNet's colours on the 0-1 scale (Krizhevsky et al. 2012, section 4.1),
# fb.resnet.torch's values.
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_LUMA = (0.299, 0.587, 0.114)

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "colour",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
_BINS = 31


def colour_jitter(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Brightness, contrast and saturation by factors from [1 - strength, 1 + strength], in random order.

    Like fb.resnet.torch's ColorJitter (after Howard 2013, arXiv 1312.5402), but clipped to 0 .. 255 after each
    operation, like torchvision's. Contrast is relative to the image's grey mean.
    """
    order_key, factor_key = jax.random.split(key)
    n = len(images)
    orders = jax.vmap(lambda k: jax.random.permutation(k, 3))(jax.random.split(order_key, n))
    factors = jax.random.uniform(factor_key, (n, 3), minval=1 - strength, maxval=1 + strength)
    for turn in range(3):
        which = orders[:, turn, None, None, None]
        grey = _grey(images)
        others = jnp.where(which == 1, grey.mean((1, 2, 3), keepdims=True), jnp.where(which == 2, grey, 0))
        factor = jnp.take_along_axis(factors, orders[:, turn, None], axis=1)[..., None, None]
        images = jnp.clip(others + factor * (images - others), 0, 255)
    return images


def lighting(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Adds the principal components of ImageNet's colours, times N(0, strength^2) draws (Krizhevsky et al. 2012)."""
    weights = jax.random.normal(key, (len(images), 3)) * strength * jnp.asarray(_EIGENVALUES)
    return images + 255 * (weights @ jnp.asarray(_EIGENVECTORS).T)[:, None, None, :]


def random_erasing(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Zeroes a rectangle of 2 to 33 % of the area, aspect 0.3 to 3.3 (Zhong et al. 2017, arXiv 1708.04896).

    It is applied after normalisation, so that zero is the mean colour, as in torchvision.
    """
    n, height, width, _ = images.shape
    keys = jax.random.split(key, 5)
    area = height * width * jax.random.uniform(keys[0], (n,), minval=0.02, maxval=0.33)
    aspect = jnp.exp(jax.random.uniform(keys[1], (n,), minval=jnp.log(0.3), maxval=jnp.log(3.3)))
    sides = [jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32) for ratio in (aspect, 1 / aspect)]
    # torchvision draws again if the rectangle does not fit; here it is clipped to the image's size.
    inside = []
    for side, size, place_key in zip(sides, (height, width), keys[2:4], strict=True):
        side = jnp.minimum(side, size - 1)
        start = jnp.floor(jax.random.uniform(place_key, (n,)) * (size - side + 1)).astype(jnp.int32)
        places = jnp.arange(size)
        inside.append((places >= start[:, None]) & (places < (start + side)[:, None]))
    erased = jax.random.bernoulli(keys[4], probability, (n, 1, 1)) & inside[0][:, :, None] & inside[1][:, None, :]
    return jnp.where(erased[..., None], 0, images)


def trivial_augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """One random operation of random strength for each image (Mueller & Hutter 2021, arXiv 2103.10158, "wide")."""
    kind_key, strength_key, sign_key = jax.random.split(key, 3)
    n = len(images)
    kinds = jax.random.randint(kind_key, (n,), 0, len(OPERATIONS))
    strengths = jax.random.randint(strength_key, (n,), 0, _BINS) / (_BINS - 1)
    return apply_operations(images, kinds, strengths, _signs(sign_key, n), wide=True)


def rand_augment(key: jax.Array, images: jax.Array, operations: int = 2, magnitude: int = 9) -> jax.Array:
    """`operations` random operations of one strength, in bins of 0..30 (Cubuk et al. 2019, arXiv 1909.13719)."""
    n = len(images)
    for turn in range(operations):
        kind_key, sign_key = jax.random.split(jax.random.fold_in(key, turn))
        kinds = jax.random.randint(kind_key, (n,), 0, len(OPERATIONS))
        strengths = jnp.full((n,), magnitude / (_BINS - 1))
        images = apply_operations(images, kinds, strengths, _signs(sign_key, n), wide=False)
    return images


def apply_operations(
    images: jax.Array, kinds: jax.Array, strengths: jax.Array, signs: jax.Array, wide: bool
) -> jax.Array:
    """Applies its own operation to each image, with torchvision's ranges.

    Args:
      images: float [N, H, W, 3], 0..255; rounded to integers first, because the operations are defined on uint8.
      kinds: int [N], indices into `OPERATIONS`.
      strengths: [N], 0..1 of the range of the operation.
      signs: [N], -1 or 1, for operations with two directions.
      wide: whether to use TrivialAugment's wide ranges; otherwise RandAugment's.
    """
    images = jnp.round(jnp.clip(images, 0, 255))
    is_kind = {name: kinds == position for position, name in enumerate(OPERATIONS)}
    images = _move(images, is_kind, strengths * signs, wide)
    images = _look_up(images, is_kind, strengths, signs, wide)
    return _blend(images, is_kind, 1 + strengths * signs * (0.99 if wide else 0.9))


def _signs(key, n):
    return jnp.where(jax.random.bernoulli(key, 0.5, (n,)), 1.0, -1.0)


def _move(images, is_kind, strengths, wide):
    """Shear, translation and rotation about the centre, with the nearest pixel, and black outside."""
    n, height, width, _ = images.shape
    shear = strengths * (0.99 if wide else 0.3)
    # torchvision's RandAugment translates by 150 pixels of 331.
    shift_x, shift_y = (strengths * (32.0 if wide else 150 / 331 * side) for side in (width, height))
    angle = jnp.deg2rad(strengths * (135.0 if wide else 30.0))
    moved = is_kind["rotate"]
    y, x = jnp.meshgrid(jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij")
    cos, sin = jnp.where(moved, jnp.cos(angle), 1), jnp.where(moved, jnp.sin(angle), 0)

    def column(values):
        return values[:, None, None]

    source_x = (
        column(cos) * x
        + column(sin + jnp.where(is_kind["shear_x"], shear, 0)) * y
        + column(jnp.where(is_kind["translate_x"], shift_x, 0))
    )
    source_y = (
        column(cos) * y
        + column(-sin + jnp.where(is_kind["shear_y"], shear, 0)) * x
        + column(jnp.where(is_kind["translate_y"], shift_y, 0))
    )
    rows = jnp.round(source_y + (height - 1) / 2).astype(jnp.int32)
    columns = jnp.round(source_x + (width - 1) / 2).astype(jnp.int32)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    place = jnp.clip(rows, 0, height - 1) * width + jnp.clip(columns, 0, width - 1)
    gathered = jnp.take_along_axis(images.reshape(n, height * width, 3), place.reshape(n, -1, 1), axis=1)
    return jnp.where(inside[..., None], gathered.reshape(images.shape), 0)


def _look_up(images, is_kind, strengths, signs, wide):
    """Operations that map each value of a channel to another: a table of 256 values for each image and channel."""
    n, height, width, channels = images.shape
    values = jnp.arange(256.0)

    def per_image(x):
        return x[:, None, None]

    factor = 1 + strengths * signs * (0.99 if wide else 0.9)
    # from 8 bits down to 2, or to 4.
    bits = 8 - jnp.round(strengths * (6 if wide else 4))
    step = 2.0 ** (8 - bits)
    tables = jnp.broadcast_to(values, (n, channels, 256))
    low, high = images.min((1, 2))[..., None], images.max((1, 2))[..., None]
    stretched = jnp.where(high > low, (values - low) * (255 / jnp.maximum(high - low, 1)), values)
    for name, table in (
        ("brightness", jnp.clip(jnp.floor(values * per_image(factor)), 0, 255)),
        ("posterize", jnp.floor(values / per_image(step)) * per_image(step)),
        ("solarize", jnp.where(values >= per_image(255 * (1 - strengths)), 255 - values, values)),
        ("auto_contrast", jnp.clip(jnp.floor(stretched), 0, 255)),
        ("equalize", _equalizing(images)),
    ):
        tables = jnp.where(per_image(is_kind[name]), table, tables)
    places = images.astype(jnp.int32).reshape(n, height * width, channels)
    looked_up = jax.vmap(lambda table, place: jnp.take_along_axis(table.T, place, axis=0))(tables, places)
    return looked_up.reshape(images.shape)


def _equalizing(images):
    """Pillow's table: the running sum of the histogram, in steps of its mean height without the last value."""
    n, _, _, channels = images.shape
    flat = images.astype(jnp.int32).transpose(0, 3, 1, 2).reshape(n * channels, -1)
    histogram = jax.vmap(lambda values: jnp.zeros(256, jnp.int32).at[values].add(1))(flat)
    last = 255 - jnp.argmax(histogram[:, ::-1] > 0, axis=1)
    step = (flat.shape[1] - jnp.take_along_axis(histogram, last[:, None], axis=1)[:, 0]) // 255
    before = jnp.cumsum(histogram, axis=1) - histogram
    table = (before + step[:, None] // 2) // jnp.maximum(step, 1)[:, None]
    table = jnp.where(step[:, None] == 0, jnp.arange(256), jnp.clip(table, 0, 255))
    return table.reshape(n, channels, 256).astype(jnp.float32)


def _blend(images, is_kind, factor):
    """Extrapolates from grey (colour), from the mean grey (contrast), or from a smoothed image (sharpness)."""
    grey = jnp.round(_grey(images))
    mean = jnp.floor(grey.mean((1, 2, 3), keepdims=True) + 0.5)

    def per_image(x):
        return x[:, None, None, None]

    chosen = is_kind["colour"] | is_kind["contrast"] | is_kind["sharpness"]
    other = jnp.where(per_image(is_kind["colour"]), grey, jnp.where(per_image(is_kind["contrast"]), mean, 0))
    other = jnp.where(per_image(is_kind["sharpness"]), _smooth(images), other)
    blended = jnp.clip(jnp.floor(other + per_image(factor) * (images - other)), 0, 255)
    return jnp.where(per_image(chosen), blended, images)


def _smooth(images):
    """Pillow's SMOOTH: weight 5 in the centre and 1 around it; the border stays as it is."""
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * images[:, 1:-1, 1:-1]
    return images.at[:, 1:-1, 1:-1].set(jnp.floor(total / 13 + 0.5))


def _grey(images):
    return (images * jnp.asarray(_LUMA)).sum(-1, keepdims=True)
