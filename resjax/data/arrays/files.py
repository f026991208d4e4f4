"""`open_arrays`: a user's own arrays of images and labels, found in a file or folder."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from resjax.data.arrays import checks, layout
from resjax.data.catalog import DatasetInfo
from resjax.data.formats import digit_files, stl10
from resjax.data.formats.numpy_files import open_npy, open_npz
from resjax.data.formats.stored_array import StoredArray
from resjax.data.formats.text_files import read_text
from resjax.data.source import Dataset
from resjax.errors import InputError

NAME = "arrays"
ACCEPTED = (
    "an .npz file; an .npy file of images with its labels beside it; or a folder of .npy files, of MNIST's IDX files,"
    " or of STL-10's binaries"
)
_CLASS_FILES = ("class_names.txt", "label_names.txt", "classes.txt")
_CHUNK = 256  # images: 256 * 255^2 < 2^24, so that sums in float32 are exact
_FLAT_STD = 255.0
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file: git lfs pull"),
    (b"<", "a web page"),
    (b"\x89HDF", "an HDF5 file: save its arrays with np.savez"),
    (b"MATLAB", "a MATLAB file: save its arrays with np.savez"),
    (b"\x80", "a pickle, which is never loaded as it can run code: save its arrays with np.savez"),
    (b"", "another kind of file"),
)


class ArraySet(NamedTuple):
    """A data set of arrays.

    Attributes:
      info: mean and std are computed from the training images, or from the first split if there are none.
      pairs: images and labels of each split, not yet read.
      labels: of each split, int32 [N].
    """

    info: DatasetInfo
    pairs: dict[str, layout.Pair]
    labels: dict[str, np.ndarray]

    def load(self, split: str) -> Dataset:
        """Reads one split. If a file has a single pair without the name of a split, "test" is that pair.

        Raises:
          InputError: for an unknown split, or for a file that is damaged or has changed since.
        """
        if split == "test" and len(self.pairs) == 1 and not {"train", "validation"} & self.pairs.keys():
            (split,) = self.pairs
        self.info.require_split(split)
        return Dataset(_read_images(self.pairs[split].images), self.labels[split])


def open_arrays(data_dir: str | os.PathLike | None) -> ArraySet:
    """Finds arrays and describes them. It reads the labels and the training images; other images are read later.

    Args:
      data_dir: see `ACCEPTED`. It may also hold the class names: in `class_names.txt`, one per line, or as an array.

    Raises:
      InputError: if there are no arrays, or they are not images and labels. The message names the file and the array,
        what was found, what was expected, and the way out.
    """
    if data_dir is None:
        raise InputError(f"dataset {NAME}: say with --data_dir (`data_dir=`) where they are: {ACCEPTED}")
    path = Path(os.path.expanduser(data_dir))
    try:
        found = _find(path)
        stamps = tuple((str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in found.files)
        return _described(path.resolve(), stamps)
    except OSError as error:
        raise InputError(f"data_dir {path}: cannot be read ({error}); check the path and its permissions") from error


class _Found(NamedTuple):
    arrays: list[StoredArray]
    files: list[Path]
    folder: Path


def _find(path: Path) -> _Found:
    if path.is_file():
        return _find_in_file(path)
    if not path.is_dir():
        raise InputError(f"data_dir {path}: not found; expected {ACCEPTED}")
    looked_in = path
    for _ in range(4):  # CIFAR-10-C/, MNIST/raw/: folders around the files
        kinds = _kinds_in(looked_in)
        if len(kinds) > 1:
            raise InputError(f"data_dir {path}: {looked_in} has {' and '.join(kinds)}; give the one to read")
        if kinds:
            (files,) = kinds.values()
            return _find_in_folder(looked_in, files)
        inner = [entry for entry in looked_in.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__"))]
        if len(inner) != 1:
            break
        looked_in = inner[0]
    there = sorted(entry.name for entry in path.iterdir())
    found = _first_few(there) if there else "nothing"
    raise InputError(f"data_dir {path}: no arrays there; expected {ACCEPTED}; found {found}")


def _first_few(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *[".."][: len(names[5:])]])


def _kinds_in(folder: Path) -> dict[str, list[Path]]:
    files = [entry for entry in sorted(folder.iterdir()) if entry.is_file() and not entry.name.startswith(".")]
    kinds = {
        ".npz files": [file for file in files if file.suffix == ".npz"],
        ".npy files": [file for file in files if file.suffix == ".npy"],
        "IDX files": [file for file in files if digit_files.is_idx(file)],
        "STL-10's binaries": [file for file in files if file.name in stl10.FILES],
    }
    return {kind: found for kind, found in kinds.items() if found}


def _find_in_folder(folder: Path, files: list[Path]) -> _Found:
    if files[0].suffix == ".npz":
        if len(files) == 1:
            return _find_in_file(files[0])
        # train.npz and test.npz: the file's name is a part of the array's.
        arrays = [array._replace(name=f"{file.stem}/{array.name}") for file in files for array in _open_file(file)]
    elif files[0].suffix == ".npy":
        arrays = [open_npy(file) for file in files]
    elif digit_files.is_idx(files[0]):
        arrays = digit_files.idx_arrays(folder)
    else:
        arrays = stl10.open_stl10(folder)
    return _Found(arrays, files, folder)


def _find_in_file(path: Path) -> _Found:
    arrays, files = _open_file(path), [path]
    if path.suffix == ".npy":
        beside = sorted(file for file in path.parent.glob("*.npy") if file != path and layout.is_labels(file.stem))
        labels = layout.labels_beside(arrays[0], [open_npy(file) for file in beside])
        arrays, files = [*arrays, *labels], [*files, *beside]
    return _Found(arrays, files, path.parent)


def _open_file(path: Path) -> list[StoredArray]:
    with path.open("rb") as file:
        beginning = file.read(32)
    if beginning.startswith(b"\x93NUMPY"):
        return [open_npy(path)]
    if beginning.startswith(b"PK"):
        return open_npz(path)
    if digit_files.is_idx(path):
        raise InputError(f"data_dir {path}: an IDX file; give the folder, which has its images and its labels")
    what = next(what for start, what in _BEGINNINGS if beginning.startswith(start)) if beginning else "an empty file"
    raise InputError(f"data_dir {path}: expected {ACCEPTED}; found {what}")


@functools.lru_cache(maxsize=4)
def _described(path: Path, stamps: tuple) -> ArraySet:
    """`open_arrays`, cached as long as the files' sizes and times of change, `stamps`, stay the same."""
    found = _find(path)
    arranged = layout.arrange(found.arrays, str(path))
    pairs = arranged.pairs
    shapes = {split: checks.image_shape(pair.images) for split, pair in pairs.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{pairs[split].images.name} {list(shape)}" for split, shape in shapes.items())
        raise InputError(f"{path}: images of different sizes: {said}; expected one height, width and channels")
    labels = {split: checks.read_labels(pair.labels, pair.images) for split, pair in pairs.items()}
    given = _class_names(arranged.class_names, found.folder)
    names = checks.check_classes(labels, given, str(path))
    statistics = "train" if "train" in pairs else next(iter(pairs))
    mean, std = _mean_and_std(pairs[statistics].images)
    (shape,) = set(shapes.values())
    sizes = {split: len(one.values) for split, one in labels.items()}
    counts = _first_few([f"{size:,} {split}" for split, size in sizes.items()])
    description = (
        f"{path.name}: arrays of {len(names)} classes, {shape[0]}x{shape[1]}x{shape[2]}, images {counts}; mean and std"
        f" computed from its {statistics} images"
    )
    if {"validation", "test"} <= pairs.keys():
        description += "; its validation images are not used, but as the split of that name"
    if arranged.unread:
        description += f"; not read: {_first_few(arranged.unread)}"
    info = DatasetInfo(
        NAME, len(names), shape, MappingProxyType(sizes), names, mean, std, description, homepage="", citation=""
    )
    stored = {split: one.values.astype(np.int32) for split, one in labels.items()}
    for one in stored.values():
        one.flags.writeable = False
    return ArraySet(info, pairs, stored)


def _class_names(array: StoredArray | None, folder: Path) -> tuple[str, ...] | None:
    """Class names from an array of strings, or from a text file in `folder`; None if there are none."""
    text = next((folder / file for file in _CLASS_FILES if (folder / file).is_file()), None)
    if array is not None:
        origin, stored = array.origin, array.read()
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in stored.tolist()]
    elif text is not None:
        origin = str(text)
        names = [line.strip() for line in read_text(text).splitlines() if line.strip()]
    else:
        return None
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        found = f"{twice[0]!r} twice" if twice else "none"
        raise InputError(f"{origin}: expected the name of each class once, found {found}")
    return tuple(names)


def _read_images(array: StoredArray) -> np.ndarray:
    images = array.read()
    if images.shape != array.shape or images.dtype != array.dtype:
        raise InputError(f"{array.origin}: changed while it was read; start again")
    return np.ascontiguousarray(images[..., None] if images.ndim == 3 else images)


def _mean_and_std(array: StoredArray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel, exact up to the last division. A channel of one value gets a std of 255."""
    images = _read_images(array)
    channels = images.shape[-1]
    total, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].reshape(len(images[start : start + _CHUNK]), -1).astype(np.float32)
        total += chunk.sum(0).astype(np.float64).reshape(-1, channels).sum(0)
        squares += np.square(chunk, out=chunk).sum(0).astype(np.float64).reshape(-1, channels).sum(0)
    pixels = images.size // channels
    mean = total / pixels
    variance = (squares * pixels - total**2) / pixels**2
    if not (variance > 0).any():
        raise InputError(f"{array.origin}: every pixel of every image is the same; expected images")
    return tuple(mean.tolist()), tuple(np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), _FLAT_STD).tolist())
