"""Datasets of images and masks in memory: `load_masks`."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resjax.data import shapes
from resjax.data.augment_masks import IGNORED
from resjax.data.mask_catalog import MaskDatasetInfo, mask_dataset_info
from resjax.data.tfds_directory import open_split, version_directory
from resjax.errors import InputError, unknown_name

_INVALID = -1


class MaskDataset(NamedTuple):
    """One split, every image at the top left of a canvas as large as the largest.

    Attributes:
      images: uint8 [N, H, W, 3], zero outside of the image.
      masks: uint8 [N, H, W], 0 .. num_classes - 1, or 255 where no label counts and outside of the image.
      sizes: int32 [N, 2], height and width of each image.
    """

    images: np.ndarray
    masks: np.ndarray
    sizes: np.ndarray


def load_masks(name: str, split: str, data_dir: str | os.PathLike | None = None, longer_side: int = 0) -> MaskDataset:
    """Loads one split of a dataset with masks.

    Args:
      name: one of `list_mask_datasets()`.
      split: e.g. one of `mask_dataset_info(name).splits`; of a folder as VOC's, a list NAME.txt in
        its ImageSets.
      data_dir: of a folder as VOC's that folder, for "shapes" not used, otherwise a TFDS data directory, by default
        that of the environment variable `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
      longer_side: pixels to which the longer side of every image and mask is resized; 0 keeps their sizes.

    Raises:
      InputError: for an unknown name or split, no data, an empty split, a missing or unreadable image or mask, a mask
        of another size than its image, or a label outside the classes; the message names the file.
    """
    info = mask_dataset_info(name, data_dir)
    if name == shapes.NAME:
        if split not in shapes.SPLIT_SIZES:
            raise unknown_name(f"split of {name}", str(split), shapes.SPLIT_SIZES)
        pairs = zip(*shapes.draw_split(split), strict=True)
    elif info.folders:
        pairs = _voc_pairs(info, split, data_dir)
    else:
        pairs = _prepared_pairs(info, split, data_dir)
    pairs = ((resized(image, longer_side), resized(mask, longer_side)) for image, mask in pairs)
    return _on_canvas(pairs, f"{name} {split}")


def resized(image: np.ndarray, longer_side: int) -> np.ndarray:
    """An image or mask whose longer side has so many pixels.

    Args:
      image: uint8 [H, W, 3], resized bicubically, or a mask uint8 [H, W], which keeps its labels (nearest).
      longer_side: pixels; 0 gives it back as it is.
    """
    from PIL import Image

    if not longer_side:
        return image

    height, width = (max(round(side * longer_side / max(image.shape[:2])), 1) for side in image.shape[:2])
    method = Image.Resampling.BICUBIC if image.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize((width, height), method))


Pair = tuple[np.ndarray, np.ndarray]


def _voc_pairs(info: MaskDatasetInfo, split: str, data_dir: str | os.PathLike | None) -> Iterator[Pair]:
    of_masks, of_lists = info.folders
    if data_dir is None:
        raise InputError(f"{info.name}: give the folder that has JPEGImages, {of_masks} and ImageSets as --data_dir")
    root = Path(data_dir).expanduser()
    lists = root / "ImageSets" / of_lists
    path = lists / f"{split}.txt"
    if not path.is_file():
        there = sorted(file.stem for file in lists.glob("*.txt"))
        known = f"there are {', '.join(there)}" if there else f"{lists} has no lists"
        raise InputError(f"{path}: not found; {known}; check --data_dir and the split")
    names = path.read_text(encoding="utf-8").split()
    if not names:
        raise InputError(f"{path}: the split is empty; expected a name of an image on each line")
    labels = np.full(256, _INVALID)
    labels[: info.num_classes] = np.arange(info.num_classes)
    labels[IGNORED] = IGNORED
    # All names first: a mask that is missing is found before minutes of decoding.
    found = [(_image_file(root, name), root / of_masks / f"{name}.png") for name in names]
    for _, mask in found:
        if not mask.is_file():
            raise InputError(f"{mask}: the mask is missing, of an image that {path} lists")
    for image, mask in found:
        yield _pair(image.read_bytes(), mask.read_bytes(), labels, str(image), str(mask))


def _image_file(root: Path, name: str) -> Path:
    for suffix in (".jpg", ".jpeg", ".png"):
        if (path := root / "JPEGImages" / f"{name}{suffix}").is_file():
            return path
    raise InputError(f"{root / 'JPEGImages' / name}.jpg: the image is missing (.jpeg and .png too), a split lists it")


def _prepared_pairs(info: MaskDatasetInfo, split: str, data_dir: str | os.PathLike | None) -> Iterator[Pair]:
    from tensorflow_datasets.proto import tf_example_pb2

    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    roots = (root, root / "tensorflow_datasets")
    version = next((found for folder in roots if (found := version_directory(info.name, folder))), None)
    if version is None:
        raise InputError(
            f"{info.name} not found: looked for {info.name}/VERSION/dataset_info.json in"
            f" {' and '.join(map(str, roots))}. Prepare it with `tfds build {info.name}` on a machine with TensorFlow,"
            " and pass that folder as --data_dir"
        )
    size, records = open_split(version, split)
    if not size:
        raise InputError(f"{version}: the split {split!r} is empty; prepare it again")
    labels = np.full(256, _INVALID)
    for stored, label in info.labels:
        labels[stored] = label
    for number, (path, record) in enumerate(records):
        try:
            features = tf_example_pb2.Example.FromString(record).features.feature
        except Exception as error:  # protobuf raises its own types
            raise InputError(f"{path}: example {number} is damaged ({error}); prepare or copy it again") from error
        stored = [features[key].bytes_list.value for key in info.features]
        for key, values in zip(info.features, stored, strict=True):
            if len(values) != 1:
                raise InputError(f"{path}: example {number} of {split} has no {key!r}: prepare {info.name} again")
        names = (f"{path}, {key} of example {number}" for key in info.features)
        yield _pair(stored[0][0], stored[1][0], labels, *names)


def _pair(image_file: bytes, mask_file: bytes, labels: np.ndarray, image_name: str, mask_name: str) -> Pair:
    """Image uint8 [H, W, 3] and mask uint8 [H, W] of two files."""
    image = _decoded(image_file, image_name, "RGB")
    mask = _decoded(mask_file, mask_name)
    if mask.ndim == 3 and (mask == mask[..., :1]).all():  # gray, stored as three equal channels
        mask = mask[..., 0]
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise InputError(
            f"{mask_name}: expected an indexed or gray image of 8 bits, whose values are labels; found"
            f" {mask.dtype} {list(mask.shape)}"
        )
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"{mask_name}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, its image {image_name}"
            f" {image.shape[1]} x {image.shape[0]}"
        )
    mapped = labels[mask]
    if (mapped == _INVALID).any():
        row, column = np.argwhere(mapped == _INVALID)[0]
        expected = ", ".join(_ranges(np.flatnonzero(labels != _INVALID)))
        raise InputError(f"{mask_name}: label {mask[row, column]} at row {row}, column {column}; expected {expected}")
    return image, mapped.astype(np.uint8)


def _decoded(file: bytes, name: str, mode: str | None = None) -> np.ndarray:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(file))
        return np.asarray(image.convert(mode) if mode else image)
    except Exception as error:  # Pillow's decoders raise many types.
        raise InputError(f"{name}: damaged or no image ({error}); get it again") from error


def _ranges(values: np.ndarray) -> list[str]:
    """E.g. ["0 to 20", "255"]."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]


def _on_canvas(pairs: Iterator[Pair], name: str) -> MaskDataset:
    pairs = list(pairs)
    if not pairs:
        raise InputError(f"{name}: the split is empty")
    sizes = np.array([mask.shape for _, mask in pairs], np.int32)
    height, width = sizes.max(0)
    images = np.zeros((len(pairs), height, width, 3), np.uint8)
    masks = np.full((len(pairs), height, width), IGNORED, np.uint8)
    for i, (image, mask) in enumerate(pairs):
        images[i, : mask.shape[0], : mask.shape[1]] = image
        masks[i, : mask.shape[0], : mask.shape[1]] = mask
    return MaskDataset(images, masks, sizes)
