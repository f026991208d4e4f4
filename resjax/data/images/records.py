"""Reads images by position from directories that TensorFlow Datasets prepared as `array_record` or `tfrecord`.

A shard is opened when a worker first needs it. The checksum of every record is verified.
"""

import hashlib
import os
import struct
import threading
from typing import Any

import numpy as np

from resjax.data.formats.tfds_directory import Shards, example_features
from resjax.data.formats.tfrecord import record_checksum, record_spans
from resjax.data.images.encoded import BrokenImage
from resjax.errors import InputError

_FOOTER = struct.Struct("<I")


class RecordImages:
    """The images of one prepared split, in stored order.

    Args:
      shards: of the split.
      num_classes: labels are 0 .. num_classes - 1.

    Raises:
      InputError: for a shard that is truncated.
    """

    def __init__(self, shards: Shards, num_classes: int):
        self._paths, self._format = [str(path) for path in shards.paths], shards.file_format
        self._num_classes = num_classes
        self._ends = np.cumsum(shards.lengths)
        if self._format == "tfrecord":
            self._offsets = [_offsets(path, length) for path, length in zip(self._paths, shards.lengths, strict=True)]
        self._open()

    def _open(self) -> None:
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __del__(self):
        for reader in self.__dict__.get("_readers", {}).values():
            reader.close()

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
        except Exception as error:  # The C++ reader and protobuf promise no exception types.
            raise BrokenImage(f"unreadable record: {(str(error) or type(error).__name__).splitlines()[0]}") from error
        if not 0 <= label < self._num_classes:
            raise BrokenImage(f"its label is {label}, expected 0 to {self._num_classes - 1}")
        return image, label

    def describe(self) -> dict[str, Any]:
        lengths = np.diff(self._ends, prepend=0).tolist()
        files = [(os.path.basename(path), os.path.getsize(path), length)
                 for path, length in zip(self._paths, lengths, strict=True)]  # fmt: skip
        fingerprint = hashlib.sha256(repr(sorted(files)).encode()).hexdigest()
        return {"images": len(self), "per_class": None, "fingerprint": fingerprint}

    def name(self, index: int) -> str:
        shard, record = self._place(index)
        return f"{self._paths[shard]}, record {record}"

    def _place(self, index: int) -> tuple[int, int]:
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
        framed = os.pread(reader.fileno(), int(length) + _FOOTER.size, int(start))
        data, checksum = framed[: int(length)], framed[int(length) :]
        if len(checksum) != _FOOTER.size or record_checksum(data) != _FOOTER.unpack(checksum)[0]:
            raise ValueError("it does not match its checksum")
        return data

    def _reader(self, path: str) -> Any:
        if self._format == "tfrecord":
            return open(path, "rb", buffering=0)
        from array_record.python.array_record_module import ArrayRecordReader

        return ArrayRecordReader(path)


def _offsets(path: str, length: int) -> np.ndarray:
    """Start and length in bytes of the data of each record, int64 [length, 2]."""
    with open(path, "rb") as file:
        found = record_spans(file, path, length)
    if len(found) != length:
        raise InputError(
            f"{path}: truncated or corrupt: {len(found)} of {length} records; prepare or copy the dataset again, into"
            " another folder"
        )
    return found
