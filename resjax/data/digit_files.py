"""MNIST's and Fashion-MNIST's IDX files, and SVHN's MATLAB files, as their authors published them.

IDX: http://yann.lecun.com/exdb/mnist/. SVHN: http://ufldl.stanford.edu/housenumbers/ (format 2).
"""

import gzip
import math
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from resjax.data.catalog import DatasetInfo
from resjax.data.source import Dataset, Source
from resjax.errors import InputError

_IDX_PREFIX = {"train": "train", "test": "t10k"}
_IDX_UINT8 = 0x08


def idx_files(split: str) -> tuple[str, str]:
    """Returns the file names of the images and the labels of `split`."""
    prefix = _IDX_PREFIX[split]
    return f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"


def mat_file(split: str) -> str:
    """Returns the file name of an SVHN split."""
    return f"{split}_32x32.mat"


def accepted_names(name: str) -> list[str]:
    """Returns the files of dataset `name` that `find_digits` looks for, for messages."""
    if name in ("mnist", "fashion_mnist"):
        return [f"{name}/{file}" for split in _IDX_PREFIX for file in idx_files(split)]
    return [mat_file("train"), mat_file("test"), mat_file("extra")] if name == "svhn_cropped" else []


def find_digits(info: DatasetInfo, split: str, root: Path) -> Source | None:
    """Returns `split` of MNIST, Fashion-MNIST or SVHN as published, from `root/NAME`, or from `root` itself.

    MNIST's and Fashion-MNIST's files have the same names, so those two must lie in a folder of the dataset's name.
    """
    if info.name == "svhn_cropped":
        for folder in (root / info.name, root):
            path = folder / mat_file(split)
            if path.is_file():
                return Source(path, (path,), partial(read_mat, path))
    elif info.name in ("mnist", "fashion_mnist"):
        folder = root if root.name == info.name else root / info.name
        images, labels = (folder / file for file in idx_files(split))
        if images.is_file() and labels.is_file():
            return Source(folder, (images, labels), partial(read_idx, images, labels))
    return None


def read_idx(images: Path, labels: Path) -> Dataset:
    """Reads a pair of gzipped IDX files of uint8.

    Raises:
      InputError: naming the file that is truncated, damaged or not IDX.
    """
    return Dataset(_read_idx_array(images, 3)[..., None], _read_idx_array(labels, 1).astype(np.int32))


def _read_idx_array(path: Path, rank: int) -> np.ndarray:
    try:
        data = gzip.decompress(path.read_bytes())
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path}: truncated or damaged gzip file ({error}); download or copy it again") from error
    header = 4 + 4 * rank
    # Magic number: two zero bytes, the type, the rank; then each dimension as a big-endian uint32.
    if len(data) < header or tuple(data[:4]) != (0, 0, _IDX_UINT8, rank):
        raise InputError(f"{path}: not an IDX file of uint8 and rank {rank}; get the official file again")
    shape = tuple(np.frombuffer(data, ">u4", rank, 4).tolist())
    if len(data) - header != math.prod(shape):
        raise InputError(
            f"{path}: its header says {shape}, but {len(data) - header} bytes follow; get the official file again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_mat(path: Path) -> Dataset:
    """Reads one SVHN `.mat` file: `X` uint8 `[32, 32, 3, N]`, `y` `[N, 1]`.

    Raises:
      InputError: naming the file, if it is truncated, damaged, or holds other arrays.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=("X", "y"))
        pixels, labels = content["X"], content["y"]
    except Exception as error:  # loadmat raises a different type for every kind of damage.
        raise InputError(f"{path}: not a readable SVHN file ({error}); download or copy it again") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or labels.shape != (pixels.shape[3], 1):
        raise InputError(
            f"{path}: expected X uint8 [32, 32, 3, N] and y [N, 1], found {pixels.dtype} {list(pixels.shape)} and "
            f"{list(labels.shape)}; get the official file again"
        )
    if labels.min() < 1 or labels.max() > 10:
        found = f"{labels.min()} to {labels.max()}"
        raise InputError(f"{path}: labels are 1 to 10, found {found}; get the official file again")
    # The digit 0 is stored as 10.
    return Dataset(np.ascontiguousarray(np.moveaxis(pixels, 3, 0)), (labels[:, 0] % 10).astype(np.int32))
