"""CIFAR-10 and CIFAR-100 as their author published them: archives, their unpacked folders, or loose files.

Formats: https://www.cs.toronto.edu/~kriz/cifar.html. Archives are read in memory, members by exact name; nothing is
ever extracted to disk, so no member name can write outside a folder.
"""

import gzip
import tarfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resjax.data.catalog import DatasetInfo
from resjax.data.restricted_pickle import load_batch
from resjax.data.source import Dataset, Source
from resjax.errors import InputError

_PIXELS = 3 * 32 * 32
# The largest official member is CIFAR-100's train file, 155 MB; more than this is not that file.
_LARGEST_MEMBER = 256 << 20


class _Layout(NamedTuple):
    """One published form of a dataset."""

    archive: str
    folder: str
    files: dict[str, tuple[str, ...]]
    batch_size: dict[str, int]  # images in each file of the split
    label: int | str  # binary: number of label bytes, the last is the label; Python: the key of the labels
    names: tuple[str, ...] = ()  # binary: the files of class names


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
            1,
        ),
        _Layout(
            "cifar-10-python.tar.gz",
            "cifar-10-batches-py",
            {"train": _BATCHES, "test": ("test_batch",)},
            _TEN,
            "labels",
        ),
    ),
    "cifar100": (
        _Layout(
            "cifar-100-binary.tar.gz",
            "cifar-100-binary",
            {"train": ("train.bin",), "test": ("test.bin",)},
            _HUNDRED,
            2,
            ("coarse_label_names.txt",),
        ),
        _Layout(
            "cifar-100-python.tar.gz",
            "cifar-100-python",
            {"train": ("train",), "test": ("test",)},
            _HUNDRED,
            "fine_labels",
        ),
    ),
}


def accepted_names(name: str) -> list[str]:
    """Returns the archives and folders of dataset `name` that `find_cifar` looks for, for messages."""
    return [entry for layout in _LAYOUTS.get(name, ()) for entry in (layout.archive, layout.folder + "/")]


def find_cifar(info: DatasetInfo, split: str, root: Path) -> Source | None:
    """Returns the first published form of `split` in the folder `root`: an archive, a folder, or loose files.

    Raises:
      InputError: if no form is complete but one has some of the split's files; names the first missing one.
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
    """Reads all of an official binary archive, under any file name, as a prepared dataset needs it.

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
    return _parse_all({path.name: path.read_bytes() for path in paths}, layout, split, paths[0].parent)


def _members(archive: Path, layout: _Layout, files: list[str] | tuple[str, ...]) -> dict[str, bytes]:
    """Returns the contents of `files`; reads the archive to its end, because only there gzip's checksum is compared."""
    found = {}
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            wanted = {f"{layout.folder}/{file}": file for file in files}
            for member in tar:
                if member.name in wanted and member.isfile():
                    if member.size > _LARGEST_MEMBER:
                        raise InputError(f"{archive}: {member.name} has {member.size} bytes: not the official archive")
                    found[wanted[member.name]] = tar.extractfile(member).read()
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(f"{archive}: truncated or damaged archive ({error}); download or copy it again") from error
    for file in files:
        if file not in found:
            raise InputError(f"{archive}: no {layout.folder}/{file} inside: not the official {layout.archive}")
    return found


def _parse_all(members: Mapping[str, bytes], layout: _Layout, split: str, origin: Path) -> Dataset:
    parse = _parse_binary if isinstance(layout.label, int) else _parse_pickle
    parts = [parse(members[file], layout, split, origin / file) for file in layout.files[split]]
    pixels = np.concatenate([pixels for pixels, _ in parts])
    # Stored as three planes of 32x32, red first.
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Dataset(images, np.concatenate([labels for _, labels in parts]).astype(np.int32))


def _rows(data: bytes, layout: _Layout, split: str, origin: Path) -> np.ndarray:
    expected = layout.batch_size[split] * (layout.label + _PIXELS)
    if len(data) != expected:
        raise InputError(f"{origin}: expected {expected} bytes, found {len(data)}; get {layout.archive} again")
    return np.frombuffer(data, np.uint8).reshape(layout.batch_size[split], -1)


def _parse_binary(data: bytes, layout: _Layout, split: str, origin: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = _rows(data, layout, split, origin)
    # CIFAR-100 stores the coarse label, then the fine one.
    return rows[:, layout.label :], rows[:, layout.label - 1]


def _parse_pickle(data: bytes, layout: _Layout, split: str, origin: Path) -> tuple[np.ndarray, np.ndarray]:
    batch = load_batch(data, str(origin))
    missing = {"data", layout.label} - batch.keys()
    if missing:
        raise InputError(f"{origin}: no {missing.pop()!r} in this batch (it has {', '.join(sorted(batch))})")
    pixels, labels = batch["data"], batch[layout.label]
    size = layout.batch_size[split]
    shape = getattr(pixels, "shape", None)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or shape != (size, _PIXELS):
        raise InputError(
            f"{origin}: expected uint8 data [{size}, {_PIXELS}], found {getattr(pixels, 'dtype', type(pixels))} {shape}"
        )
    if not isinstance(labels, list) or len(labels) != size or not all(type(label) is int for label in labels):
        raise InputError(f"{origin}: expected a list of {size} integers as {layout.label!r}")
    return pixels, np.array(labels, np.int64)
