"""Images in directories that TensorFlow Datasets prepared, as `array_record` or `tfrecord`: read by position.

A shard is opened when a worker first needs it. Checksums of single TFRecords are not compared: JPEG's decoder tells.
"""

import os
import struct
import threading
from pathlib import Path

import numpy as np

from resjax.data.images.encoded import BrokenImage
from resjax.data.tfds_directory import Shards, example_features
from resjax.errors import InputError

_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4


class RecordImages:
    """The images of one prepared split, in stored order.

    Args:
      shards: of the split.
      num_classes: labels are 0 .. num_classes - 1.

    Raises:
      InputError: for a shard that is missing or truncated.
    """

    def __init__(self, shards: Shards, num_classes: int):
        self._paths, self._format = [str(path) for path in shards.paths], shards.file_format
        self._num_classes = num_classes
        self._ends = np.cumsum(shards.lengths)
        for path in self._paths:
            if not os.path.isfile(path):
                raise InputError(f"{path}: missing; delete the folder {Path(path).parent} and prepare or copy it again")
        if self._format == "tfrecord":
            self._offsets = [_offsets(path, length) for path, length in zip(self._paths, shards.lengths, strict=True)]
        elif self._format != "array_record":
            raise InputError(f"{self._paths[0]}: file format {self._format!r}; prepare it as array_record or tfrecord")
        self._open()

    def _open(self):
        self._readers, self._lock = {}, threading.Lock()

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key not in ("_readers", "_lock")}

    def __setstate__(self, state):
        self.__dict__ = state
        self._open()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int) -> tuple[bytes, int]:
        try:
            features = example_features(self._record(*self._place(index)))
            label = features["label"].int64_list.value[0]
            image = features["image"].bytes_list.value[0]
        except Exception as error:  # A C++ reader and protobuf promise no types.
            raise BrokenImage(f"unreadable record: {(str(error) or type(error).__name__).splitlines()[0]}") from error
        if not 0 <= label < self._num_classes:
            raise BrokenImage(f"its label is {label}, expected 0 to {self._num_classes - 1}")
        return image, label

    def name(self, index: int) -> str:
        shard, record = self._place(index)
        return f"{self._paths[shard]}, record {record}"

    def _place(self, index):
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - (int(self._ends[shard - 1]) if shard else 0)

    def _record(self, shard: int, record: int) -> bytes:
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = self._reader(self._paths[shard])
            reader = self._readers[shard]
        if self._format == "array_record":
            return reader.read([record])[0]
        start, length = self._offsets[shard][record]
        return os.pread(reader.fileno(), int(length), int(start))

    def _reader(self, path: str):
        if self._format == "tfrecord":
            return open(path, "rb", buffering=0)
        from array_record.python.array_record_module import ArrayRecordReader

        return ArrayRecordReader(path)


def _offsets(path: str, length: int) -> np.ndarray:
    """Start and length in bytes of the data of each record, int64 [length, 2]."""
    found, position, size = [], 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(_HEADER.size)
            data = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else size
            found.append((position + _HEADER.size, data))
            position += _HEADER.size + data + _FOOTER_BYTES
    if position != size or len(found) != length:
        raise InputError(
            f"{path}: truncated or corrupt: {len(found)} of {length} records in {size} bytes; delete the folder"
            f" {Path(path).parent} and prepare or copy it again"
        )
    return np.array(found, np.int64).reshape(-1, 2)
