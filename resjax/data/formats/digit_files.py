"""MNIST's and Fashion-MNIST's IDX files, and SVHN's MATLAB files, as their authors published them.

IDX: http://yann.lecun.com/exdb/mnist/. SVHN: http://ufldl.stanford.edu/housenumbers/ (format 2).
"""

import contextlib
import gzip
import math
import os
import re
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np

from resjax.data.catalog import DatasetInfo
from resjax.data.formats.mat_files import read_mat_file
from resjax.data.formats.stored_array import StoredArray, check_ratio, check_size, memory_size
from resjax.data.source import Dataset, Source
from resjax.errors import InputError, printable

_IDX_PREFIX = {"train": "train", "test": "t10k"}
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
# The published names, those of torchvision and Debian, and those of other mirrors, with a dot.
_IDX_ENDINGS = ("-idx{}-ubyte.gz", "-idx{}-ubyte", ".idx{}-ubyte.gz", ".idx{}-ubyte")
_IDX_NAME = re.compile(r"(.+)[-.]idx[1-4]-ubyte(\.gz)?")
_BESIDE_PIXELS = 1 << 20  # bytes of an SVHN file: its labels are a part of the eighth that it may have more, too
_LARGEST_PACKED_HEADER = 1 << 16
_GZIP = b"\x1f\x8b"
# Where torchvision puts them.
_IDX_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


def idx_files(split: str) -> tuple[str, str]:
    """Returns the file names of the images and the labels of `split`."""
    prefix = _IDX_PREFIX[split]
    return f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"


def mat_file(split: str) -> str:
    """Returns the file name of an SVHN split."""
    return f"{split}_32x32.mat"


def accepted_names(name: str) -> list[str]:
    """Returns the files of dataset `name` that `find_digits` looks for, for messages."""
    if name in _IDX_FOLDERS:
        files = [file for split in _IDX_PREFIX for file in idx_files(split)]
        return [*(f"{name}/{file}" for file in files), f"the same unpacked, or in {_IDX_FOLDERS[name]}/raw"]
    return [mat_file("train"), mat_file("test"), mat_file("extra")] if name == "svhn_cropped" else []


def find_digits(info: DatasetInfo, split: str, root: Path) -> Source | None:
    """Returns `split` of MNIST, Fashion-MNIST or SVHN as published, from `root/NAME`, or from `root` itself.

    MNIST's and Fashion-MNIST's files have the same names, so they must lie in a folder of the dataset's name: in
    any spelling (`fashion_mnist`, Debian's `fashion-mnist`, torchvision's `FashionMNIST/raw`), packed or not.

    Raises:
      InputError: if such a folder has images without labels, or the reverse.
    """
    if info.name == "svhn_cropped":
        for folder in (root / info.name, root):
            path = folder / mat_file(split)
            if path.is_file():
                return Source(path, (path,), partial(read_mat, path, _bytes(info, split)))
    elif info.name in _IDX_FOLDERS:
        for folder in _idx_folders(info.name, root):
            images, labels = (
                _idx_file(folder, f"{_IDX_PREFIX[split]}-{kind}", rank) for kind, rank in (("images", 3), ("labels", 1))
            )
            if images and labels:
                return Source(folder, (images, labels), partial(read_idx, images, labels, _bytes(info, split)))
            if images or labels:
                lost = idx_files(split)[1 if images else 0]
                raise InputError(f"{folder / lost}: missing (packed or not) beside the other files; copy it there")
    return None


def _idx_folders(name: str, root: Path) -> list[Path]:
    """The folders that may have a dataset's IDX files, the most usual names first."""
    root = Path(os.path.abspath(root))
    named = [root, *root.parents[:1]] if root.name == "raw" else [root]
    if any(_spelling(folder) == _spelling(name) for folder in named):
        folders = [root]
    elif root.is_dir():
        entries = sorted(root.iterdir(), key=lambda entry: (entry.name != name, entry.name))
        folders = [entry for entry in entries if _spelling(entry) == _spelling(name) and entry.is_dir()]
    else:
        folders = []
    return [place for folder in folders for place in (folder, folder / "raw")]


def _spelling(name: str | Path) -> str:
    return re.sub("[-_ ]", "", Path(name).name.lower())


def _idx_file(folder: Path, stem: str, rank: int) -> Path | None:
    paths = (folder / f"{stem}{ending.format(rank)}" for ending in _IDX_ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def _bytes(info: DatasetInfo, split: str) -> int:
    """Bytes of the pixels of a split."""
    return info.split_sizes[split] * math.prod(info.image_shape)


def read_idx(images: Path, labels: Path, most: int | None = None) -> Dataset:
    """Reads a pair of IDX files of uint8, packed with gzip or not.

    Args:
      images, labels: the files.
      most: bytes that neither unpacks to more than.

    Raises:
      InputError: naming the file that is truncated, damaged, larger or not IDX.
    """
    return Dataset(_read_idx_array(images, 3, most)[..., None], _read_idx_array(labels, 1, most).astype(np.int32))


def _read_idx_array(path: Path, rank: int, most: int | None) -> np.ndarray:
    array = open_idx(path)
    if most is not None and math.prod(array.shape) > most:
        raise InputError(f"{path}: says {list(array.shape)}, more than the official file has; get that again")
    if array.dtype != np.uint8 or len(array.shape) != rank:
        raise InputError(
            f"{path}: expected uint8 of rank {rank}, found {array.dtype} {list(array.shape)}; get the official file"
            " again"
        )
    return array.read()


def is_idx(path: Path) -> bool:
    """Whether this is the name of an IDX file."""
    return _IDX_NAME.fullmatch(path.name) is not None


def idx_arrays(folder: Path) -> list[StoredArray]:
    """All arrays in the IDX files of a folder. If a file is there both packed and unpacked, the unpacked one is used.

    Raises:
      InputError: as `open_idx`.
    """
    found = {}
    for path in sorted(folder.iterdir(), reverse=True):  # the longer name, packed, comes before the shorter
        if (match := _IDX_NAME.fullmatch(path.name)) and path.is_file():
            found[match[1]] = path
    return [open_idx(path) for path in found.values()]


def open_idx(path: Path) -> StoredArray:
    """The array of an IDX file, packed with gzip or not. Its header is read and compared with the file's size.

    Raises:
      InputError: naming the file, if it is truncated, damaged or not IDX.
    """
    with _open_idx(path) as (file, packed):
        # Magic number: two zero bytes, the type, the rank; then each dimension as a big-endian uint32.
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or not 1 <= magic[3] <= 4:
            raise InputError(f"{path}: not an IDX file; get the official file again")
        sides = file.read(4 * magic[3])
        if len(sides) < 4 * magic[3]:
            raise InputError(f"{path}: truncated in its header; get the official file again")
    shape, dtype = tuple(np.frombuffer(sides, ">u4").tolist()), np.dtype(_IDX_TYPES[magic[2]])
    header, size = 4 + len(sides), path.stat().st_size
    expected = math.prod(shape) * dtype.itemsize
    if packed:
        check_ratio(str(path), size, expected)
        if size > header + expected + expected // 64 + _LARGEST_PACKED_HEADER:  # zeros, which gzip reads one by one
            raise InputError(f"{path}: has {size:,} bytes, more than it unpacks to; get the official file again")
    check_size(str(path), shape, dtype, expected if packed else size - header)
    match = _IDX_NAME.fullmatch(path.name)
    name = match[1] if match else path.stem
    return StoredArray(name, str(path), shape, dtype, partial(_read_idx_data, path, header, shape, dtype))


def _read_idx_data(path: Path, header: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    expected = math.prod(shape) * dtype.itemsize
    with _open_idx(path) as (file, _):
        file.read(header)
        data = file.read(expected + 1)  # one byte more: reads to the end, where gzip's checksum is verified
    check_size(str(path), shape, dtype, len(data))
    return np.frombuffer(data, dtype).reshape(shape)


@contextlib.contextmanager
def _open_idx(path: Path) -> Iterator[tuple[IO[bytes], bool]]:
    """A file that unpacks while it is read, and whether it is packed."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    try:
        unpacked: IO[bytes] = cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")
        with unpacked:
            yield unpacked, packed
    except InputError:
        raise
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path}: truncated or damaged file ({error}); download or copy it again") from error


def read_mat(path: Path, most: int | None = None) -> Dataset:
    """Reads one SVHN `.mat` file: `X` uint8 `[32, 32, 3, N]`, `y` `[N, 1]`.

    Args:
      path: the file.
      most: bytes that its pixels are no more than.

    Raises:
      InputError: naming the file, if it is truncated, damaged, larger, or holds other arrays.
    """
    most = memory_size() if most is None else most
    try:
        content = read_mat_file(path, most + most // 8 + _BESIDE_PIXELS)
        pixels, labels = content["X"], content["y"]
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, OSError, MemoryError) as error:
        reason = printable(error)
        raise InputError(f"{path}: not a readable SVHN file ({reason}); download or copy it again") from error
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, np.ndarray):
        raise InputError(f"{path}: expected arrays X and y; get the official file again")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or labels.shape != (pixels.shape[3], 1):
        raise InputError(
            f"{path}: expected X uint8 [32, 32, 3, N] and y [N, 1], found {pixels.dtype} {list(pixels.shape)} and "
            f"{list(labels.shape)}; get the official file again"
        )
    if labels.dtype.kind not in "iuf" or not np.isin(labels, np.arange(1, 11)).all():
        found = f"{labels.min()} to {labels.max()}" if labels.size else "none"
        raise InputError(f"{path}: labels are 1 to 10, found {found}; get the official file again")
    # The digit 0 is stored as 10.
    return Dataset(np.ascontiguousarray(np.moveaxis(pixels, 3, 0)), (labels[:, 0] % 10).astype(np.int32))
