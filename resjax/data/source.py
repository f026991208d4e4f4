"""A `Source` says where a split was found on disk; a `Dataset` holds the split in memory."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resjax.data.catalog import DatasetInfo
from resjax.errors import InputError

_log = logging.getLogger(__name__)


class Dataset(NamedTuple):
    """One split in memory, in its official order.

    Attributes:
      images: uint8 `[N, H, W, C]`, C-contiguous; grayscale has one channel.
      labels: int32 `[N]`, 0 .. num_classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray


class Source(NamedTuple):
    """Where a split was found, and how to read it.

    Attributes:
      path: the folder or archive, for the cache's key and for error messages.
      files: every file whose change makes an earlier reading stale.
      read: reads and decodes the split; raises `InputError` naming the file at fault.
      may_be_partial: whether it declares its own size, and `read` checks that (a TFDS directory with fewer examples).
    """

    path: Path
    files: tuple[Path, ...]
    read: Callable[[], Dataset]
    may_be_partial: bool = False


def pixels_digest(pixels: np.ndarray) -> str:
    """A digest of the shape and the values of a uint8 array."""
    content = hashlib.blake2b(str(pixels.shape).encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels).data)
    return content.hexdigest()


def checked(dataset: Dataset, info: DatasetInfo, split: str, origin: Path, may_be_partial: bool = False) -> Dataset:
    """Returns `dataset` C-contiguous, as uint8 `[N, H, W, C]` and int32 `[N]`.

    Raises:
      InputError: unless number, shape, dtype and label range are those of `info`; names `origin`. Where
        `may_be_partial`, a smaller number is a logged warning.
    """
    images, labels = dataset
    size = info.split_sizes[split]
    if may_be_partial and 0 < len(images) < size:
        _log.warning("%s: %s %s has %s images, this copy only %s", origin, info.name, split, size, len(images))
        size = len(images)
    expected = (size, *info.image_shape)
    if images.dtype != np.uint8 or images.shape != expected:
        raise InputError(
            f"{origin}: {info.name} {split} is uint8 images {list(expected)}, found {images.dtype} "
            f"{list(images.shape)}; copy or prepare the data again"
        )
    if labels.dtype.kind not in "iu" or labels.shape != expected[:1]:
        raise InputError(
            f"{origin}: {info.name} {split} has integer labels {list(expected[:1])}, found {labels.dtype} "
            f"{list(labels.shape)}; copy or prepare the data again"
        )
    low, high = labels.min(), labels.max()
    if low < 0 or high >= info.num_classes:
        raise InputError(
            f"{origin}: labels of {info.name} are 0 to {info.num_classes - 1}, found {low} to {high}; "
            "copy or prepare the data again"
        )
    return Dataset(np.ascontiguousarray(images), np.ascontiguousarray(labels, np.int32))
