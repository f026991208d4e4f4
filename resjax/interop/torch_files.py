"""State dictionaries of PyTorch from memory or from files, as NumPy arrays; no file's code is ever run."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from resjax.errors import InputError

TORCH_SUFFIXES = (".pth", ".pt", ".th", ".tar", ".bin", ".ckpt", ".pt7", ".pytorch")
"""Of files written by `torch.save`."""

_CONTAINERS = ("state_dict", "model", "net", "params")
_PREFIX = "module."  # of DataParallel


def read_state_dict(source: Any) -> dict[str, np.ndarray]:
    """The arrays of a state dictionary by name, out of their usual containers and without DataParallel's prefix.

    Args:
      source: a mapping from names to arrays of NumPy, JAX or PyTorch, or the path of a file: `.safetensors`, or one of
        `TORCH_SUFFIXES`.

    Raises:
      InputError: for anything else, and for a file that cannot be read or that holds more than plain arrays.
    """
    if isinstance(source, (str, os.PathLike)):
        source = _read_file(pathlib.Path(source))
    if not isinstance(source, Mapping):
        raise InputError(
            "state_dict: expected a mapping from names to arrays, or the path of a .safetensors or .pth file, got"
            f" {type(source).__name__}"
        )
    while (container := next((key for key in _CONTAINERS if isinstance(source.get(key), Mapping)), None)) is not None:
        statistics = source.get("stats", {}) if container == "params" else {}  # of szagoruyko's earlier checkpoints
        source = {**source[container], **statistics}
    for name, value in source.items():
        if not isinstance(name, str) or isinstance(value, Mapping):
            raise InputError(
                f"state_dict: expected names with arrays, but {name!r} has a {type(value).__name__}: give the mapping"
                f" of a module's state_dict() alone, or with it under one of {', '.join(map(repr, _CONTAINERS))}"
            )
    while source and all(name.startswith(_PREFIX) for name in source):
        source = {name.removeprefix(_PREFIX): value for name, value in source.items()}
    return {name: _as_numpy(value) for name, value in source.items()}


def _as_numpy(value):
    if hasattr(value, "detach"):  # a tensor of PyTorch, which need not be installed for all else
        value = value.detach().cpu()
        if value.is_floating_point() and value.element_size() < 4:
            value = value.float()  # NumPy has no bfloat16
        value = value.numpy()
    return np.asarray(value)


def _read_file(path: pathlib.Path) -> Any:
    if path.suffix != ".safetensors" and path.suffix not in TORCH_SUFFIXES:
        raise InputError(
            f"{path}: unknown kind of file {path.suffix!r}; known are .safetensors and, through PyTorch,"
            f" {', '.join(TORCH_SUFFIXES)}"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix != ".safetensors":
        return _read_torch(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from error


def _read_torch(path: pathlib.Path) -> Any:
    way_out = (
        "or convert it where PyTorch is: safetensors.torch.save_file(torch.load(path, weights_only=True),"
        " 'weights.safetensors')"
    )
    try:
        import torch
    except ImportError:
        raise InputError(f"{path}: this file needs PyTorch to be read: install torch, {way_out}") from None
    # Until 2.5 a crafted file runs code in spite of weights_only (CVE-2025-32434).
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        raise InputError(f"{path}: PyTorch {torch.__version__} does not read it safely: install torch>=2.6, {way_out}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or crafted file makes the reader raise anything
        raise InputError(
            f"{path}: not a file of plain arrays that torch.load(weights_only=True) reads: save the module's"
            f" state_dict() alone ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
