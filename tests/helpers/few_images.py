"""The embedded data set with only its first images: commands read, train on and test all of what is there."""

import contextlib
import dataclasses
from collections.abc import Iterator

import pytest

from resjax.data import Dataset
from resjax.data.arrays import embedded
from resjax.data.catalog import CATALOG

_load, _INFO = embedded.load, CATALOG[embedded.NAME]


@contextlib.contextmanager
def few_images(train: int, test: int) -> Iterator[None]:
    """Within it, `cifar10_mini` is the first `train` and the first `test` of its images, in the same order."""
    sizes = {"train": train, "test": test}

    def load_few(_, split, data_dir):
        return Dataset(*(array[: sizes[split]] for array in _load(_INFO, split, data_dir)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "load", load_few)
        patch.setitem(CATALOG, embedded.NAME, dataclasses.replace(_INFO, split_sizes=sizes))
        yield
