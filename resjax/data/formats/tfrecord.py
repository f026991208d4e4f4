"""TFRecord files without TensorFlow.

A file is a sequence of frames: length uint64, masked crc32c of the length uint32, data, masked crc32c of the data
uint32, all little-endian (the format comment of tensorflow/core/lib/io/record_writer.h).
"""

import functools
import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from resjax.errors import InputError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_LENGTH_BYTES = 8
_REFLECTED_CASTAGNOLI = 0x82F63B78
_PIECE = 64  # bytes of a record whose checksums advance independently


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_REFLECTED_CASTAGNOLI), table >> 1)
    return table


_TABLE = _crc_table()


def masked_crc32c(buffer: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns uint32 `[n]`: the masked crc32c of each `buffer[starts[i] : starts[i] + lengths[i]]` (uint8).

    Python is too slow to walk every byte of a shard, so all records advance together, one byte at a time.
    """
    by_length = np.argsort(-lengths, kind="stable")
    starts, lengths = starts[by_length], lengths[by_length]
    crc = np.full(len(starts), 0xFFFFFFFF, np.uint32)
    active = len(starts)
    for position in range(int(lengths.max(initial=0))):
        while lengths[active - 1] <= position:
            active -= 1
        running = crc[:active]
        crc[:active] = _TABLE[(running ^ buffer[starts[:active] + position]) & 0xFF] ^ (running >> 8)
    crc = ~crc
    masked = np.empty_like(crc)
    masked[by_length] = ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
    return masked


def record_checksum(record: bytes) -> int:
    """The masked crc32c of one record, as long as an encoded image.

    The checksums of its pieces of 64 bytes advance together, two bytes per step. Then neighbours are joined until one
    is left: a checksum is linear, so a table moves it past the bytes that follow (zlib's crc32_combine).
    """
    data = np.frombuffer(record, np.uint8)
    if len(data) < 4:
        return int(masked_crc32c(data, np.zeros(1, np.int64), np.array([len(data)]))[0])
    pieces = 1 << max(-(-len(data) // _PIECE) - 1, 0).bit_length()
    # Zeros in front of the data change nothing, and inverting the first 32 bits is the start value of all ones.
    padded = np.zeros(pieces * _PIECE, np.uint8)
    padded[pieces * _PIECE - len(data) :] = data
    padded[pieces * _PIECE - len(data) :][:4] ^= 0xFF
    columns = np.ascontiguousarray(padded.view("<u2").reshape(pieces, _PIECE // 2).T)
    crc, pairs = np.zeros(pieces, "<u4"), _pair_table()
    index, looked_up, low = np.empty(pieces, np.intp), np.empty_like(crc), crc.view("<u2")[::2]
    for column in columns:
        # Writes into existing memory: this runs for every image.
        np.bitwise_xor(low, column, out=index)
        pairs.take(index, out=looked_up, mode="wrap")
        crc >>= 16
        crc ^= looked_up
    level = 0
    while len(crc) > 1:
        crc, level = _move(crc[::2], _moved(level)) ^ crc[1::2], level + 1
    value = int(~crc[0])
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _pair_table() -> np.ndarray:
    """The change of a checksum by two bytes, uint32 [65536]."""
    pairs = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(2):
        pairs = _TABLE[pairs & 0xFF] ^ (pairs >> 8)
    return pairs


@functools.cache
def _moved(level: int) -> np.ndarray:
    """Each byte of a checksum after 64 * 2**level zero bytes, uint32 [4, 256]."""
    states = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32))[:, None]
    if level == 0:
        for _ in range(_PIECE):
            states = _TABLE[states & 0xFF] ^ (states >> 8)
        return states
    half = _moved(level - 1)
    return _move(_move(states, half), half)


def _move(crc: np.ndarray, table: np.ndarray) -> np.ndarray:
    return table[0][crc & 0xFF] ^ table[1][crc >> 8 & 0xFF] ^ table[2][crc >> 16 & 0xFF] ^ table[3][crc >> 24]


def record_spans(file: BinaryIO, name: str, most: int) -> np.ndarray:
    """Finds the records of an open TFRecord file by its headers. No data is read, and no checksum is compared.

    Args:
      file: a seekable binary file.
      name: for the error message.
      most: number of records after which the search ends: a file of zeros has one in each 16 bytes.

    Returns:
      int64 [n, 2], n at most `most` + 1: first byte and number of bytes of the data of each record, in stored order.

    Raises:
      InputError: where a record does not end within the file.
    """
    spans: list[tuple[int, int]] = []
    size, position = file.seek(0, os.SEEK_END), 0
    while position < size and len(spans) <= most:
        file.seek(position)
        header = file.read(_HEADER.size)
        length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else size
        end = position + _HEADER.size + length + _FOOTER.size
        if end > size:
            raise InputError(
                f"{name}: truncated or corrupt: the record at byte {position} does not end within the file's {size}"
                " bytes; prepare or copy it again"
            )
        spans.append((position + _HEADER.size, length))
        position = end
    return np.array(spans, np.int64).reshape(-1, 2)


def read_tfrecord(path: Path, most: int) -> list[bytes]:
    """Returns the records of a TFRecord file, in stored order, with every checksum verified.

    Args:
      path: the file.
      most: number of records that are read, and one more where there are more.

    Raises:
      InputError: naming the file and the byte where it is truncated or corrupt.
    """
    data = path.read_bytes()
    spans = record_spans(io.BytesIO(data), str(path), most)
    starts, lengths = spans.T
    buffer = np.frombuffer(data, np.uint8)
    wrong = _stored(buffer, starts - _FOOTER.size) != masked_crc32c(
        buffer, starts - _HEADER.size, np.full_like(starts, _LENGTH_BYTES)
    )
    wrong |= _stored(buffer, starts + lengths) != masked_crc32c(buffer, starts, lengths)
    if wrong.any():
        raise InputError(
            f"{path}: corrupt: the record at byte {starts[wrong][0] - _HEADER.size} does not match its checksum; "
            "prepare or copy it again"
        )
    return [data[start : start + length] for start, length in spans.tolist()]


def _stored(buffer: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The checksums that are stored at these bytes: uint32 [n]."""
    return buffer[positions[:, None] + np.arange(_FOOTER.size)].view("<u4")[:, 0]
