"""Augmentation of a training photograph inside the step, from uint8 crop to normalised image and mixed target."""

import jax
import jax.numpy as jnp

from resjax.data.augment import Augmentation, augment
from resjax.data.augment.colour import colour_jitter, lighting, rand_augment, random_erasing, trivial_augment
from resjax.data.augment.options import PhotoAugmentation
from resjax.data.normalization import Normalization


def augment_photos(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    num_classes: int,
    normalize: Normalization,
    augmentation: PhotoAugmentation,
) -> tuple[jax.Array, jax.Array]:
    """Augments and normalises a batch.

    Args:
      key: PRNG key of this step.
      images: uint8 [N, H, W, 3].
      labels: int [N].
      num_classes: K.
      normalize: maps pixel values to the network's input.
      augmentation: what to apply.

    Returns:
      Images [N, H, W, 3] and target probabilities, float32 [N, K].
    """
    policy_key, jitter_key, light_key, erase_key, mix_key = jax.random.split(key, 5)
    photos = images.astype(jnp.float32)
    if augmentation.policy == "trivial_augment":
        photos = trivial_augment(policy_key, photos)
    elif augmentation.policy == "rand_augment":
        photos = rand_augment(policy_key, photos, magnitude=augmentation.magnitude)
    if augmentation.colour_jitter:
        photos = colour_jitter(jitter_key, photos, augmentation.colour_jitter)
    if augmentation.lighting:
        photos = lighting(light_key, photos, augmentation.lighting)
    photos = normalize(photos)
    if augmentation.random_erasing:
        photos = random_erasing(erase_key, photos, augmentation.random_erasing)
    rest = Augmentation(0, flip=augmentation.flip, mixup=augmentation.mixup, cutmix=augmentation.cutmix)
    return augment(mix_key, photos, labels, num_classes, rest)
