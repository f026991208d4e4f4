"""Joint augmentation of images and their masks, compiled into the training step and run on the device.

Scale, crop and flip are one resampling: each pixel of the crop is looked up in the image, bilinear for the image and
nearest for the mask. Points outside the image are zero, the mean colour after normalisation, and are ignored.
"""

import jax
import jax.numpy as jnp

from resjax.data.augment.options import IGNORED, MaskAugmentation


def augment_with_masks(
    key: jax.Array, images: jax.Array, masks: jax.Array, sizes: jax.Array, augmentation: MaskAugmentation
) -> tuple[jax.Array, jax.Array]:
    """Augments a batch; draws for each image separately.

    Args:
      key: PRNG key of this step.
      images: normalised, float [N, H, W, C]; image i is the first sizes[i] rows and columns.
      masks: uint8 [N, H, W].
      sizes: int32 [N, 2], height and width.
      augmentation: what to apply.

    Returns:
      Images [N, crop, crop, C] and masks int32 [N, crop, crop].
    """
    place_key, colour_key = jax.random.split(key)
    side = augmentation.crop
    shape = (side, side) if side else (images.shape[1], images.shape[2])
    if side:
        rows, columns = jax.vmap(lambda key, size: _places(key, size, shape, augmentation))(
            jax.random.split(place_key, len(images)), sizes
        )
    else:
        rows, columns = (jnp.broadcast_to(jnp.arange(size, dtype=jnp.float32), (len(images), size)) for size in shape)
        if augmentation.flip:
            flipped = jax.random.bernoulli(place_key, 0.5, (len(images), 1))
            columns = jnp.where(flipped, sizes[:, 1:] - 1 - columns, columns)
    images = jax.vmap(bilinear)(images, rows, columns, sizes)
    masks = jax.vmap(nearest)(masks, rows, columns, sizes)
    if augmentation.brightness or augmentation.contrast or augmentation.saturation:
        inside = jax.vmap(_inside)(rows, columns, sizes)[..., None]
        images = jnp.where(inside, change_colour(colour_key, images, inside, augmentation), 0)
    return images, masks


def _places(
    key: jax.Array, size: jax.Array, shape: tuple[int, int], augmentation: MaskAugmentation
) -> tuple[jax.Array, jax.Array]:
    """The image row, float, that each row of the crop shows; the same for columns."""
    scale_key, offset_key, flip_key = jax.random.split(key, 3)
    scale = jax.random.uniform(scale_key, minval=augmentation.scale_min, maxval=augmentation.scale_max)
    enlarged = jnp.round(size * scale)
    room = enlarged - jnp.asarray(shape)
    # A smaller image is placed at random inside the crop; a larger one is cropped at random.
    offset = jnp.round(jax.random.uniform(offset_key, (2,)) * room)
    # Pixel centres: enlarged pixel i covers the middle of the image at (i + 1/2) size / enlarged - 1/2.
    rows, columns = (
        (jnp.arange(length) + offset[axis] + 0.5) * size[axis] / enlarged[axis] - 0.5
        for axis, length in enumerate(shape)
    )
    if augmentation.flip:
        columns = jnp.where(jax.random.bernoulli(flip_key), size[1] - 1 - columns, columns)
    return rows, columns


def _inside(rows: jax.Array, columns: jax.Array, size: jax.Array) -> jax.Array:
    """Which pixels of the crop lie on the image, bool [h, w]."""
    in_rows, in_columns = (
        (places >= -0.5) & (places < length - 0.5) for places, length in ((rows, size[0]), (columns, size[1]))
    )
    return in_rows[:, None] & in_columns[None, :]


def bilinear(image: jax.Array, rows: jax.Array, columns: jax.Array, size: jax.Array) -> jax.Array:
    """image [H, W, C] at float `rows` [h] and `columns` [w]; zero outside its first `size` rows and columns."""

    def between(x, places, length, axis):
        places = jnp.clip(places, 0, length - 1)
        low = jnp.floor(places).astype(jnp.int32)
        share = (places - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        high = jnp.minimum(low + 1, length - 1)
        return jnp.take(x, low, axis) * (1 - share) + jnp.take(x, high, axis) * share

    resampled = between(between(image, rows, size[0], 0), columns, size[1], 1)
    return jnp.where(_inside(rows, columns, size)[..., None], resampled, 0)


def nearest(mask: jax.Array, rows: jax.Array, columns: jax.Array, size: jax.Array) -> jax.Array:
    """mask [H, W] at the pixels nearest to `rows` and `columns`, int32 [h, w]; ignored outside of `size`."""
    row, column = (
        jnp.clip(jnp.floor(places + 0.5), 0, length - 1).astype(jnp.int32)
        for places, length in ((rows, size[0]), (columns, size[1]))
    )
    return jnp.where(_inside(rows, columns, size), mask[row][:, column].astype(jnp.int32), IGNORED)


def change_colour(key: jax.Array, images: jax.Array, inside: jax.Array, augmentation: MaskAugmentation) -> jax.Array:
    """Random saturation, contrast around the image's mean, and brightness of images [N, H, W, C], in this order."""
    limits = jnp.asarray([augmentation.saturation, augmentation.contrast, augmentation.brightness])
    drawn = jax.random.uniform(key, (3, len(images), 1, 1, 1), minval=-1, maxval=1)
    saturation, contrast, brightness = drawn * limits[:, None, None, None, None]
    gray = images.mean(-1, keepdims=True)
    images = gray + (images - gray) * (1 + saturation)
    count = jnp.maximum(inside.sum((1, 2, 3), keepdims=True), 1)
    middle = jnp.where(inside, images, 0).sum((1, 2), keepdims=True) / count
    return middle + (images - middle) * (1 + contrast) + brightness
