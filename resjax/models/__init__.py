"""Networks of the residual family and their names."""

# ruff: noqa: F405 (the names are those of `families`)

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resjax.models.families import *  # noqa: F403

__all__ = [
    "VGG",
    "DenseNet",
    "PublishedFacts",
    "Highway",
    "ModelInfo",
    "Network",
    "Paper",
    "Part",
    "PreActResNet",
    "PublishedResult",
    "ResNeXt",
    "ResNet",
    "SegmentationNetwork",
    "SpeedResNet",
    "WideResNet",
    "WiderResNet",
    "convert_form",
    "create_model",
    "create_segmentation_model",
    "list_models",
    "load_trunk",
    "model_info",
    "multiply_adds",
    "outline",
    "parameter_count",
    "register_model",
    "restack",
    "stacked_stages",
    "unrolled",
    "upsample",
    "weighted_layers",
]


# Flax and JAX are imported with the networks: the papers' tables, which recipes read, do without.
def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.families"), name)
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
