"""Checks that a user's arrays are images and labels; the messages say how to save them otherwise."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from resjax.data.formats.stored_array import StoredArray
from resjax.errors import InputError

_log = logging.getLogger(__name__)
_MOST_CHANNELS_FIRST = 4


class Labels(NamedTuple):
    """Labels of one split.

    Attributes:
      values: int64 [N].
      num_classes: the number of columns if they were stored one-hot, else None.
      origin: file and array, for error messages.
    """

    values: np.ndarray
    num_classes: int | None
    origin: str


def image_shape(array: StoredArray) -> tuple[int, int, int]:
    """(H, W, C) of an array of images, from its header.

    Raises:
      InputError: unless it is uint8 [N, H, W, C] or [N, H, W].
    """
    shape = array.shape
    found = f"{array.origin}: expected images uint8 [N, H, W, C] or [N, H, W], found {array.dtype} {list(shape)}"
    if array.dtype.hasobject:
        raise _objects(array)
    if len(shape) not in (3, 4):
        raise InputError(f"{found}; save images.reshape(N, H, W, C), of one size")
    if len(shape) == 4 and shape[1] <= _MOST_CHANNELS_FIRST < shape[3]:
        raise InputError(f"{found}, which has the channels first; save images.transpose(0, 2, 3, 1)")
    if array.dtype != np.uint8:
        raise InputError(f"{found}; save values from 0 to 255 as np.uint8{_scaling(array)}")
    if not all(shape):
        raise InputError(f"{found}: there are no images in it")
    height, width, channels = (*shape[1:], 1) if len(shape) == 3 else shape[1:]
    return height, width, channels


def _scaling(array: StoredArray) -> str:
    return ": for values from 0 to 1, (255 * images).round().astype(np.uint8)" if array.dtype.kind == "f" else ""


def read_labels(array: StoredArray, images: StoredArray) -> Labels:
    """Reads the labels of images: integers [N] or [N, 1], or one-hot rows [N, K].

    Raises:
      InputError: for anything else, another number than of images, or a negative label.
    """
    if array.dtype.hasobject:
        raise _objects(array)
    shape, kind = array.shape, array.dtype.kind
    found = f"{array.origin}: expected integer labels [N], [N, 1] or one-hot [N, K], found {array.dtype} {list(shape)}"
    if len(shape) not in (1, 2) or kind not in "biuf":
        way_out = "class_names, labels = np.unique(labels, return_inverse=True)" if kind in "US" else "one integer each"
        raise InputError(f"{found}; save {way_out}")
    if shape[0] != images.shape[0]:
        raise InputError(
            f"{array.origin}: {shape[0]:,} labels for the {images.shape[0]:,} images of {images.name}; save as many of"
            " both, in one order"
        )
    values = array.read()
    if len(shape) == 2 and shape[1] != 1:
        return Labels(_from_one_hot(values, found), shape[1], array.origin)
    values = values.reshape(-1)
    if kind == "f":
        nan = f", {int(np.isnan(values).sum()):,} of them NaN" if np.isnan(values).any() else ""
        raise InputError(f"{found}{nan}; save whole numbers from 0 as labels.astype(np.int64)")
    if len(values) and values.min() < 0:
        at = int(values.argmin())
        raise InputError(f"{array.origin}: label {values[at]} of image {at:,}; expected labels from 0, one a class")
    if len(values) and values.max() > np.iinfo(np.int32).max:
        raise InputError(f"{array.origin}: label {values.max()}; expected labels from 0, one a class")
    return Labels(values.astype(np.int64), None, array.origin)


def _from_one_hot(values: np.ndarray, found: str) -> np.ndarray:
    if not np.isin(values, (0, 1)).all():
        raise InputError(f"{found}, whose rows are not one-hot; save one integer an image")
    ones = values.sum(1, dtype=np.int64)
    if (ones != 1).any():
        row = int(np.flatnonzero(ones != 1)[0])
        raise InputError(
            f"{found}: several labels an image (row {row:,} has {ones[row]} ones); this is classification with one"
            " label an image: choose one column, and save it as integers"
        )
    return values.argmax(1)


def check_classes(labels: dict[str, Labels], class_names: Sequence[str] | None, origin: str) -> tuple[str, ...]:
    """The names of the classes; "0" .. "K-1" if the file has none.

    K is the number of names. Without names it is the number of one-hot columns, or else the largest label + 1.

    Raises:
      InputError: for labels that are out of range, count from 1, or leave most classes without a training image.
    """
    declared = {split: one.num_classes for split, one in labels.items() if one.num_classes}
    if len(set(declared.values())) > 1:
        said = ", ".join(f"{split} {number}" for split, number in declared.items())
        raise InputError(f"{origin}: one-hot labels of different widths: {said}; save them with the same classes")
    present = {split: np.unique(one.values) for split, one in labels.items()}
    largest = max(int(values[-1]) for values in present.values())
    number = len(class_names) if class_names else next(iter(declared.values()), None)
    for one in labels.values():
        if number and one.values.max() >= number:
            at = int(one.values.argmax())
            raise InputError(
                f"{one.origin}: label {one.values[at]} of image {at:,}; expected 0 to {number - 1}, as there are"
                f" {number} classes"
            )
    counted = number is None
    from_one = counted and all(values[0] > 0 for values in present.values())
    number = number or largest + 1
    names = tuple(class_names or map(str, range(number)))
    if "train" not in present:
        if from_one:
            low = min(int(values[0]) for values in present.values())
            _log.warning("%s: labels %s to %s, none is 0; if they count from 1, save labels - 1", origin, low, largest)
        return names
    origin, train = labels["train"].origin, present["train"]
    if from_one:
        raise InputError(
            f"{origin}: labels are {train[0]} to {train[-1]}, none is 0; expected 0 to K-1: save labels - {train[0]}"
        )
    if len(train) < 2:
        raise InputError(f"{origin}: all training images have the label {train[0]}; expected two classes or more")
    if counted and 2 * len(train) < number:
        raise InputError(
            f"{origin}: {len(train)} different labels, up to {largest}, of {number} classes; expected 0 to K-1: save"
            " np.unique(labels, return_inverse=True)[1], and leave out images without a label"
        )
    missing = sorted(set(range(number)) - set(train.tolist()))
    if missing:
        listed = ", ".join(names[label] for label in missing[:5]) + (", .." if len(missing) > 5 else "")
        _log.warning("%s: no training image of %s of %s classes: %s", origin, len(missing), number, listed)
    return names


def _objects(array: StoredArray) -> InputError:
    return InputError(
        f"{array.origin}: holds Python objects (a pickle), which are never loaded as they can run code; save images of"
        " one size as np.stack(images).astype(np.uint8), and labels as integers"
    )
