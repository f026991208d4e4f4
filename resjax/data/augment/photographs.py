"""Augmentation of a training photograph inside the step, from uint8 crop to normalised image and mixed target."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from resjax.data.augment import Augmentation, augment
from resjax.data.augment.colour import colour_jitter, lighting, rand_augment, random_erasing, trivial_augment
from resjax.data.normalization import Normalization
from resjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class PhotoAugmentation:
    """Augmentation of a training photograph after its crop. A field at zero, False or none does nothing."""

    flip: bool = True
    """Mirror left to right with probability 1/2."""
    policy: Literal["none", "trivial_augment", "rand_augment"] = "none"
    """TrivialAugment (wide), or RandAugment of 2 operations."""
    magnitude: int = 9
    """RandAugment: strength, 0 to 30."""
    colour_jitter: float = 0.0
    """Maximum relative change of brightness, contrast and saturation, in random order."""
    lighting: float = 0.0
    """Standard deviation of the weights of the colours' principal components."""
    random_erasing: float = 0.0
    """Probability of erasing a rectangle."""
    mixup: float = 0.0
    """Alpha of mixup's Beta(alpha, alpha)."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta(alpha, alpha); with mixup, each image gets one."""

    def __post_init__(self):
        if self.policy not in ("none", "trivial_augment", "rand_augment"):
            raise InputError(f"policy: expected 'none', 'trivial_augment' or 'rand_augment', got {self.policy!r}")
        if not 0 <= self.magnitude <= 30:
            raise InputError(f"magnitude: expected 0 to 30, got {self.magnitude}")
        for name, most in (("colour_jitter", 1), ("lighting", float("inf")), ("random_erasing", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{name}: expected a value from 0 to {most}, got {getattr(self, name)}")
        for name in ("mixup", "cutmix"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: expected a value >= 0, got {getattr(self, name)}")


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
