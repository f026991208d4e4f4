"""Augmentation inside the compiled step: of small images, of photographs and of masks."""

import importlib
from typing import TYPE_CHECKING, Any

from resjax.data.augment.options import Augmentation

if TYPE_CHECKING:
    from resjax.data.augment.basic import (
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

# JAX is imported with these: the options, which recipes read, do without.
_OTHER_HOMES = dict.fromkeys(("CORRUPTIONS", "corrupt"), "augment.corruptions") | {"Normalization": "normalization"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = _OTHER_HOMES.get(name, "augment.basic")
        return getattr(importlib.import_module(f"resjax.data.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
