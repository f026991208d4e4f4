"""Folders of class folders: `DIR/train/CLASS/*.jpg` and `DIR/val/CLASS/*.jpg`, or `DIR/CLASS/*.jpg` to be split.

The first look at a folder lists every file and reads its first bytes. The list is kept in the user's cache directory
for as long as no folder in it changes.
"""

import concurrent.futures
import hashlib
import io
import logging
import os
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs

from resjax.data.images.encoded import EXTENSIONS, BrokenImage, looks_like_an_image
from resjax.data.images.source import ImageDataset
from resjax.errors import InputError

_log = logging.getLogger(__name__)
_FORMAT = 1
_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("val", "valid", "validation", "test")
_THREADS = 16


class FolderImages:
    """Some of the files below a folder, with their labels.

    Args:
      folder: that the files lie below.
      files: relative paths, encoded by the file system's encoding, bytes [N].
      labels: int32 [N].
    """

    def __init__(self, folder: Path, files: np.ndarray, labels: np.ndarray):
        self._folder, self._files, self._labels = str(folder), files, labels

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> tuple[bytes, int]:
        try:
            with open(self.name(index), "rb") as file:
                return file.read(), int(self._labels[index])
        except OSError as error:
            raise BrokenImage(error.strerror or str(error)) from error

    def name(self, index: int) -> str:
        return os.path.join(self._folder, os.fsdecode(bytes(self._files[index])))


class Index(NamedTuple):
    """The images below a folder of class folders, in sorted order.

    Attributes:
      class_names: of the class folders, sorted.
      files: relative paths, bytes [N].
      labels: int32 [N].
      broken: files that say they are images, and are not: (path, reason).
    """

    class_names: tuple[str, ...]
    files: np.ndarray
    labels: np.ndarray
    broken: tuple[tuple[str, str], ...]


def open_folder(folder: str | os.PathLike, validation_share: float = 0.1, split_seed: int = 0) -> ImageDataset:
    """The images of a folder.

    With folders `train` and `val` (or `valid`, `validation`, `test`) in it, which hold class folders, those are the
    splits. Otherwise it, or its `train`, is split at random: the same share of each class.

    Args:
      folder: the folder.
      validation_share: share of the images to test on, where the folder has no split of its own.
      split_seed: of that split.

    Raises:
      InputError: for a folder that cannot be read, has no class folders, a class without an image, or splits whose
        classes differ; the message names the folder.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is no folder' if folder.exists() else 'does not exist'}; give a folder of class"
                         " folders of JPEG, PNG or WebP files")  # fmt: skip
    if not 0 < validation_share < 1:
        raise InputError(f"validation_share: expected a number in (0, 1), got {validation_share}")
    try:
        train_folder, test_folder = _split_folder(folder, _TRAIN_NAMES), _split_folder(folder, _TEST_NAMES)
        if train_folder is None:
            index = _nonempty(index_folder(folder), folder)
            return _divided(folder, index, validation_share, split_seed)
        train = _nonempty(index_folder(train_folder), train_folder)
        if test_folder is None:
            return _divided(train_folder, train, validation_share, split_seed)
        return _official(folder, train_folder, train, test_folder, index_folder(test_folder))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error}); check its permissions") from error


def _official(folder, train_folder, train, test_folder, test) -> ImageDataset:
    unknown = sorted(set(test.class_names) - set(train.class_names))
    if unknown:
        raise InputError(
            f"{test_folder}: has classes that {train_folder} has not: {_first(unknown)}; both need the same class"
            " folders (in ImageNet's archive of the validation images they are not in class folders yet)"
        )
    if not len(test.files):
        raise InputError(f"{test_folder}: its class folders hold no image")
    missing = sorted(set(train.class_names) - {test.class_names[label] for label in np.unique(test.labels)})
    notes = (f"{test_folder} has no image of {len(missing)} classes: {_first(missing)}",) if missing else ()
    labels = np.array([train.class_names.index(name) for name in test.class_names], np.int32)[test.labels]
    return ImageDataset(
        FolderImages(train_folder, train.files, train.labels),
        FolderImages(test_folder, test.files, labels),
        train.class_names,
        f"{folder}: {len(train.files):,} images to train on and {len(test.files):,} to test on,"
        f" {len(train.class_names):,} classes",
        notes,
        train.broken + test.broken,
    )


def _divided(folder: Path, index: Index, share: float, seed: int) -> ImageDataset:
    """A random share of each class to test on, at least one image of each."""
    tested = np.zeros(len(index.files), bool)
    for label, name in enumerate(index.class_names):
        members = np.flatnonzero(index.labels == label)
        if len(members) < 2:
            raise InputError(f"{folder / name}: one image alone cannot be split into training and test images")
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        tested[np.random.default_rng((seed, label)).permutation(members)[:count]] = True
    train, test = (FolderImages(folder, index.files[part], index.labels[part]) for part in (~tested, tested))
    return ImageDataset(
        train,
        test,
        index.class_names,
        f"{folder}: {len(index.files):,} images, {len(index.class_names):,} classes",
        (f"{folder} has no split of its own: {len(test):,} images, {share:.0%} of each class, are tested on",),
        index.broken,
    )


def _nonempty(index: Index, folder: Path) -> Index:
    if not index.class_names:
        raise InputError(f"{folder}: holds no class folders; expected {folder}/CLASS/IMAGE, images being"
                         f" {', '.join(EXTENSIONS)}")  # fmt: skip
    empty = sorted(set(range(len(index.class_names))) - set(index.labels.tolist()))
    if empty:
        raise InputError(
            f"{folder}: no image in {_first([index.class_names[label] for label in empty])}; remove these class folders"
            f" or add images ({', '.join(EXTENSIONS)})"
        )
    return index


def _split_folder(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of `names` that holds folders; a class called "train" holds images."""
    return next((path for name in names if (path := folder / name).is_dir() and _folders(path)), None)


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def index_folder(folder: Path) -> Index:
    """Lists the images of a folder of class folders, from the cache where nothing changed."""
    folder = folder.resolve()
    path = _cache_path(folder)
    index = _read_cache(path, folder)
    if index is None:
        directories, index = _list(folder)
        _write_cache(path, directories, index)
    return index


def _list(folder: Path) -> tuple[dict[str, int], Index]:
    """Every directory with its time of change, and the index."""
    _log.info("%s: listing its images, once", folder)
    directories, files, labels = {str(folder): folder.stat().st_mtime_ns}, [], []
    class_names = _folders(folder)
    for label, name in enumerate(class_names):
        for parent, below, names in os.walk(folder / name):
            below[:] = sorted(directory for directory in below if not directory.startswith("."))
            directories[parent] = os.stat(parent).st_mtime_ns
            found = sorted(n for n in names if n.lower().endswith(EXTENSIONS) and not n.startswith("."))
            files += [os.path.relpath(os.path.join(parent, n), folder) for n in found]
            labels += [label] * len(found)
    paths = [os.path.join(folder, file) for file in files]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        reasons = list(threads.map(_why_broken, paths, chunksize=256))
    sound = [position for position, reason in enumerate(reasons) if reason is None]
    broken = tuple((path, reason) for path, reason in zip(paths, reasons, strict=True) if reason is not None)
    names = np.array([os.fsencode(files[position]) for position in sound], np.bytes_)
    return directories, Index(tuple(class_names), names, np.array(labels, np.int32)[sound], broken)


def _why_broken(path: str) -> str | None:
    """What shows without decoding that a file is no image, or None."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError as error:
        return error.strerror or str(error)
    if not head:
        return "empty"
    return None if looks_like_an_image(head) else "neither JPEG, PNG nor WebP"


def _cache_path(folder: Path) -> Path:
    key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return platformdirs.user_cache_path("resjax") / "folders" / f"{folder.name}-{key}.npz"


def _read_cache(path: Path, folder: Path) -> Index | None:
    try:
        with np.load(path, allow_pickle=False) as saved:
            if saved["format"] != _FORMAT:
                return None
            for directory, changed in zip(_strings(saved["directories"]), saved["changed"].tolist(), strict=True):
                if os.stat(directory).st_mtime_ns != changed:
                    return None
            broken = list(zip(_strings(saved["broken"]), _strings(saved["reasons"]), strict=True))
            # A file may have been repaired in place, which no directory tells.
            if any(_why_broken(file) != reason for file, reason in broken):
                return None
            return Index(tuple(_strings(saved["class_names"])), saved["files"], saved["labels"], tuple(broken))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s: unreadable index (%s); listing %s again", path, error, folder)
        return None


def _write_cache(path: Path, directories: dict[str, int], index: Index) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        format=_FORMAT,
        directories=_bytes(directories),
        changed=np.array(list(directories.values()), np.int64),
        class_names=_bytes(index.class_names),
        files=index.files,
        labels=index.labels,
        broken=_bytes(path for path, _ in index.broken),
        reasons=_bytes(reason for _, reason in index.broken),
    )
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            file.write(buffer.getvalue())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        _log.warning("%s: the index cannot be kept (%s)", path, error)


def _bytes(texts: Iterable[str]) -> np.ndarray:
    return np.array([os.fsencode(text) for text in texts], np.bytes_)


def _strings(array: np.ndarray) -> list[str]:
    return [os.fsdecode(text) for text in array.tolist()]


def _first(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
