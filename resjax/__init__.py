"""resjax: every network of the residual family, as pure Flax linen modules compiled by XLA."""

from resjax.errors import InputError
from resjax.interop import from_pretrained, list_pretrained, load_torch_weights, pretrained_info, save_pretrained
from resjax.layers import ConstantScaling, EffectivePaths, Gates, Gating, ShortcutDropout, StochasticDepth
from resjax.models import ModelInfo, create_model, list_models, model_info

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
    "list_models",
    "list_pretrained",
    "load_torch_weights",
    "model_info",
    "pretrained_info",
    "save_pretrained",
]
