"""Augmentation and normalisation as pure functions, compiled into the training step and run on the device.

Every function takes one key and draws for each image separately. Normalisation comes first, so that the zeros of a
padded crop are the mean colour, as in fb.resnet.torch and the papers' code.
"""

import jax
import jax.numpy as jnp

from resjax.data.augment.options import Augmentation
from resjax.errors import InputError


def augment(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    num_classes: int,
    augmentation: Augmentation,
    mirrored: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Augments a batch.

    Args:
      key: PRNG key of this step.
      images: normalised images, float [N, H, W, C].
      labels: int [N].
      num_classes: K.
      augmentation: what to apply.
      mirrored: bool [N], see `alternation`; only for `alternating_flip`.

    Returns:
      Images [N, H, W, C] and target probabilities, float32 [N, K].

    Example:
      >>> images, labels = jnp.ones((4, 32, 32, 3)), jnp.array([0, 1, 2, 1])
      >>> images, targets = augment(jax.random.key(0), images, labels, 3, Augmentation(crop_padding=4, flip=True))
      >>> images.shape, targets[3].tolist()
      ((4, 32, 32, 3), [0.0, 1.0, 0.0])
    """
    crop_key, flip_key, cutout_key, mix_key = jax.random.split(key, 4)
    if augmentation.crop_padding:
        images = random_crop(crop_key, images, augmentation.crop_padding, augmentation.padding_mode)
    if augmentation.flip:
        images = random_flip(flip_key, images)
    if augmentation.alternating_flip:
        if mirrored is None:
            raise InputError("alternating_flip: say which images are `mirrored`, see `alternation`")
        images = _mirror(images, mirrored)
    if augmentation.cutout:
        images = cutout(cutout_key, images, augmentation.cutout)
    targets = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    if augmentation.mixup and augmentation.cutmix:
        choice_key, mixup_key, cutmix_key = jax.random.split(mix_key, 3)
        chosen = jax.random.bernoulli(choice_key, 0.5, (len(images),))
        mixed, cut = (
            mixup(mixup_key, images, targets, augmentation.mixup),
            cutmix(cutmix_key, images, targets, augmentation.cutmix),
        )
        return jnp.where(_per_image(chosen), mixed[0], cut[0]), jnp.where(chosen[:, None], mixed[1], cut[1])
    if augmentation.mixup:
        return mixup(mix_key, images, targets, augmentation.mixup)
    if augmentation.cutmix:
        return cutmix(mix_key, images, targets, augmentation.cutmix)
    return images, targets


def random_crop(key: jax.Array, images: jax.Array, padding: int, mode: str = "zero") -> jax.Array:
    """Pads images [N, H, W, C] on every side, and crops H x W at one of (2 padding + 1)^2 equally likely offsets."""
    n, height, width, channels = images.shape
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, pads, mode="reflect" if mode == "reflect" else "constant")
    offsets = jax.random.randint(key, (n, 2), 0, 2 * padding + 1)

    def crop(image, offset):
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image of [N, H, W, C] left to right with probability 1/2."""
    return _mirror(images, jax.random.bernoulli(key, 0.5, (len(images),)))


def alternation(images: jax.Array, epoch: jax.Array) -> jax.Array:
    """Which of the uint8 images [N, H, W, C] `alternating_flip` mirrors in an epoch, counted from 0: bool [N].

    The sum of an image's bytes decides its half. Nothing is stored for each image, and the order of the images does not
    matter.
    """
    return (images.sum((1, 2, 3), dtype=jnp.int32) + epoch) % 2 == 0


def mirrored_and_shifted(images: jax.Array) -> list[tuple[float, jax.Array]]:
    """Views of images [N, H, W, C] for test-time augmentation, each with its weight in the average of the logits.

    The views are the images, two copies shifted by a pixel along the diagonal in each direction (the border is
    reflected), and the mirror images of all three. Shifted views have half the weight (Jordan 2024, section 3.5).
    """
    _, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    shifted = [padded[:, i : i + height, i : i + width] for i in (0, 2)]
    views = [(1 / 4, images), *((1 / 8, copy) for copy in shifted)]
    return views + [(weight, view[:, :, ::-1]) for weight, view in views]


def _mirror(images: jax.Array, mirrored: jax.Array) -> jax.Array:
    return jnp.where(_per_image(mirrored), images[:, :, ::-1], images)


def cutout(key: jax.Array, images: jax.Array, length: int) -> jax.Array:
    """Zeroes a square of side `length` around a uniformly drawn pixel of each image of [N, H, W, C]."""
    n, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (n,), 0, height) - length // 2
    left = jax.random.randint(column_key, (n,), 0, width) - length // 2
    return jnp.where(_boxes(top, left, length, length, height, width), 0, images)


def mixup(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Blends each image and target with its neighbour in the batch, by a weight from Beta(alpha, alpha).

    Zhang et al. 2017 (arXiv 1710.09412). Images are float [N, H, W, C], targets [N, classes].
    """
    weight = jax.random.beta(key, alpha, alpha, (len(images),))
    return _blend(images, _per_image(weight)), _blend(targets, weight[:, None])


def cutmix(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Pastes a box of its neighbour in the batch into each image. Targets are mixed by the pasted area.

    Yun et al. 2019 (arXiv 1905.04899). Images are [N, H, W, C], targets [N, classes].
    """
    n, height, width, _ = images.shape
    weight_key, row_key, column_key = jax.random.split(key, 3)
    side = jnp.sqrt(1 - jax.random.beta(weight_key, alpha, alpha, (n,)))
    box_height, box_width = (side * height).astype(jnp.int32), (side * width).astype(jnp.int32)
    top = jax.random.randint(row_key, (n,), 0, height) - box_height // 2
    left = jax.random.randint(column_key, (n,), 0, width) - box_width // 2
    box = _boxes(top, left, box_height, box_width, height, width)
    kept = 1 - box.mean((1, 2, 3), dtype=jnp.float32)
    return jnp.where(box, jnp.roll(images, 1, 0), images), _blend(targets, kept[:, None])


def _per_image(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]


def _blend(x: jax.Array, weight: jax.Array) -> jax.Array:
    """weight * x + (1 - weight) * its neighbour: batches are shuffled, so the neighbour is a random partner."""
    return weight * x + (1 - weight) * jnp.roll(x, 1, 0)


def _boxes(
    top: jax.Array,
    left: jax.Array,
    box_height: jax.Array | int,
    box_width: jax.Array | int,
    height: int,
    width: int,
) -> jax.Array:
    """Masks [N, height, width, 1], true inside each image's box, clipped to the image."""
    rows, columns = jnp.arange(height)[None, :], jnp.arange(width)[None, :]
    top, left = top[:, None], left[:, None]
    box_height, box_width = jnp.reshape(box_height, (-1, 1)), jnp.reshape(box_width, (-1, 1))
    in_rows = (rows >= top) & (rows < top + box_height)
    in_columns = (columns >= left) & (columns < left + box_width)
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]
