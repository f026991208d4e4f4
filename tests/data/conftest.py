"""Data for the dataset tests: synthetic sets of the official sizes, and the real CIFAR-10 where it is at hand."""

import functools
import gzip
import io
import json
import pickle
import struct
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest

from resjax.data import Dataset, dataset_info, load_dataset
from resjax.data.arrays import prepare


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch) -> Path:
    """No test touches the cache of the person who runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    return tmp_path / "cache-home"


@functools.cache
def synthetic(name: str, split: str) -> Dataset:
    """A split of the official size; every image tells its own index, its rows from its columns, and its channels."""
    info = dataset_info(name)
    size, (height, width, channels) = info.split_sizes[split], info.image_shape
    index = np.arange(size)
    rows, columns = np.arange(height, dtype=np.uint8)[:, None], np.arange(width, dtype=np.uint8)
    images = np.empty((size, height, width, channels), np.uint8)
    for channel, (scale, pattern) in enumerate(((1, 3 * rows), (256, 5 * columns), (7, rows + columns))[:channels]):
        images[..., channel] = (index // scale % 256).astype(np.uint8)[:, None, None] + pattern
    labels = (index * 7 % info.num_classes).astype(np.int32)
    images.flags.writeable = labels.flags.writeable = False
    return Dataset(images, labels)


@pytest.fixture(scope="session")
def make_synthetic():
    return synthetic


class _Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote at protocol 2: every string as a byte string. The official archives are like that."""

    dispatch = dict(pickle._Pickler.dispatch)

    def _save_as_byte_string(self, value):
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = _save_as_byte_string


def python2_pickle(value) -> bytes:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def published_files(name: str, form: str, split: str, dataset: Dataset) -> dict[str, bytes]:
    """The files of one split as published ("binary", "python"), or rewritten by Python 3 ("python3")."""
    batches = [""] if name == "cifar100" or split == "test" else [f"_{number}" for number in range(1, 6)]
    stem = split if name == "cifar100" else {"train": "data_batch", "test": "test_batch"}[split]
    files = {}
    for batch, images, labels in zip(
        batches, np.split(planes(dataset.images), len(batches)), np.split(dataset.labels, len(batches)), strict=True
    ):
        if form == "binary":
            columns = [labels.astype(np.uint8)[:, None], images]
            if name == "cifar100":
                columns.insert(0, (labels // 5).astype(np.uint8)[:, None])
            files[f"{stem}{batch}.bin"] = np.concatenate(columns, axis=1).tobytes()
        else:
            content = {"data": images, "fine_labels" if name == "cifar100" else "labels": labels.tolist()}
            dump = python2_pickle if form == "python" else lambda value: pickle.dumps(value, protocol=2)
            files[f"{stem}{batch}"] = dump(content)
    return files


FOLDERS = {
    ("cifar10", "binary"): ("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
    ("cifar10", "python"): ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    ("cifar100", "binary"): ("cifar-100-binary", "cifar-100-binary.tar.gz"),
    ("cifar100", "python"): ("cifar-100-python", "cifar-100-python.tar.gz"),
}


def write_published(root: Path, name: str, form: str, files: dict[str, bytes], place: str) -> Path:
    """Writes `files` into an "archive", a "folder" or "loose" in `root`; returns the archive or folder."""
    folder, archive = FOLDERS[name, form.rstrip("3")]
    root.mkdir(exist_ok=True)
    if place == "archive":
        with tarfile.open(root / archive, "w:gz", compresslevel=1) as tar:
            for file, data in files.items():
                member = tarfile.TarInfo(f"{folder}/{file}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return root / archive
    target = root / folder if place == "folder" else root
    target.mkdir(exist_ok=True)
    for file, data in files.items():
        (target / file).write_bytes(data)
    return target


def write_idx(folder: Path, split: str, dataset: Dataset) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    prefix = {"train": "train", "test": "t10k"}[split]
    for kind, array in (("images-idx3", dataset.images[..., 0]), ("labels-idx1", dataset.labels.astype(np.uint8))):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes(), 1))


@pytest.fixture(scope="session")
def published():
    """The writers of published files, as one namespace."""
    return types.SimpleNamespace(files=published_files, write=write_published, idx=write_idx, planes=planes)


@pytest.fixture
def offline_download(monkeypatch):
    """Replaces the network: `offline_download(files)` makes the next download return local files."""

    def install(files: dict[str, Path]) -> None:
        only_test_split(monkeypatch)
        monkeypatch.setattr(prepare, "why_unreachable", lambda url: "")
        monkeypatch.setattr(prepare, "fetch", lambda manager, urls: {name: files[name] for name in urls})

    return install


@pytest.fixture(scope="session")
def real_train(real_data_dir, tmp_path_factory) -> Dataset:
    """The real training images, decoded once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache-of-real-data")))
        return load_dataset("cifar10", "train", real_data_dir)


def only_test_split(patch: pytest.MonkeyPatch) -> None:
    """Leaves out the training images when a directory is prepared: encoding them takes most of a minute of tests."""
    generators = prepare._split_generators
    patch.setattr(prepare, "_split_generators", lambda *arguments: {"test": generators(*arguments)["test"]})


@pytest.fixture(scope="session")
def prepared_cifar10(tmp_path_factory) -> Path:
    """A TFDS data directory with a synthetic CIFAR-10 test split, prepared by the package's own download road."""
    root = tmp_path_factory.mktemp("prepared")
    files = {
        file: data
        for split in ("train", "test")
        for file, data in published_files("cifar10", "binary", split, synthetic("cifar10", split)).items()
    }
    archive = write_published(root / "downloaded", "cifar10", "binary", files, "archive")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "why_unreachable", lambda url: "")
        patch.setattr(prepare, "fetch", lambda manager, urls: {name: archive for name in urls})
        only_test_split(patch)
        prepare.download_and_prepare(dataset_info("cifar10"), root / "data", "")
    return root / "data"


def _frame(record: bytes, masked_crc) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked_crc(length)) + record + struct.pack("<I", masked_crc(record))


@pytest.fixture(scope="session")
def prepared_tfrecord(prepared_cifar10, tmp_path_factory) -> Path:
    """`prepared_cifar10` as `tfrecord`, framed here from the format's description."""
    from array_record.python.array_record_module import ArrayRecordReader

    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)

    def masked_crc(data: bytes) -> int:
        crc = 0xFFFFFFFF
        for byte in data:
            crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        crc ^= 0xFFFFFFFF
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    source = prepared_cifar10 / "cifar10" / "3.0.2"
    target = tmp_path_factory.mktemp("tfrecord") / "cifar10" / "3.0.2"
    target.mkdir(parents=True)
    for file in ("features.json", "label.labels.txt"):
        (target / file).write_bytes((source / file).read_bytes())
    description = json.loads((source / "dataset_info.json").read_text())
    description["fileFormat"] = "tfrecord"
    (target / "dataset_info.json").write_text(json.dumps(description))
    for shard in source.glob("cifar10-test.array_record-*"):
        records = ArrayRecordReader(str(shard)).read_all()
        framed = b"".join(_frame(record, masked_crc) for record in records)
        (target / shard.name.replace("array_record", "tfrecord")).write_bytes(framed)
    return target.parents[1]
