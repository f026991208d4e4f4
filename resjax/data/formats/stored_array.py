"""An array in a file. Its shape and dtype are known, and compared with the file's size, before it is read."""

import math
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from resjax.errors import InputError

# Real images compress to a twentieth at best. A file that unpacks to more times its size than this is an attack.
_LARGEST_RATIO, _ALWAYS_UNPACKED = 250, 64 << 20


class StoredArray(NamedTuple):
    """An array that has not been read.

    Attributes:
      name: the key in an `.npz`, or the file's name without its suffix.
      origin: file (and key), for error messages.
      shape, dtype: from its header.
      read: reads it; raises `InputError` naming `origin`.
    """

    name: str
    origin: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def check_size(origin: str, shape: tuple[int, ...], dtype: np.dtype, found: int) -> None:
    """Raises `InputError` unless an array of this shape and dtype has `found` bytes, and the machine can hold them."""
    expected = math.prod(shape) * dtype.itemsize
    if expected != found:
        raise InputError(
            f"{origin}: truncated or damaged: its header says {dtype} {list(shape)}, {expected:,} bytes, but {found:,}"
            " follow; copy or save it again"
        )
    memory = memory_size()
    if expected > memory:
        raise InputError(
            f"{origin}: {dtype} {list(shape)} takes {expected:,} bytes, this machine has {memory:,} of memory; arrays"
            " are held in memory: take a part of them, or a machine with more"
        )


def memory_size() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_ratio(origin: str, packed: int, unpacked: int) -> None:
    """Raises `InputError` for compressed data that says it unpacks to far more than images do."""
    if unpacked > max(_ALWAYS_UNPACKED, _LARGEST_RATIO * packed):
        raise InputError(
            f"{origin}: refused: {packed:,} bytes say they unpack to {unpacked:,}, more than {_LARGEST_RATIO} times as"
            " many, which no images do; save it uncompressed if it is meant"
        )
