"""MATLAB's files of version 5: arrays of numbers, texts, and arrays of structures of them.

SciPy's reader is C code that trusts what a file says: a damaged one ends the interpreter. Format: MathWorks, MAT-File
Format, chapter 1.
"""

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

_MATRIX, _COMPRESSED = 14, 15
_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
    16: "u1",
    17: "u2",
}
_STRUCT, _CHAR, _NUMBERS, _COMPLEX = 2, 4, range(6, 16), 0x0800
_DEEPEST = 8


def read_mat_file(path: Path, most: int) -> dict[str, Any]:
    """The variables of a file: arrays, texts as `str`, structures as lists of dictionaries; others are passed over.

    Args:
      path: the file.
      most: bytes that the file, and each variable, unpack to at most.

    Raises:
      ValueError: for another file, a damaged one, and one that is larger.
    """
    if path.stat().st_size > most:
        raise ValueError("it is larger than such a file")
    with path.open("rb") as file:
        head = file.read(128)
        order = {b"IM": "<", b"MI": ">"}.get(head[126:])
        if order is None:
            raise ValueError("no MATLAB file of version 5")
        found = {}
        while len(tag := file.read(8)) == 8:
            kind, size = np.frombuffer(tag, f"{order}u4").tolist()
            data = file.read(size)
            if len(data) < size:
                raise ValueError("truncated")
            if kind == _COMPRESSED:
                data = _unpacked(data, most)
                kind, data, _ = _element(data, 0, order)
            if kind == _MATRIX:
                name, value = _matrix(data, order, 0)
                found[name] = value
    return found


def _unpacked(data: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, most)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacker.eof:
        raise ValueError("truncated, or larger than such a file unpacks to")
    return unpacked


def _element(data: bytes, place: int, order: str) -> tuple[int, bytes, int]:
    """Type and content of the element at `place`, and the place of the next; small ones are within their tag."""
    tag = np.frombuffer(data, f"{order}u4", 2, place)
    kind, size = tag.tolist()
    if kind >> 16:
        kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
        end = place + 8
    else:
        start = place + 8
        end = start + size + (-size % 8)
    content = data[start : start + size]
    if len(content) < size or (end == place + 8 and size > 4):
        raise ValueError("an element does not end within the file")
    return kind, content, end


def _numbers(kind: int, content: bytes, order: str) -> np.ndarray:
    if kind not in _TYPES:
        raise ValueError(f"numbers of the unknown type {kind}")
    return np.frombuffer(content, order + _TYPES[kind])


def _matrix(data: bytes, order: str, depth: int) -> tuple[str, Any]:
    """Name and value of a matrix; None for the value of a kind that is not read."""
    if not data:  # an empty field
        return "", None
    if depth > _DEEPEST:
        raise ValueError("structures within structures without end")
    _, flags, place = _element(data, 0, order)
    kind_of_sides, sides, place = _element(data, place, order)
    _, name, place = _element(data, place, order)
    flag = int(_numbers(6, flags[:4], order)[0])
    kind, is_complex = flag & 0xFF, flag & _COMPLEX
    shape = [int(side) for side in _numbers(kind_of_sides, sides, order)]
    if not 1 <= len(shape) <= 8 or min(shape) < 0:
        raise ValueError(f"an array of shape {shape[:8]}")
    if kind in _NUMBERS and not is_complex:
        of_content, content, _ = _element(data, place, order)
        values = _numbers(of_content, content, order)
        if values.size != math.prod(shape):
            raise ValueError(f"{values.size} numbers in an array of shape {shape}")
        value: Any = values.reshape(shape, order="F")
    elif kind == _CHAR:
        of_content, content, _ = _element(data, place, order)
        value = "".join(map(chr, _numbers(of_content, content, order).tolist()))
    elif kind == _STRUCT:
        value = _structures(data, place, order, math.prod(shape), depth)
    else:
        value = None
    return name.decode("latin1"), value


def _structures(data: bytes, place: int, order: str, number: int, depth: int) -> list[dict[str, Any]]:
    of_length, length, place = _element(data, place, order)
    _, names, place = _element(data, place, order)
    width = int(_numbers(of_length, length, order)[0])
    if width <= 0 or number * 8 > len(data):
        raise ValueError("structures without fields, or more than the file has")
    fields = [
        names[start : start + width].partition(b"\0")[0].decode("latin1") for start in range(0, len(names), width)
    ]
    found: list[dict[str, Any]] = []
    for _ in range(number):
        one = {}
        for field in fields:
            _, content, place = _element(data, place, order)
            one[field] = _matrix(content, order, depth + 1)[1]
        found.append(one)
    return found
