"""STL-10's binaries: https://cs.stanford.edu/~acoates/stl10/. Images are column-major, labels are 1 to 10."""

from functools import partial
from pathlib import Path

import numpy as np

from resjax.data.formats.stored_array import StoredArray, check_size
from resjax.errors import InputError

_SIDE, _CHANNELS = 96, 3
_IMAGE_BYTES = _SIDE * _SIDE * _CHANNELS
FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")


def open_stl10(folder: Path) -> list[StoredArray]:
    """The arrays of a folder's labelled splits: X uint8 [N, 96, 96, 3], y uint8 [N], 0 to 9.

    Raises:
      InputError: for images without labels or the reverse, a file of another size, or labels outside of 1 to 10.
    """
    arrays = []
    for split in ("train", "test"):
        images, labels = (folder / f"{split}_{kind}.bin" for kind in "Xy")
        if images.is_file() != labels.is_file():
            there, lost = (images, labels) if images.is_file() else (labels, images)
            raise InputError(f"{lost}: missing beside {there.name}; unpack stl10_binary.tar.gz again")
        if not images.is_file():
            continue
        count, rest = divmod(images.stat().st_size, _IMAGE_BYTES)
        if rest or not count:
            raise InputError(
                f"{images}: truncated or damaged: expected a multiple of {_IMAGE_BYTES:,} bytes (96 x 96 x 3), found"
                f" {images.stat().st_size:,}; unpack stl10_binary.tar.gz again"
            )
        shape, byte = (count, _SIDE, _SIDE, _CHANNELS), np.dtype(np.uint8)
        check_size(str(images), shape, byte, images.stat().st_size)
        if labels.stat().st_size != count:
            raise InputError(
                f"{labels}: expected {count:,} bytes, one for each image of {images.name}, found"
                f" {labels.stat().st_size:,}; unpack stl10_binary.tar.gz again"
            )
        arrays.append(StoredArray(f"{split}_X", str(images), shape, byte, partial(_read_images, images, count)))
        arrays.append(StoredArray(f"{split}_y", str(labels), (count,), byte, partial(_read_labels, labels)))
    return arrays


def _read_images(path: Path, count: int) -> np.ndarray:
    # Each image is three planes, red first, each stored column by column.
    planes = np.fromfile(path, np.uint8).reshape(count, _CHANNELS, _SIDE, _SIDE)
    return np.ascontiguousarray(planes.transpose(0, 3, 2, 1))


def _read_labels(path: Path) -> np.ndarray:
    labels = np.fromfile(path, np.uint8)
    if labels.min() < 1 or labels.max() > 10:
        raise InputError(
            f"{path}: STL-10's labels are 1 to 10, found {labels.min()} to {labels.max()}; unpack it again"
        )
    return labels - 1
