"""The images that a classification run trains on, chooses an epoch by, and is judged on."""

import logging
from typing import NamedTuple

import numpy as np

from experiments.configs.base import Config
from resjax.data import Dataset, DatasetInfo, dataset_info, load_dataset
from resjax.data.arrays.files import NAME as ARRAYS
from resjax.data.source import pixels_digest
from resjax.errors import InputError
from resjax.models.registry import find_family

# One division for all seeds of a config: they differ in nothing else.
_SEED = 0
# Of arrays without test images, one of so many is kept to test on.
_HELD_OUT = 10

_log = logging.getLogger(__name__)


class Splits(NamedTuple):
    """uint8 images [N, H, W, C] and int32 labels [N] each; `validation` None where a run has no such images.

    C is that of `input_channels`.
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset


def load_splits(config: Config) -> Splits:
    """Loads the images of a run; `validation_images` of those to train on are drawn and kept apart.

    Of arrays, the test images are the split "test", or else "validation", or else a tenth of the others, which is said.

    Raises:
      InputError: for data that cannot be read, or are too few.
    """
    info = data_info(config)
    channels = input_channels(info, config.model.name)

    def load(split):
        return with_channels(load_dataset(config.dataset, split, config.data_dir), channels)

    train_split, test_split = _split_names(info)
    parts = [load(name) for name in ((train_split, "extra") if config.extra else (train_split,))]
    whole = Dataset(*map(np.concatenate, zip(*parts, strict=True))) if config.extra else parts[0]
    if test_split is None:
        tested = held_out(whole.labels)
        _log.warning(
            "%s: no test images; every tenth image, class by class, is kept to test on: %s of %s",
            config.data_dir,
            f"{len(tested):,}",
            f"{len(whole.labels):,}",
        )
        test, whole = take(whole, tested), take(whole, np.setdiff1d(np.arange(len(whole.labels)), tested))
    else:
        test = load(test_split)
        if test_split == "validation":
            _log.warning("%s: no test images; the error is that on its validation images", config.data_dir)
    if config.dataset == ARRAYS:
        warn_of_training_images(test, whole, str(config.data_dir))
    if not config.validation_images:
        return Splits(whole, None, test)
    _check_validation(config, len(whole.labels))
    order = np.random.default_rng(_SEED).permutation(len(whole.labels))
    apart, rest = (np.sort(part) for part in np.split(order, [config.validation_images]))
    return Splits(take(whole, rest), take(whole, apart), test)


def warn_of_training_images(test: Dataset, train: Dataset, of: str) -> None:
    """Says how many test images are training images, too, if any is."""
    known = set(map(pixels_digest, train.images))
    repeated = sum(pixels_digest(image) in known for image in test.images)
    if repeated:
        _log.warning(
            "%s: %s of %s test images are training images, too: the error on them says nothing of new images",
            *(of, f"{repeated:,}", f"{len(test.images):,}"),
        )


def training_size(config: Config) -> int:
    """How many images `load_splits` gives to train on, without reading them.

    Raises:
      InputError: where the data set has no `extra` images, or too few to keep so many apart.
    """
    info = data_info(config)
    if config.extra:
        info.require_split("extra")
    train_split, test_split = _split_names(info)
    whole = info.split_sizes[train_split] + (info.split_sizes["extra"] if config.extra else 0)
    whole -= whole // _HELD_OUT if test_split is None else 0
    _check_validation(config, whole)
    return whole - config.validation_images


def stand_in_splits(config: Config) -> Splits:
    """Random images of the number and shape of those of `load_splits`, to compile programs without the data.

    Raises:
      InputError: like `training_size`.
    """
    info, rng = data_info(config), np.random.default_rng(_SEED)
    shape = (*info.image_shape[:2], input_channels(info, config.model.name))
    train_split, test_split = _split_names(info)
    test = info.split_sizes[test_split] if test_split else info.split_sizes[train_split] // _HELD_OUT

    def images(number):
        pixels = rng.integers(0, 256, (number, *shape), dtype=np.uint8)
        return Dataset(pixels, rng.integers(0, info.num_classes, number, dtype=np.int32))

    validation = images(config.validation_images) if config.validation_images else None
    return Splits(images(training_size(config)), validation, images(test))


def data_info(config: Config) -> DatasetInfo:
    """What is known about a config's data set.

    Raises:
      InputError: for an unknown one, and arrays that cannot be used.
    """
    return dataset_info(config.dataset, config.data_dir)


def input_channels(info: DatasetInfo, model: str | None) -> int:
    """Of the images that a network of this name takes: those of the data set, but 3 for gray images.

    Unless the network is one for gray images.
    """
    family, channels = find_family(model or ""), info.image_shape[2]
    return 3 if channels == 1 and not (family and family.input_shape[2] == 1) else channels


def _split_names(info: DatasetInfo) -> tuple[str, str | None]:
    """The splits to train and to test on; None: a part of the former. A file of arrays may have others than usual."""
    sizes = info.split_sizes
    train = next((split for split in ("train", "all") if split in sizes), None)
    if train is None:
        raise InputError(
            f"{info.description}: no images to train on; expected x_train and y_train, or images and labels"
        )
    test = next((split for split in ("test", "validation") if split in sizes), None)
    if test is None and sizes[train] < _HELD_OUT:
        raise InputError(f"{info.description}: too few, and none to test on; expected at least {_HELD_OUT}")
    return train, test


def held_out(labels: np.ndarray) -> np.ndarray:
    """Positions of the images that a run on arrays without test images is tested on, int64 [N // 10].

    They are every tenth, class by class, in a random order that is always the same.
    """
    order = np.random.default_rng(_SEED).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    return np.sort(by_class[_HELD_OUT - 1 :: _HELD_OUT])


def with_channels(data: Dataset, channels: int) -> Dataset:
    """Grayscale images repeated to so many channels; others as they are."""
    return data._replace(images=np.repeat(data.images, channels, axis=-1)) if data.images.shape[-1] == 1 else data


def severities(data: Dataset, number: int = 5) -> list[Dataset]:
    """The parts of a file as CIFAR-10-C has them: five severities of all test images, one behind the other.

    They are told by their labels, which are the same five times; all other data come back as one part.
    """
    size, rest = divmod(len(data.labels), number)
    if rest or size < 2 or not (data.labels.reshape(number, size) == data.labels[:size]).all():
        return [data]
    return [take(data, slice(i * size, (i + 1) * size)) for i in range(number)]


def _check_validation(config: Config, images: int) -> None:
    if not 0 <= config.validation_images < images:
        raise InputError(
            f"--validation_images: expected a number from 0 to {images - 1:,}, of the {images:,} images of"
            f" {config.dataset}, got {config.validation_images:,}"
        )


def take(data: Dataset, index: np.ndarray | slice) -> Dataset:
    """The images at `index`, with their labels."""
    return Dataset(data.images[index], data.labels[index])
