"""The images that a classification run trains on, chooses an epoch by, and is judged on."""

from typing import NamedTuple

import numpy as np

from experiments.configs.base import Config
from resjax.data import Dataset, dataset_info, load_dataset
from resjax.errors import InputError
from resjax.models.families import find_family

# One division for all seeds of a config: they differ in nothing else.
_SEED = 0


class Splits(NamedTuple):
    """uint8 images [N, H, W, C] and int32 labels [N] each; `validation` None where a run has no such images.

    C is that of `input_channels`.
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset


def load_splits(config: Config) -> Splits:
    """Loads the images of a run; `validation_images` of those to train on are drawn and kept apart.

    Raises:
      InputError: for data that cannot be read, or are too few.
    """
    channels = input_channels(config.dataset, config.model.name)
    names = ("train", "extra") if config.extra else ("train",)
    parts = [with_channels(load_dataset(config.dataset, name, config.data_dir), channels) for name in names]
    whole = Dataset(*map(np.concatenate, zip(*parts, strict=True))) if config.extra else parts[0]
    test = with_channels(load_dataset(config.dataset, "test", config.data_dir), channels)
    if not config.validation_images:
        return Splits(whole, None, test)
    _check_validation(config, len(whole.labels))
    order = np.random.default_rng(_SEED).permutation(len(whole.labels))
    apart, rest = (np.sort(part) for part in np.split(order, [config.validation_images]))
    return Splits(_take(whole, rest), _take(whole, apart), test)


def training_size(config: Config) -> int:
    """How many images `load_splits` gives to train on, without reading them.

    Raises:
      InputError: where the data set has no `extra` images, or too few to keep so many apart.
    """
    info = dataset_info(config.dataset)
    if config.extra:
        info.require_split("extra")
    whole = info.split_sizes["train"] + (info.split_sizes["extra"] if config.extra else 0)
    _check_validation(config, whole)
    return whole - config.validation_images


def input_channels(dataset: str, model: str | None) -> int:
    """Of the images that a network of this name takes: 3, but 1 where it is for grayscale images and these are."""
    family = find_family(model or "")
    return dataset_info(dataset).image_shape[2] if family and family[0].input_shape[2] == 1 else 3


def with_channels(data: Dataset, channels: int) -> Dataset:
    """Grayscale images repeated to so many channels; others as they are."""
    return data._replace(images=np.repeat(data.images, channels, axis=-1)) if data.images.shape[-1] == 1 else data


def _check_validation(config: Config, images: int) -> None:
    if not 0 <= config.validation_images < images:
        raise InputError(
            f"--validation_images: expected a number from 0 to {images - 1:,}, of the {images:,} images of"
            f" {config.dataset}, got {config.validation_images:,}"
        )


def _take(data: Dataset, index: np.ndarray) -> Dataset:
    return Dataset(data.images[index], data.labels[index])
