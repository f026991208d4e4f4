"""Files in the formats that are read here, sound ones and such as say what cannot be; none that does harm."""

import functools
import gzip
import io
import json
import random
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np

_FEATURES = "tensorflow_datasets.core.features"


def pixels(*shape: int) -> np.ndarray:
    """uint8 of this shape, the same in every call."""
    return np.random.default_rng(shape).integers(0, 256, shape).astype(np.uint8)


@functools.cache
def gzip_of_zeros() -> bytes:
    """3 GB of zeros in 3 MB."""
    return gzip.compress(bytes(64 << 20), 1) * 48


def archive(files: dict[str, bytes]) -> bytes:
    """A .tar.gz with these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), 1)


def described(folder: Path, name: str, version: str, kind: str, splits: dict[str, int], classes: int) -> Path:
    """A prepared directory without its shards."""
    target = folder / name / version
    target.mkdir(parents=True)
    parts = [
        {
            "name": split,
            "shardLengths": [str(number)],
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        for split, number in splits.items()
    ]
    info = {"name": name.split("/")[0], "version": version, "fileFormat": kind, "splits": parts}
    (target / "dataset_info.json").write_text(json.dumps(info))
    features = {
        "image": {"pythonClassName": f"{_FEATURES}.image_feature.Image", "image": {"dtype": "uint8"}},
        "label": {
            "pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(classes)},
        },
    }
    whole = {"pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict", "featuresDict": {"features": features}}
    (target / "features.json").write_text(json.dumps(whole))
    (target / "label.labels.txt").write_text("".join(f"class {number}\n" for number in range(classes)))
    return target


def example(**features: bytes | int) -> bytes:
    """A serialized `tf.train.Example`."""
    from tensorflow_datasets.proto import tf_example_pb2

    made = tf_example_pb2.Example()
    for name, value in features.items():
        feature = made.features.feature[name]
        (feature.bytes_list if isinstance(value, bytes) else feature.int64_list).value.append(value)
    return made.SerializeToString()


def framed(records: list[bytes]) -> bytes:
    """A TFRecord file of these records."""
    from resjax.data.formats.tfrecord import record_checksum

    data = b""
    for record in records:
        length = struct.pack("<Q", len(record))
        data += length + struct.pack("<I", record_checksum(length)) + record
        data += struct.pack("<I", record_checksum(record))
    return data


def png(rng: random.Random, width: int, height: int) -> bytes:
    """A PNG whose header says this size, with zeros that go on for some of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    depth, colour = rng.choice(((8, 2), (8, 6), (16, 0), (16, 6), (1, 0), (8, 3), (4, 3)))
    content = zlib.compress(bytes(min(width * height // 2, 20 << 20)), 1)
    palette = chunk(b"PLTE", bytes(3 * rng.choice((1, 256)))) if colour == 3 else b""
    more = rng.choice(
        (b"", chunk(b"tEXt", b"a\0" + bytes(99)), chunk(b"tRNS", bytes(6)), chunk(b"sBIT", b"\x0c\0\0\0"))
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + palette + more + chunk(b"IDAT", content) + chunk(b"IEND", b"")
