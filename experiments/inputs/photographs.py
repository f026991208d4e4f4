"""Photographs: what a network sees of them in training and in evaluation, and what was found of them."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.configs.imagenet.fields import ImagenetConfig
from experiments.inputs.batches import StreamedImages
from resjax import preprocessing
from resjax.data.images import (
    CentreCrop,
    EvaluationImages,
    FiveCrops,
    ImageDataset,
    ImageSource,
    RandomResizedCrop,
    RandomScaleCrop,
    ThreeSquares,
    View,
    default_workers,
)
from resjax.data.normalization import Normalization
from resjax.errors import InputError
from resjax.interop.network_input import Preprocessing, preprocessing_of

# Of ImageNet's images, on the 0-255 scale (fb.resnet.torch).
NORMALIZE = Normalization(np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375]))


def known_input(data: Mapping[str, Any] | None, source: str) -> Preprocessing | None:
    """The input of the weights that a run started from, of its `data` in config.json; None where it has its own."""
    return preprocessing_of(data["input"], source) if data and "input" in data else None


def normalization(config: ImagenetConfig, known: Preprocessing | None = None) -> Normalization:
    """What a config's network takes of uint8 images; `known` is that of `known_input`, of a finished run.

    Raises:
      InputError: for weights that take the mean of each pixel off, of another size than the images.
    """
    if config.normalization == "imagenet":
        return NORMALIZE
    preprocess = known or preprocessing(str(config.pretrained))
    size = preprocess.mean.shape[:-1]
    if size and size != (config.image_size, config.image_size):
        raise InputError(
            f"--image_size: {config.pretrained} takes the mean of each of {size[0]}x{size[1]} pixels off, got"
            f" {config.image_size}"
        )
    return Normalization(*(jnp.asarray(array) for array in (preprocess.mean, preprocess.std)))


def check_options(config: ImagenetConfig) -> None:
    """Raises InputError for numbers that no run on photographs can have."""
    if config.workers is not None and config.workers < 0:
        raise InputError(f"--workers: expected a number >= 0, got {config.workers}")
    if config.repeats < 1 or config.batch_size % config.repeats:
        raise InputError(f"--repeats: expected a divisor of the batch size {config.batch_size}, got {config.repeats}")
    if not config.eval_scales or not all(scale > 0 for scale in config.eval_scales):
        raise InputError(f"--eval_scales: expected positive numbers, got {config.eval_scales}")
    train_view(config)
    eval_views(config)


def scales_for(size: int, scales: tuple[int, ...]) -> tuple[int, ...]:
    """Scales of `multi_scale` for crops of `size` pixels: others than ImageNet's are meant, those follow the size."""
    if scales != ImagenetConfig.eval_scales:
        return scales
    return tuple(round(scale * size / ImagenetConfig.eval_size) for scale in scales)


def streamed_training(dataset: ImageDataset, config: ImagenetConfig) -> StreamedImages:
    """The training images as `config` reads them."""
    return _streamed(dataset.train, (train_view(config),), config, config.repeats)


def streamed_evaluation(images: ImageSource, config: ImagenetConfig) -> StreamedImages:
    """Images to evaluate on as `config` reads them."""
    return _streamed(images, eval_views(config), config, 1)


def _streamed(images: ImageSource, views: tuple[View, ...], config: ImagenetConfig, repeats: int) -> StreamedImages:
    workers = default_workers() if config.workers is None else config.workers
    skip = config.broken_images == "skip"
    return StreamedImages(images, views, workers, repeats, skip, config.exif_orientation)


def report_found(dataset: ImageDataset | EvaluationImages, config: ImagenetConfig, console: Console) -> None:
    """Says what is peculiar to the images that were found; raises InputError for one that is none, if it is to."""
    for note in dataset.notes:
        console.print(note, highlight=False, markup=False)
    if dataset.oriented:
        done = {"ignore": "not turned: --exif_orientation apply turns them", "apply": "turned upright"}
        console.print(
            f"{dataset.oriented:,} images or more have a note of their camera that they do not lie upright; they are"
            f" {done[config.exif_orientation]}",
            highlight=False,
        )
    for path, reason in dataset.broken:
        if config.broken_images == "fail":
            raise InputError(f"{path}: broken image ({reason}); mend it, or use --broken_images skip")
        console.print(f"broken: {path} ({reason}), left out", highlight=False, markup=False)


def train_view(config: ImagenetConfig) -> View:
    """What is seen of a training image."""
    if config.crop == "centre":
        return CentreCrop(config.image_size * config.eval_resize // config.eval_size, config.image_size)
    if config.crop == "resized":
        return RandomResizedCrop(config.image_size, config.min_area)
    return RandomScaleCrop(config.image_size, config.shortest_side, config.longest_side)


def eval_views(config: ImagenetConfig) -> tuple[View, ...]:
    """What is seen of a test image."""
    if config.eval_mode == "multi_scale":
        return tuple(ThreeSquares(scale) for scale in config.eval_scales)
    crop = FiveCrops if config.eval_mode == "ten_crops" else CentreCrop
    return (crop(config.eval_resize, config.eval_size),)
