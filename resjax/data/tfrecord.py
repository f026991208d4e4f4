"""TFRecord files without TensorFlow.

A file is a sequence of frames: length uint64, masked crc32c of the length uint32, data, masked crc32c of the data
uint32, all little-endian (the format comment of tensorflow/core/lib/io/record_writer.h).
"""

import struct
from pathlib import Path

import numpy as np

from resjax.errors import InputError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_REFLECTED_CASTAGNOLI = 0x82F63B78


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


def read_tfrecord(path: Path) -> list[bytes]:
    """Returns the records of a TFRecord file, in stored order, with every checksum verified.

    Raises:
      InputError: naming the file and the byte where it is truncated or corrupt.
    """
    data = path.read_bytes()
    starts, lengths, length_crcs, data_crcs = [], [], [], []
    position = 0
    while position < len(data):
        start = position + _HEADER.size
        length, length_crc = _HEADER.unpack_from(data, position) if start <= len(data) else (len(data), 0)
        end = start + length
        if end + _FOOTER.size > len(data):
            raise InputError(
                f"{path}: truncated or corrupt: the record at byte {position} does not end within the file's "
                f"{len(data)} bytes; delete the folder {path.parent} and prepare or copy it again"
            )
        starts.append(start)
        lengths.append(length)
        length_crcs.append(length_crc)
        data_crcs.append(_FOOTER.unpack_from(data, end)[0])
        position = end + _FOOTER.size
    starts, lengths = np.array(starts, np.int64), np.array(lengths, np.int64)
    buffer = np.frombuffer(data, np.uint8)
    wrong = masked_crc32c(buffer, starts - _HEADER.size, np.full_like(starts, 8)) != np.array(length_crcs, np.uint32)
    wrong |= masked_crc32c(buffer, starts, lengths) != np.array(data_crcs, np.uint32)
    if wrong.any():
        raise InputError(
            f"{path}: corrupt: the record at byte {starts[wrong][0] - _HEADER.size} does not match its checksum; "
            f"delete the folder {path.parent} and prepare or copy it again"
        )
    return [data[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
