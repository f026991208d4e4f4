"""CIFAR-10 and CIFAR-100 as their author published them: archives, their unpacked folders, or loose files.

Formats: https://www.cs.toronto.edu/~kriz/cifar.html. Archives are read in memory, members by exact name; nothing is
ever extracted to disk, so no member name can write outside a folder.
"""

import contextlib
import gzip
import tarfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np

from resjax.data.catalog import DatasetInfo
from resjax.data.formats.restricted_pickle import load_batch
from resjax.data.source import Dataset, Source
from resjax.errors import InputError, printable

_PIXELS = 3 * 32 * 32
# Bytes: the name and labels beside an image's pixels in a Python batch take less, and so does all else in an archive.
_BESIDE_PIXELS, _BESIDE_FILES = 256, 4 << 20


class _Layout(NamedTuple):
    """One published form of a dataset."""

    archive: str
    folder: str
    files: dict[str, tuple[str, ...]]
    batch_size: dict[str, int]  # number of images in each file of the split
    label_bytes: int = 0  # binary: in front of each image, the last is the label
    label_key: str = ""  # Python: of the labels
    names: tuple[str, ...] = ()  # binary: the files of class names

    def largest(self, split: str) -> int:
        """Bytes that no file of a split has more than."""
        pixels = _PIXELS if self.label_bytes else 2 * _PIXELS  # Python 3 may write a byte as a character of UTF-8
        return self.batch_size[split] * (pixels + _BESIDE_PIXELS) + _BESIDE_FILES


_TEN = {"train": 10_000, "test": 10_000}
_HUNDRED = {"train": 50_000, "test": 10_000}
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_LAYOUTS = {
    "cifar10": (
        _Layout(
            "cifar-10-binary.tar.gz",
            "cifar-10-batches-bin",
            {"train": tuple(f"{batch}.bin" for batch in _BATCHES), "test": ("test_batch.bin",)},
            _TEN,
            label_bytes=1,
        ),
        _Layout(
            "cifar-10-python.tar.gz",
            "cifar-10-batches-py",
            {"train": _BATCHES, "test": ("test_batch",)},
            _TEN,
            label_key="labels",
        ),
    ),
    "cifar100": (
        _Layout(
            "cifar-100-binary.tar.gz",
            "cifar-100-binary",
            {"train": ("train.bin",), "test": ("test.bin",)},
            _HUNDRED,
            label_bytes=2,
            names=("coarse_label_names.txt",),
        ),
        _Layout(
            "cifar-100-python.tar.gz",
            "cifar-100-python",
            {"train": ("train",), "test": ("test",)},
            _HUNDRED,
            label_key="fine_labels",
        ),
    ),
}


def accepted_names(name: str) -> list[str]:
    """Returns the archives and folders of dataset `name` that `find_cifar` looks for, for messages."""
    return [entry for layout in _LAYOUTS.get(name, ()) for entry in (layout.archive, layout.folder + "/")]


def find_cifar(info: DatasetInfo, split: str, root: Path) -> Source | None:
    """Returns the first published form of `split` in the folder `root`: an archive, a folder, or loose files.

    Raises:
      InputError: if no form is complete but one has some of the split's files; names the first missing file.
    """
    missing = None
    for layout in _LAYOUTS.get(info.name, ()):
        archive = root / layout.archive
        if archive.is_file():
            return Source(archive, (archive,), partial(_read_archive, archive, layout, split))
        for folder in (root / layout.folder, root):
            paths = tuple(folder / file for file in layout.files[split])
            present = [path.is_file() for path in paths]
            if all(present):
                return Source(folder, paths, partial(_read_folder, paths, layout, split))
            if any(present) or (folder != root and folder.is_dir()):
                missing = missing or (paths[present.index(False)], layout.archive)
    if missing:
        raise InputError(f"{missing[0]}: missing beside the other files of {info.name}; unpack {missing[1]} again")
    return None


def read_binary_archive(archive: Path, name: str) -> tuple[dict[str, Dataset], dict[str, np.ndarray], list[str]]:
    """Reads an official binary archive as a whole, under any file name, to prepare a dataset.

    Returns:
      The splits, the coarse labels int32 `[N]` of each split (CIFAR-100 only, else empty), and the coarse names.

    Raises:
      InputError: naming the archive and what is wrong with it.
    """
    layout = _LAYOUTS[name][0]
    wanted = [file for files in layout.files.values() for file in files]
    members = _members(archive, layout, [*wanted, *layout.names])
    splits = {split: _parse_all(members, layout, split, archive) for split in layout.files}
    if not layout.names:
        return splits, {}, []
    coarse = {
        split: np.concatenate([_rows(members[file], layout, split, archive / file)[:, 0] for file in files])
        for split, files in layout.files.items()
    }
    names = [line for file in layout.names for line in members[file].decode("utf-8").split("\n") if line]
    return splits, {split: labels.astype(np.int32) for split, labels in coarse.items()}, names


def _read_archive(archive: Path, layout: _Layout, split: str) -> Dataset:
    return _parse_all(_members(archive, layout, layout.files[split]), layout, split, archive)


def _read_folder(paths: tuple[Path, ...], layout: _Layout, split: str) -> Dataset:
    for path in paths:
        if (size := path.stat().st_size) > layout.largest(split):
            raise InputError(f"{path}: has {size:,} bytes, more than such a file has; get {layout.archive} again")
    return _parse_all({path.name: path.read_bytes() for path in paths}, layout, split, paths[0].parent)


class _Bounded:
    """What a gzip file unpacks to, up to `limit` bytes: neither memory nor time is spent on what says it is more."""

    def __init__(self, archive: Path, limit: int):
        self._stream, self._left, self._ended = gzip.open(archive), limit, 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._left + 1))
        self._left -= len(data)
        self._ended += not data
        if self._left < 0:
            raise EOFError("it unpacks to more than the official one")
        if self._ended > 9:  # tarfile goes on for as many bytes as a member says it has
            raise EOFError("a member is larger than the archive")
        return data

    def close(self) -> None:
        self._stream.close()


def _members(archive: Path, layout: _Layout, files: list[str] | tuple[str, ...]) -> dict[str, bytes]:
    """Returns the contents of `files`. Reads the archive to its end, where gzip's checksum is verified."""
    found = {}
    largest = max(map(layout.largest, layout.files))
    limit = sum(len(names) * layout.largest(split) for split, names in layout.files.items())
    if (size := archive.stat().st_size) > limit:  # zeros behind it, which gzip reads one by one
        raise InputError(f"{archive}: has {size:,} bytes, more than the official one unpacks to; download it again")
    try:
        with contextlib.closing(_Bounded(archive, limit)) as stream:
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as tar:
                wanted = {f"{layout.folder}/{file}": file for file in files}
                for member in tar:
                    if not 0 <= member.size <= largest:
                        raise EOFError(f"{printable(member.name)} says it has {member.size} bytes")
                    content = tar.extractfile(member) if member.name in wanted and member.isreg() else None
                    if content is not None:
                        found[wanted[member.name]] = content.read()
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        reason = printable(error)
        raise InputError(f"{archive}: truncated or damaged archive ({reason}); download or copy it again") from error
    for file in files:
        if file not in found:
            raise InputError(f"{archive}: no {layout.folder}/{file} inside: not the official {layout.archive}")
    return found


def _parse_all(members: Mapping[str, bytes], layout: _Layout, split: str, origin: Path) -> Dataset:
    parse = _parse_binary if layout.label_bytes else _parse_pickle
    parts = [parse(members[file], layout, split, origin / file) for file in layout.files[split]]
    pixels = np.concatenate([pixels for pixels, _ in parts])
    # Stored as three planes of 32x32, red first.
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Dataset(images, np.concatenate([labels for _, labels in parts]).astype(np.int32))


def _rows(data: bytes, layout: _Layout, split: str, origin: Path) -> np.ndarray:
    expected = layout.batch_size[split] * (layout.label_bytes + _PIXELS)
    if len(data) != expected:
        raise InputError(f"{origin}: expected {expected} bytes, found {len(data)}; get {layout.archive} again")
    return np.frombuffer(data, np.uint8).reshape(layout.batch_size[split], -1)


def _parse_binary(data: bytes, layout: _Layout, split: str, origin: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = _rows(data, layout, split, origin)
    # CIFAR-100 stores the coarse label, then the fine one.
    return rows[:, layout.label_bytes :], rows[:, layout.label_bytes - 1]


def _parse_pickle(data: bytes, layout: _Layout, split: str, origin: Path) -> tuple[np.ndarray, np.ndarray]:
    batch = load_batch(data, str(origin))
    missing = {"data", layout.label_key} - batch.keys()
    if missing:
        found = printable(", ".join(sorted(batch)))
        raise InputError(f"{origin}: no {missing.pop()!r} in this batch (it has {found})")
    pixels, labels = batch["data"], batch[layout.label_key]
    size = layout.batch_size[split]
    shape = getattr(pixels, "shape", None)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or shape != (size, _PIXELS):
        raise InputError(
            f"{origin}: expected uint8 data [{size}, {_PIXELS}], found {getattr(pixels, 'dtype', type(pixels))} {shape}"
        )
    if not isinstance(labels, list) or len(labels) != size or not all(_is_small(label) for label in labels):
        raise InputError(f"{origin}: expected a list of {size} integers, labels, as {layout.label_key!r}")
    return pixels, np.array(labels, np.int64)


def _is_small(label: object) -> bool:
    return type(label) is int and abs(label) < 2**31  # numbers of a pickle have no end
