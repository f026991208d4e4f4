"""Small data sets of random pixels in official formats: directories by TFDS's own builders, and VOC's folder."""

import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tests.helpers.voc_folder import encoded, write_voc

CITYSCAPES, ADE20K = "cityscapes/semantic_segmentation", "scene_parse150"
# By feature of TFDS: the values that masks store.
_STORED = {"segmentation_label": range(34), "annotation": range(151)}


def write_prepared(root: pathlib.Path, name: str, sizes: Mapping[str, int]) -> pathlib.Path:
    """Writes a data set into a TFDS data directory, by the builder that TFDS has for it.

    Args:
      root: the data directory.
      name: cifar10, cifar100, svhn_cropped, mnist, imagenet2012, `CITYSCAPES` or `ADE20K`.
      sizes: number of images of each split.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    builder = tfds.builder(name, data_dir=root, file_format="array_record")
    builder._split_generators = lambda manager: {
        split: _examples(builder.info.features, split, size) for split, size in sizes.items()
    }
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return root


def write_pascal(root: pathlib.Path, folders: tuple[str, str], classes: int, sizes: Mapping[str, int]) -> pathlib.Path:
    """Writes a folder as PASCAL VOC's archives unpack: JPEG images, indexed PNG masks with outlines of 255, lists.

    Args:
      root: the folder.
      folders: that of the masks, and that of the lists in ImageSets.
      classes: number of classes.
      sizes: number of images of each split.
    """
    rng, images, labels, splits = np.random.default_rng(0), {}, {}, {}
    for split, size in sizes.items():
        names = [f"2008_{len(images) + number:06d}" for number in range(size)]
        splits[split] = "".join(f"{name}\n" for name in names)
        for number, name in enumerate(names):
            shape = _size((None, None), number)
            images[f"{name}.jpg"] = encoded(_pixels(rng, (*shape, 3)), "JPEG")
            labels[f"{name}.png"] = encoded(_mask(rng, (*shape, 1), [*range(classes), 255])[..., 0], palette=True)
    return write_voc(root, images, labels, splits, folders=folders)


def _examples(features: Mapping[str, Any], split: str, size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    rng = np.random.default_rng(len(split))
    for number in range(size):
        key = f"{split}_{number:05d}"  # the form of TFDS's ids
        example: dict[str, Any] = {}
        for name, feature in features.items():
            shape = feature.shape
            if getattr(feature, "num_classes", None):
                example[name] = number % feature.num_classes
            elif not shape:
                example[name] = key
            else:
                shape = (*_size(shape, number), shape[-1])
                pixels = _mask(rng, shape, _STORED[name]) if name in _STORED else _pixels(rng, shape)
                kind = "PNG" if name in _STORED or None not in feature.shape else "JPEG"
                options = {"compress_level": 1} if kind == "PNG" else {}
                example[name] = io.BytesIO(encoded(pixels.squeeze(), kind, **options))
        yield key, example


def _size(shape: Sequence[int | None], number: int) -> tuple[int, int]:
    """Height and width of the image of this number: those of its data set, or a photograph's, upright or lying."""
    height, width = shape[:2]
    return (height, width) if height and width else ((375, 500), (500, 334))[number % 2]


def _pixels(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Blocks of random colours: files of a usual size."""
    return _enlarged(rng.integers(0, 256, (8, 8, shape[-1]), np.uint8), shape)


def _mask(rng: np.random.Generator, shape: Sequence[int], stored: Sequence[int]) -> np.ndarray:
    """Blocks of random values, the same in each channel."""
    blocks = rng.choice(np.array(stored, np.uint8), (8, 8, 1))
    return np.repeat(_enlarged(blocks, shape), shape[-1], -1)


def _enlarged(blocks: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    rows, columns = (np.arange(size) * 8 // size for size in shape[:2])
    return blocks[rows][:, columns]
