"""Reads datasets that TensorFlow Datasets prepared as `array_record` or `tfrecord`, without TensorFlow.

The layout is `NAME/[CONFIG/]VERSION/dataset_info.json` beside the shards (tensorflow.org/datasets/external_tfrecord).
"""

import io
import math
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resjax.data.catalog import DatasetInfo
from resjax.data.formats.stored_array import memory_size
from resjax.data.formats.text_files import read_json, read_text
from resjax.data.formats.tfrecord import read_tfrecord
from resjax.data.source import Dataset, Source
from resjax.errors import InputError, printable

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_ID = re.compile(rb"_(\d+)$")
# Bytes: PNG takes little more than the pixels; and what a file has beside its records.
_BESIDE_PIXELS, _BESIDE_RECORDS = 4096, 1 << 20
_MOST_CLASSES = 1 << 20
_INFO_FILE, _FEATURES_FILE, _NAMES_FILE = "dataset_info.json", "features.json", "label.labels.txt"
# TFDS imports the module of any class that features.json names. Nothing is imported here, and these alone are read.
_FEATURES = {
    f"tensorflow_datasets.core.features.{name}"
    for name in (
        "audio_feature.Audio",
        "bounding_boxes.BBoxFeature",
        "class_label_feature.ClassLabel",
        "dataset_feature.Dataset",
        "feature.Tensor",
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "labeled_image.LabeledImage",
        "scalar.Scalar",
        "sequence_feature.Sequence",
        "tensor_feature.Tensor",
        "text_feature.Text",
        "translation_feature.Translation",
        "translation_feature.TranslationVariableLanguages",
        "video_feature.Video",
    )
}


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


def data_roots(data_dir: str | os.PathLike | None) -> tuple[Path, Path]:
    """The two folders where a dataset may be: a data directory, and `tensorflow_datasets` inside it.

    With `data_dir` None it is the environment variable `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
    """
    root = Path(os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))
    return root, root / "tensorflow_datasets"


def find_version(name: str, roots: tuple[Path, ...]) -> Path | None:
    """`version_directory` in the first of the folders that has one."""
    return next((found for root in roots if (found := version_directory(name, root))), None)


def version_directory(name: str, root: Path) -> Path | None:
    """The folder of the highest prepared version of a dataset, see `find_prepared`, or None."""
    if _VERSION.fullmatch(root.name) and (root / _INFO_FILE).is_file():
        return root if _declared_name(root) == name else None
    folder = root if root.name == name and not (root / name).is_dir() else root / name
    candidates = [path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{_INFO_FILE}")]
    versions = [path for path in candidates if _VERSION.fullmatch(path.name)]
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def _declared_name(version: Path) -> str:
    file = version / _INFO_FILE
    try:
        described = read_json(file)
    except InputError as error:
        raise InputError(f"{file}: not a readable TFDS description ({error}); copy the folder again") from None
    if not isinstance(described, dict) or not isinstance(described.get("name"), str):
        raise InputError(f"{file}: not a readable TFDS description (it says no name); copy the folder again")
    return described["name"]


class Shards(NamedTuple):
    """The files of a prepared split.

    Attributes:
      paths: of the shards.
      lengths: number of records of each.
      file_format: "array_record" or "tfrecord".
      class_names: of the labels; empty if the split has none.
    """

    paths: tuple[Path, ...]
    lengths: tuple[int, ...]
    file_format: str
    class_names: tuple[str, ...]


def describe_split(version: Path, split: str) -> Shards:
    """The files of a prepared split. None of them is read.

    Raises:
      InputError: for a folder that TFDS cannot describe, that lacks the split or a shard, or has another format.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            f"{version}: reading a prepared TFDS directory needs {error.name}: "
            "pip install tensorflow-datasets array-record importlib_resources pillow"
        ) from error
    try:
        names = _class_names(version)
        read_json(version / _INFO_FILE)  # TFDS would wait for a pipe
        described = tfds.core.dataset_info.read_proto_from_builder_dir(version)
        file_format = described.file_format or "tfrecord"
        template = tfds.core.ShardedFileTemplate(
            dataset_name=described.name, data_dir=version, filetype_suffix=file_format
        )
        splits = tfds.core.splits.SplitDict.from_proto(described.splits, template)
        split_info = splits.get(split)
        files = [] if split_info is None else list(zip(split_info.filepaths, split_info.shard_lengths, strict=True))
    except Exception as error:  # TFDS raises many types over a damaged dataset_info.json.
        raise InputError(
            f"{version}: not a readable TFDS directory ({printable(error, 400)}); prepare or copy it again"
        ) from error
    if split_info is None:
        raise InputError(f"{version}: has only the splits {printable(', '.join(splits))}; {split!r} was not prepared")
    if file_format not in ("array_record", "tfrecord"):
        raise InputError(f"{version}: file format {printable(file_format)!r}; prepare it as array_record or tfrecord")
    for path, length in files:
        if not os.path.isfile(path):
            raise InputError(f"{printable(path, 300)}: missing; prepare or copy {version} again")
        if not 0 <= length <= os.path.getsize(path):  # a record takes more than a byte
            raise InputError(
                f"{path}: truncated or corrupt: {_INFO_FILE} says it has {length} records, which do not fit into it;"
                f" prepare or copy {version} again"
            )
    if not any(length for _, length in files):
        raise InputError(f"{version}: the split {split!r} is empty; prepare it again")
    paths, lengths = tuple(Path(path) for path, _ in files), tuple(length for _, length in files)
    return Shards(paths, lengths, file_format, names)


def _class_names(version: Path) -> tuple[str, ...]:
    """Names of the labels; numbers where features.json says only how many there are, and () where there are none.

    Raises:
      InputError: for a features.json that cannot be read, or that names a class that is not one of TFDS's features.
    """
    path = version / _FEATURES_FILE
    number: Any = 0
    waiting = [("", read_json(path))]
    while waiting:
        name, part = waiting.pop()
        if isinstance(part, list):
            waiting += [(name, item) for item in part]
        if not isinstance(part, dict):
            continue
        for key in ("pythonClassName", "python_class_name", "type"):  # the last until TFDS 4.4
            if key in part and isinstance(part[key], str) and part[key] not in _FEATURES:
                raise InputError(
                    f"{path}: names the class {printable(part[key])!r}, which is none of TFDS's features; nothing of it"
                    " is run"
                )
        label = part.get("classLabel") or part.get("content")
        if name == "label" and isinstance(label, dict):
            number = label.get("numClasses", label.get("num_classes", 0))
        waiting += list(part.items())
    names = version / _NAMES_FILE
    if names.is_file():
        return tuple(line.strip() for line in read_text(names).split("\n") if line.strip())
    try:
        return tuple(map(str, range(min(int(number), _MOST_CLASSES))))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{path}: says no number of classes") from None


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


def example_features(record: bytes) -> Any:
    """The features of a serialized `tf.train.Example`, by name: protocol buffers with bytes_list and int64_list."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(record).features.feature


def _read(info: DatasetInfo, split: str, version: Path) -> Dataset:
    size, records = open_split(version, split)
    if size > info.split_sizes[split]:
        raise InputError(f"{version}: has {size} images of {split}, {info.name} has {info.split_sizes[split]}")
    most = size * (math.prod(info.image_shape) + _BESIDE_PIXELS) + _BESIDE_RECORDS
    for path in describe_split(version, split).paths:
        if path.stat().st_size > most:
            raise InputError(f"{path}: is larger than {size} such images are; prepare or copy {version} again")
    images, labels = np.empty((size, *info.image_shape), np.uint8), np.empty(size, np.int32)
    positions = np.empty(size, np.int64)
    stored = 0
    for path, record in records:
        try:
            images[stored], labels[stored], identifier = _decode(record, info)
        except InputError as error:
            raise InputError(f"{path}: {error}; prepare or copy {version} again") from error
        match = _ID.search(identifier)
        # Without ids (older TFDS versions, MNIST) only the stored order is known.
        positions[stored] = int(match[1]) if match else stored
        stored += 1
    order = np.argsort(positions, kind="stable")
    if len(np.unique(positions)) != size:
        raise InputError(f"{version}: ids of {split} occur twice; prepare it again")
    if np.array_equal(order, np.arange(size)):
        return Dataset(images, labels)
    return Dataset(images[order], labels[order])


def _shard_records(path: Path, length: int, file_format: str) -> Iterator[bytes]:
    """Yields the `length` serialized examples of one shard; raises `InputError` naming it if it has others."""
    if (size := path.stat().st_size) > memory_size():
        raise InputError(f"{path}: has {size:,} bytes, more than this machine has memory; prepare or copy it again")
    if file_format == "tfrecord":
        records = read_tfrecord(path, length)
    else:
        try:
            from array_record.python.array_record_module import ArrayRecordReader
        except ImportError as error:  # TFDS requires array_record only on Linux.
            raise InputError(f"{path}: array_record is missing ({error}): pip install array-record") from error
        try:
            reader = ArrayRecordReader(str(path))
            records = reader.read_all()
            reader.close()
        except Exception as error:  # Today it is a RuntimeError, but the C++ reader promises no type.
            raise InputError(f"{path}: truncated or corrupt ({error}); prepare or copy it again") from error
    if len(records) != length:
        raise InputError(f"{path}: truncated or corrupt: {len(records)} of {length} records; prepare or copy it again")
    yield from records


def _decode(record: bytes, info: DatasetInfo) -> tuple[np.ndarray, int, bytes]:
    """Returns image `[H, W, C]`, label and id (empty if the example has none).

    The protocol buffer and the PNG are read directly: TFDS's own decoder takes twice as long, and would decode with
    OpenCV if that happens to be installed.
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
