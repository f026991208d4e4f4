"""Datasets that TensorFlow Datasets has prepared, as `array_record` or `tfrecord`, read without TensorFlow.

The layout is `NAME/[CONFIG/]VERSION/dataset_info.json` beside the shards (tensorflow.org/datasets/external_tfrecord).
"""

import io
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resjax.data.catalog import DatasetInfo
from resjax.data.source import Dataset, Source
from resjax.data.tfrecord import read_tfrecord
from resjax.errors import InputError

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_ID = re.compile(rb"_(\d+)$")
_INFO_FILE = "dataset_info.json"


def find_prepared(info: DatasetInfo, split: str, root: Path) -> Source | None:
    """Returns `split` of the highest prepared version of a dataset.

    Args:
      info: the dataset.
      split: the split.
      root: a TFDS data directory, the dataset's folder in it, or one version's folder.
    """
    version = version_directory(info.name, root)
    if version is None:
        return None
    files = tuple(sorted(path for path in version.iterdir() if path.is_file()))
    return Source(version, files, partial(_read, info, split, version), may_be_partial=True)


def version_directory(name: str, root: Path) -> Path | None:
    """The folder of the highest prepared version of a dataset, see `find_prepared`, or None."""
    if _VERSION.fullmatch(root.name) and (root / _INFO_FILE).is_file():
        return root if _declared_name(root) == name else None
    folder = root if root.name == name and not (root / name).is_dir() else root / name
    candidates = [path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{_INFO_FILE}")]
    versions = [path for path in candidates if _VERSION.fullmatch(path.name)]
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def _declared_name(version: Path) -> str:
    path = version / _INFO_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable TFDS description ({error}); copy the folder again") from error


class Shards(NamedTuple):
    """The files of a prepared split.

    Attributes:
      paths: of the shards.
      lengths: number of records of each.
      file_format: "array_record", "tfrecord", or another that TFDS writes.
      class_names: of the labels; empty where the split has none.
    """

    paths: tuple[Path, ...]
    lengths: tuple[int, ...]
    file_format: str
    class_names: tuple[str, ...]


def describe_split(version: Path, split: str) -> Shards:
    """The files of a prepared split; nothing of them is read.

    Raises:
      InputError: for a folder that TFDS cannot describe, or that lacks the split.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            f"{version}: reading a prepared TFDS directory needs {error.name}: "
            "pip install tensorflow-datasets array-record importlib_resources pillow"
        ) from error
    try:
        described = tfds.builder_from_directory(version).info
        split_info = described.splits.get(split)
        file_format = described.file_format.value
    except Exception as error:  # TFDS raises many types over a damaged dataset_info.json or features.json.
        raise InputError(
            f"{version}: not a readable TFDS directory ({error}); delete it and prepare or copy it again"
        ) from error
    if split_info is None:
        raise InputError(f"{version}: has only the splits {', '.join(described.splits)}; {split!r} was not prepared")
    label = described.features["label"] if "label" in described.features else None
    names = getattr(label, "names", None) or ()
    paths = tuple(map(Path, split_info.filepaths))
    return Shards(paths, tuple(split_info.shard_lengths), file_format, tuple(names))


def open_split(version: Path, split: str) -> tuple[int, Iterator[tuple[Path, bytes]]]:
    """Number of examples of a prepared split, and each with its shard: a serialized `tf.train.Example`.

    Raises:
      InputError: as `describe_split`; while iterating, for a shard that is missing, truncated or corrupt.
    """
    shards = describe_split(version, split)
    records = (
        (path, record)
        for path, length in zip(shards.paths, shards.lengths, strict=True)
        for record in _shard_records(path, length, shards.file_format)
    )
    return sum(shards.lengths), records


def example_features(record: bytes):
    """The features of a serialized `tf.train.Example`, by name: protocol buffers with bytes_list and int64_list."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(record).features.feature


def _read(info: DatasetInfo, split: str, version: Path) -> Dataset:
    size, records = open_split(version, split)
    images, labels = np.empty((size, *info.image_shape), np.uint8), np.empty(size, np.int32)
    positions = np.empty(size, np.int64)
    stored = 0
    for path, record in records:
        try:
            images[stored], labels[stored], identifier = _decode(record, info)
        except InputError as error:
            raise InputError(f"{path}: {error}; delete {version} and prepare or copy it again") from error
        match = _ID.search(identifier)
        # Without ids (older TFDS versions, MNIST) the stored order is the only order there is.
        positions[stored] = int(match[1]) if match else stored
        stored += 1
    order = np.argsort(positions, kind="stable")
    if len(np.unique(positions)) != size:
        raise InputError(f"{version}: ids of {split} occur twice; delete it and prepare it again")
    if np.array_equal(order, np.arange(size)):
        return Dataset(images, labels)
    return Dataset(images[order], labels[order])


def _shard_records(path: Path, length: int, file_format: str) -> Iterator[bytes]:
    """Yields the `length` serialized examples of one shard; raises `InputError` naming it if it has others."""
    way_out = f"delete the folder {path.parent} and prepare or copy it again"
    if not path.is_file():
        raise InputError(f"{path}: missing; {way_out}")
    if file_format == "tfrecord":
        records = read_tfrecord(path)
    elif file_format == "array_record":
        try:
            from array_record.python.array_record_module import ArrayRecordReader
        except ImportError as error:  # TFDS requires it on Linux only.
            raise InputError(f"{path}: array_record is missing ({error}): pip install array-record") from error
        try:
            reader = ArrayRecordReader(str(path))
            records = reader.read_all()
            reader.close()
        except Exception as error:  # RuntimeError today; a C++ reader promises no type.
            raise InputError(f"{path}: truncated or corrupt ({error}); {way_out}") from error
    else:
        raise InputError(f"{path.parent}: file format {file_format!r}; prepare it as array_record or tfrecord")
    if len(records) != length:
        raise InputError(f"{path}: truncated or corrupt: {len(records)} of {length} records; {way_out}")
    yield from records


def _decode(record: bytes, info: DatasetInfo) -> tuple[np.ndarray, int, bytes]:
    """Returns image `[H, W, C]`, label and id (empty if the example has none).

    The protocol buffer and the PNG are read directly: TFDS's own decoder takes twice as long, and would decode with
    OpenCV where that happens to be installed.
    """
    from PIL import Image

    try:
        features = example_features(record)
        image = np.asarray(Image.open(io.BytesIO(features["image"].bytes_list.value[0])))
        label = features["label"].int64_list.value[0]
        identifier = features["id"].bytes_list.value[0] if "id" in features else b""
    except Exception as error:  # protobuf's and Pillow's decoders raise their own types.
        raise InputError(f"undecodable example ({type(error).__name__}: {error})") from error
    if image.ndim == 2:
        image = image[..., None]
    if image.shape != info.image_shape or image.dtype != np.uint8:
        raise InputError(f"expected uint8 images {info.image_shape}, found {image.dtype} {image.shape}")
    if not 0 <= label < info.num_classes:
        raise InputError(f"labels of {info.name} are 0 to {info.num_classes - 1}, found {label}")
    return image, label, identifier
