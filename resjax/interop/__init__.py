"""Weights in files: our own, and those of other libraries' networks."""

from resjax.interop.pretrained import from_pretrained, pretrained_info, save_pretrained
from resjax.interop.shipped import list_pretrained
from resjax.interop.torch_weights import load_torch_weights

__all__ = ["from_pretrained", "list_pretrained", "load_torch_weights", "pretrained_info", "save_pretrained"]
