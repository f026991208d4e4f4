"""Maps the values that masks store to labels."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from resjax.data.augment.options import IGNORED
from resjax.data.masks.catalog import MaskDatasetInfo
from resjax.data.masks.reading import StoredMask
from resjax.errors import InputError

_VALUES = 2**16
_INVALID = -1


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """The label of each value.

    Attributes:
      labels: int16 [65536], `_INVALID` for a value that is an error.
      blurred: bool [65536], values that are mapped to the nearer of two, see `label_table`.
      middle: the first and last of the values that are far from both.
      expected: the valid values, for messages.
      way_out: for messages about other values.
      is_own: whether the masks are a user's own, so that `mask_values` can be given.
    """

    labels: np.ndarray
    blurred: np.ndarray
    middle: tuple[int, int] | None
    expected: str
    way_out: str
    is_own: bool

    def apply(self, mask: StoredMask, name: str) -> np.ndarray:
        """The labels of a mask, uint8 [H, W].

        Raises:
          InputError: for a value without a label, or a mask whose compression changes labels.
        """
        values = mask.values
        if mask.is_one_bit and (self.labels[1] == _INVALID or self.blurred[1]):
            values = np.where(values, np.uint8(255), np.uint8(0))  # as black and white are shown
        if mask.is_lossy and self.middle is None:
            raise InputError(
                f"{name}: JPEG changes the values of a mask, so that its labels are lost; save masks as PNG. Of two"
                " classes in black and white, --mask_values 0 255 takes the nearer one"
            )
        counts = np.bincount(values.reshape(-1), minlength=_VALUES)
        unknown = np.flatnonzero((counts > 0) & (self.labels == _INVALID))
        if self.middle and not len(unknown):
            # Blurred outlines have many values with few pixels each. A value with many pixels has a meaning of its own.
            first, last = self.middle
            unknown = first + np.flatnonzero(counts[first : last + 1] >= max(0.02 * values.size, 16))
        if len(unknown):
            row, column = np.argwhere(np.isin(values, unknown))[0]
            raise InputError(
                f"{name}: label {values[row, column]} at row {row}, column {column}; expected {self.expected}"
                f"{self._advice(counts)}"
            )
        return self.labels[values].astype(np.uint8)

    def _advice(self, counts: np.ndarray) -> str:
        if not self.is_own:
            return f"; {self.way_out}"
        present = np.flatnonzero(counts)
        near = counts[:32].sum() + counts[224:256].sum()
        if self.middle is None and counts[224:255].any() and near >= 0.95 * counts.sum():
            return (
                "; the mask looks like black and white after a lossy compression: --mask_values 0 255 reads two classes"
                " so, each pixel as the nearer of the two"
            )
        if len(present) <= 12:
            values = " ".join(map(str, present))
            return f"; {self.way_out}, or, where its values {values} are classes in this order, give --mask_values"
        return f"; {self.way_out}"


def label_table(info: MaskDatasetInfo, mask_values: Sequence[int] | None = None) -> LabelTable:
    """The labels of a dataset's values.

    Args:
      info: the dataset. Its own `labels` apply if it has them; otherwise value k is class k.
      mask_values: for a folder: the value of each class, in the order of the classes. If there are two that differ by
        32 or more, values between them are mapped to the nearer one, because compression and resizing blur outlines. A
        value far from both that 2 % of a mask's pixels have is an error. 255 is ignored unless it is in the list.

    Raises:
      InputError: for `mask_values` of a dataset with values of its own, or without one distinct value per class.
    """
    labels = np.full(_VALUES, _INVALID, np.int16)
    blurred = np.zeros(_VALUES, bool)
    names = f"{info.classes_from or info.name} names {info.num_classes} classes"
    if info.labels:
        if mask_values is not None:
            raise InputError(f"--mask_values: {info.name} has values of its own; leave it out")
        for stored, label in info.labels:
            labels[stored] = label
        return _table(labels, blurred, None, f"prepare {info.name} again", is_own=False)
    labels[IGNORED] = IGNORED
    if mask_values is None:
        labels[: info.num_classes] = np.arange(info.num_classes)
        return _table(labels, blurred, None, names)
    values = [int(value) for value in mask_values]
    if len(values) != info.num_classes:
        raise InputError(
            f"--mask_values: expected the value of each of {info.num_classes} classes, got {len(values)}; {names},"
            " a file classes.txt in --data_dir names yours, one a line"
        )
    if len(set(values)) < len(values) or not all(0 <= value < _VALUES for value in values):
        raise InputError(f"--mask_values: expected different values from 0 to {_VALUES - 1}, got {values}")
    middle = None
    low, high = min(values), max(values)
    if len(values) == 2 and high - low >= 32:
        quarter = (high - low) // 4
        near = np.arange(max(low - quarter, 0), min(high + quarter + 1, _VALUES))
        near = near[near != IGNORED]
        labels[near] = np.where(near - low < high - near, values.index(low), values.index(high))
        blurred[near] = True
        middle = low + quarter, high - quarter
    labels[values] = np.arange(len(values))
    blurred[values] = False
    listed = ", ".join(map(str, values)) + ("" if IGNORED in values else f", {IGNORED}")
    return _table(labels, blurred, middle, names, expected=f"{listed} (--mask_values)")


def _table(
    labels: np.ndarray,
    blurred: np.ndarray,
    middle: tuple[int, int] | None,
    way_out: str,
    is_own: bool = True,
    expected: str = "",
) -> LabelTable:
    expected = expected or ", ".join(_ranges(np.flatnonzero(labels != _INVALID)))
    return LabelTable(labels, blurred, middle, expected, way_out, is_own)


def _ranges(values: np.ndarray) -> list[str]:
    """E.g. ["0 to 20", "255"]."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
