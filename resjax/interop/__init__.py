"""Weights in files: our own, those of other libraries' networks, and of the Hugging Face hub."""

from resjax.interop.exported import to_onnx, to_stablehlo
from resjax.interop.hub import push_to_hub
from resjax.interop.pretrained import from_pretrained, preprocessing, pretrained_info, replace_head, save_pretrained
from resjax.interop.sources import list_pretrained
from resjax.interop.torch_weights import load_torch_weights, to_torch

__all__ = [
    "from_pretrained",
    "list_pretrained",
    "load_torch_weights",
    "preprocessing",
    "pretrained_info",
    "push_to_hub",
    "replace_head",
    "save_pretrained",
    "to_onnx",
    "to_stablehlo",
    "to_torch",
]
