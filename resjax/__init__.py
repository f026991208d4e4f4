"""resjax: every network of the residual family, as pure Flax linen modules compiled by XLA."""

import importlib
import itertools
from typing import TYPE_CHECKING, Any

from resjax.errors import InputError

if TYPE_CHECKING:
    from resjax import analysis as analysis
    from resjax import data as data
    from resjax import interop as interop
    from resjax import layers as layers
    from resjax import models as models
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
    from resjax.jax_versions import known_issues
    from resjax.layers import (
        AttentionResiduals,
        ConstantScaling,
        DepthScaling,
        EffectivePaths,
        Gates,
        Gating,
        HyperConnections,
        LearnedScaling,
        ShortcutDropout,
        StochasticDepth,
    )
    from resjax.models import ModelInfo, create_model, list_models, model_info, register_model

__all__ = [
    "AttentionResiduals",
    "ConstantScaling",
    "DepthScaling",
    "EffectivePaths",
    "Gates",
    "Gating",
    "HyperConnections",
    "InputError",
    "LearnedScaling",
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

# Imported when they are first asked for: processes that only read images, and help texts, do not wait for JAX.
_LAZY = ("analysis", "data", "interop", "layers", "models", "train")
_HOMES = {
    "interop": (
        *("from_pretrained", "list_pretrained", "load_torch_weights", "preprocessing", "pretrained_info"),
        *("push_to_hub", "replace_head", "save_pretrained", "to_onnx", "to_stablehlo", "to_torch"),
    ),
    "jax_versions": ("known_issues",),
    "layers": (
        "AttentionResiduals",
        "ConstantScaling",
        "DepthScaling",
        "EffectivePaths",
        "Gates",
        "Gating",
        "HyperConnections",
        "LearnedScaling",
        "ShortcutDropout",
        "StochasticDepth",
    ),
    "models": ("ModelInfo", "create_model", "list_models", "model_info", "register_model"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *itertools.chain(*_HOMES.values())})
