"""Reads files of other libraries' weights. Their content tells their kind, and no code in them is ever run."""

import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from resjax.errors import InputError, printable
from resjax.interop.file_kinds import Kind, readable_kind

TORCH_SUFFIXES = (".pth", ".pt", ".th", ".tar", ".bin", ".ckpt", ".pt7", ".pytorch", ".t7", ".pkl", ".pyth")
"""Usual suffixes of `torch.save`. They only decide what a missing path was meant to be."""

_SAFETENSORS_DAMAGE = (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, MemoryError)


def read_file(path: pathlib.Path) -> Mapping[str, Any] | Any:
    """The content of a safetensors file, or of one of `torch.save`.

    Raises:
      InputError: for a file of another kind, one that cannot be read, or one that holds more than plain data.
    """
    return read_safetensors(path) if readable_kind(path) is Kind.SAFETENSORS else _read_torch(path)


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name; raises InputError if it cannot be read."""
    try:
        return load_file(path)
    except _SAFETENSORS_DAMAGE as error:
        if match := re.search(rb'"dtype":\s*"(F8_\w+|F4|F6_\w+)"', _header(path)):
            reason = f"holds arrays of {match[1].decode()}, which are not read; save it in float32"
            raise InputError(f"{path}: {reason}") from None
        reason = printable(error, 200)
        raise InputError(f"{path}: not a readable safetensors file ({reason}); download or save it again") from None


def _header(path):
    try:
        with open(path, "rb") as stream:
            return stream.read(min(int.from_bytes(stream.read(8), "little"), 10_000_000))
    except OSError:
        return b""


def _read_torch(path: pathlib.Path) -> Any:
    way_out = (
        "or convert it where PyTorch is: safetensors.torch.save_file(torch.load(path, weights_only=True),"
        " 'weights.safetensors')"
    )
    try:
        import torch
    except ImportError:
        raise InputError(f"{path}: this file needs PyTorch to be read: install torch, {way_out}") from None
    # In spite of weights_only a crafted file can run code up to 2.5 (CVE-2025-32434), and write into memory up to 2.9
    # (CVE-2026-24747).
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10):
        raise InputError(f"{path}: PyTorch {torch.__version__} does not read it safely: install torch>=2.10, {way_out}")
    try:
        with warnings.catch_warnings():  # about details of the format, which the user cannot change
            warnings.simplefilter("ignore")
            with open(path, "rb") as stream:  # given a path, PyTorch tells the kind of a file by its suffix
                return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or crafted file makes the reader raise any type
        raise InputError(f"{path}: {_torch_trouble(str(error))}") from None


def _torch_trouble(message: str) -> str:
    """A short message in place of PyTorch's, which advises running the file's code and may contain terminal codes."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", message)
    refused = re.search(r"(?:GLOBAL|global:?|class:?) ([\w.]+\.[\w.]+)", message)
    if refused:
        return (
            f"holds an object of {printable(refused[1])}, and no object but plain arrays is made from a file: where it"
            " was made, or where you trust it, torch.save the module's state_dict() alone"
        )
    if "Unsupported" in message or "weights_only" in message:
        return "holds more than plain arrays: torch.save the module's state_dict() alone"
    lines = message.strip().splitlines()
    reason = f" ({printable(lines[0], 160)})" if lines else ""
    return f"cut off or damaged, torch.load(weights_only=True) cannot read it{reason}; download or save it again"
