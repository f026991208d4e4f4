"""Weights in files: our own, and those of other libraries' networks."""

from resjax.interop.pretrained import from_pretrained, save_pretrained
from resjax.interop.torch_weights import load_torch_weights

__all__ = ["from_pretrained", "load_torch_weights", "save_pretrained"]
