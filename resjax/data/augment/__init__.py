"""Augmentation inside the compiled step: of small images, of photographs and of masks."""

from resjax.data.augment.basic import (
    Augmentation,
    alternation,
    augment,
    cutmix,
    cutout,
    mirrored_and_shifted,
    mixup,
    random_crop,
    random_flip,
)
from resjax.data.augment.corruptions import CORRUPTIONS, corrupt
from resjax.data.normalization import Normalization

__all__ = [
    "CORRUPTIONS",
    "Augmentation",
    "Normalization",
    "alternation",
    "augment",
    "corrupt",
    "cutmix",
    "cutout",
    "mirrored_and_shifted",
    "mixup",
    "random_crop",
    "random_flip",
]
