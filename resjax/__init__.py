"""resjax: every network of the residual family, as pure Flax linen modules compiled by XLA."""

import importlib
from typing import TYPE_CHECKING, Any

from resjax.errors import InputError
from resjax.jax_versions import known_issues
from resjax.layers import ConstantScaling, EffectivePaths, Gates, Gating, ShortcutDropout, StochasticDepth
from resjax.models import ModelInfo, create_model, list_models, model_info, register_model

if TYPE_CHECKING:
    from resjax import analysis as analysis
    from resjax import data as data
    from resjax import interop as interop
    from resjax import train as train
    from resjax.interop import (
        from_pretrained,
        list_pretrained,
        load_torch_weights,
        preprocessing,
        pretrained_info,
        push_to_hub,
        replace_head,
        save_pretrained,
        to_onnx,
        to_stablehlo,
        to_torch,
    )

__all__ = [
    "ConstantScaling",
    "EffectivePaths",
    "Gates",
    "Gating",
    "InputError",
    "ModelInfo",
    "ShortcutDropout",
    "StochasticDepth",
    "create_model",
    "from_pretrained",
    "known_issues",
    "list_models",
    "list_pretrained",
    "load_torch_weights",
    "model_info",
    "preprocessing",
    "pretrained_info",
    "push_to_hub",
    "register_model",
    "replace_head",
    "save_pretrained",
    "to_onnx",
    "to_stablehlo",
    "to_torch",
]

__version__ = "0.1.0"

# Imported when they are first asked for: `import resjax` stays as light as the networks are.
_LAZY = ("analysis", "data", "interop", "train")
_OF_INTEROP = (
    *("from_pretrained", "list_pretrained", "load_torch_weights", "preprocessing", "pretrained_info", "push_to_hub"),
    *("replace_head", "save_pretrained", "to_onnx", "to_stablehlo", "to_torch"),
)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _OF_INTEROP:
        return getattr(importlib.import_module(f"{__name__}.interop"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_OF_INTEROP})
