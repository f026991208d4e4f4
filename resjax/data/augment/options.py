"""What augmentation may do, as values: recipes and programs that only read data need no JAX for them."""

import dataclasses
from typing import Literal

from resjax.errors import InputError

IGNORED = 255
"""Label of pixels that do not count."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Augmentation of a training image. A field at zero or False does nothing."""

    crop_padding: int = 4
    """Pixels added on each side before a random crop back to the original size."""
    padding_mode: Literal["zero", "reflect"] = "zero"
    """Fill of the added pixels: zero, which after normalisation is the mean colour, or the reflected image."""
    flip: bool = True
    """Mirror left to right with probability 1/2."""
    cutout: int = 0
    """Side in pixels of a square set to zero, clipped to the image (DeVries & Taylor 2017, arXiv 1708.04552)."""
    mixup: float = 0.0
    """Alpha of mixup's Beta(alpha, alpha) (Zhang et al. 2018, arXiv 1710.09412)."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta(alpha, alpha) (Yun et al. 2019, arXiv 1905.04899); with mixup, each image gets one."""
    alternating_flip: bool = False
    """Instead of flip: mirror one half of the images in even epochs and the other half in odd epochs, so that two
    epochs show each image both ways (Jordan 2024, arXiv 2404.00498, section 3.6)."""

    def __post_init__(self):
        if self.flip and self.alternating_flip:
            raise InputError("flip, alternating_flip: choose one")
        if self.padding_mode not in ("zero", "reflect"):
            raise InputError(f"padding_mode: expected 'zero' or 'reflect', got {self.padding_mode!r}")
        for name in ("crop_padding", "cutout", "mixup", "cutmix"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: expected a value >= 0, got {getattr(self, name)}")


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


@dataclasses.dataclass(frozen=True)
class MaskAugmentation:
    """Augmentation of a training image and its mask."""

    crop: int = 500
    """Side in pixels of the square crop; 0 keeps the size of the canvas, without scaling or cropping."""
    scale_min: float = 0.7
    """Minimum factor of a random scaling, drawn uniformly."""
    scale_max: float = 1.3
    """Maximum factor."""
    flip: bool = True
    """Mirror left to right with probability 1/2."""
    brightness: float = 0.0
    """Maximum shift of the normalised colours, drawn uniformly from [-b, b]."""
    contrast: float = 0.0
    """Maximum change c of the contrast; its factor is drawn uniformly from [1 - c, 1 + c]."""
    saturation: float = 0.0
    """Maximum change s of the saturation (distance to gray); its factor is drawn uniformly from [1 - s, 1 + s]."""

    def __post_init__(self):
        if not 0 < self.scale_min <= self.scale_max:
            raise InputError(f"scale_min, scale_max: expected 0 < min <= max, got {self.scale_min}, {self.scale_max}")
        for name in ("crop", "brightness", "contrast", "saturation"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: expected a value >= 0, got {getattr(self, name)}")
