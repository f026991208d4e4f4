"""Datasets of images and masks in memory: `load_masks`."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resjax.data.augment.options import IGNORED
from resjax.data.formats.stored_array import memory_size
from resjax.data.formats.tfds_directory import data_roots, example_features, find_version, open_split
from resjax.data.images.encoded import BrokenImage, file_bytes
from resjax.data.masks import shapes
from resjax.data.masks.catalog import MaskDatasetInfo, mask_dataset_info
from resjax.data.masks.labels import LabelTable, label_table
from resjax.data.masks.reading import StoredMask, image_shapes, read_image, read_mask
from resjax.data.masks.voc import Listed, listed_files
from resjax.data.source import pixels_digest
from resjax.errors import InputError, printable, unknown_name

_log = logging.getLogger(__name__)
_LONGEST_SIDE = 8192  # of a square that is not too large to be decoded
_PIXEL_BYTES = 4  # three of the image, one of the mask
# Photographs and their masks shrink to a sixtieth, and have canvases of twice their size.
_ALWAYS_HELD, _LARGEST_RATIO, _LARGEST_PADDING = 1 << 30, 250, 8
_WAY_OUT = "--longer_side makes all of them smaller"


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

    def label_counts(self) -> np.ndarray:
        """Number of pixels of each image with each stored label, int64 [N, 256], without those outside the image."""
        counts = [
            np.bincount(mask[:height, :width].reshape(-1), minlength=256)
            for mask, (height, width) in zip(self.masks, self.sizes, strict=True)
        ]
        return np.array(counts, np.int64).reshape(-1, 256)

    def image_digests(self) -> list[str]:
        """A digest of the size and the pixels of each image."""
        return [pixels_digest(image[:height, :width]) for image, _, (height, width) in zip(*self, strict=True)]

    def identity(self, num_classes: int) -> dict[str, Any]:
        """JSON that tells this split from another: the same for the same images and masks in the same order.

        Returns:
          {"images": their number, "pixels": labelled pixels of each class, "ignored_pixels", "fingerprint"}.
        """
        counts = self.label_counts().sum(0).tolist()
        masks = (
            pixels_digest(mask[:height, :width]) for mask, (height, width) in zip(self.masks, self.sizes, strict=True)
        )
        digests = "".join(image + mask for image, mask in zip(self.image_digests(), masks, strict=True))
        return {
            "images": len(self.images),
            "pixels": counts[:num_classes],
            "ignored_pixels": counts[IGNORED],
            "fingerprint": hashlib.blake2b(digests.encode(), digest_size=16).hexdigest(),
        }


def load_masks(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    longer_side: int = 0,
    mask_values: Sequence[int] | None = None,
) -> MaskDataset:
    """Loads one split of a dataset with masks.

    In a folder, an image with an EXIF orientation is turned upright, unless its mask has the size of the stored pixels.
    If the size does not tell, the image is turned, unless every other file of the split says the contrary.

    Args:
      name: one of `list_mask_datasets()`.
      split: e.g. one of `mask_dataset_info(name).splits`; for a folder laid out as VOC, a list NAME.txt in
        its ImageSets.
      data_dir: the folder laid out as VOC; not used for "shapes"; otherwise a TFDS data directory, by default the
        environment variable `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
      longer_side: length in pixels that the longer side of every image and mask is resized to; 0 keeps the sizes.
      mask_values: for a folder laid out as VOC: the stored value of each class, e.g. (0, 255). None: value k is class
        k, and 255 is ignored. See `resjax.data.masks.labels.label_table`.

    Raises:
      InputError: for an unknown name or split, no data, an empty split, a missing or unreadable image or mask, a mask
        of another size than its image, or a label outside the classes; the message names the file.
    """
    if not 0 <= longer_side <= _LONGEST_SIDE:
        raise InputError(
            f"longer_side (--longer_side): expected up to {_LONGEST_SIDE} pixels, or 0 to keep sizes, got {longer_side}"
        )
    try:
        return _load(name, split, data_dir, longer_side, mask_values)
    except OSError as error:  # permissions, a lost network disk, an impossible path
        raise InputError(f"data_dir {printable(data_dir)}: cannot be read ({printable(error)})") from error
    except MemoryError:
        raise InputError(
            f"{name} {split}: this machine has not enough memory for its images; longer_side (--longer_side) makes them"
            " smaller"
        ) from None


def _load(
    name: str, split: str, data_dir: str | os.PathLike | None, longer_side: int, mask_values: Sequence[int] | None
) -> MaskDataset:
    info = mask_dataset_info(name, data_dir)
    table = label_table(info, mask_values)
    if name == shapes.NAME:
        if split not in shapes.SPLIT_SIZES:
            raise unknown_name(f"split of {name}", str(split), shapes.SPLIT_SIZES)
        pairs = [_resized_pair(pair, longer_side) for pair in zip(*shapes.draw_split(split), strict=True)]
    elif info.folders:
        pairs = _folder_pairs(listed_files(name, info.folders, split, data_dir), table, longer_side, f"{name} {split}")
    else:
        pairs = list(_prepared_pairs(info, table, split, data_dir, longer_side))
    return _on_canvas(pairs)


def resized(image: np.ndarray, longer_side: int) -> np.ndarray:
    """Resizes an image or mask so that its longer side has `longer_side` pixels.

    Args:
      image: uint8 [H, W, 3], resized bicubically, or a mask uint8 [H, W], which keeps its labels (nearest).
      longer_side: pixels; 0 returns the image unchanged.
    """
    from PIL import Image

    if not longer_side:
        return image

    height, width = (max(round(side * longer_side / max(image.shape[:2])), 1) for side in image.shape[:2])
    method = Image.Resampling.BICUBIC if image.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize((width, height), method))


class _Held:
    """What the images of a split take in memory, each on a canvas for the largest. Too much is refused before it is.

    Args:
      number: of the images.
      name: of the split, for messages.
    """

    def __init__(self, number: int, name: str):
        self._number, self._name = number, name
        self._height = self._width = self._own = self._packed = 0

    def add(self, shape: tuple[int, ...], packed: int) -> None:
        """Counts an image, by its height and width in memory and the bytes of its files.

        Raises:
          InputError: for more than the machine has, and for files that unpack to far more than images do.
        """
        self._height, self._width = max(self._height, shape[0]), max(self._width, shape[1])
        self._own += shape[0] * shape[1] * _PIXEL_BYTES
        self._packed += packed
        if self._own > max(_ALWAYS_HELD, _LARGEST_RATIO * self._packed):
            raise InputError(
                f"{self._name}: refused: {self._packed:,} bytes of files unpack to {self._own:,}, more than"
                f" {_LARGEST_RATIO} times as many, which no photographs do; {_WAY_OUT}"
            )
        if self._canvases() > memory_size():
            raise self._too_large()

    def check(self) -> None:
        """Raises InputError where nearly all of the canvases is empty: images are long and high, or small and large."""
        if self._canvases() > max(_ALWAYS_HELD, _LARGEST_PADDING * self._own):
            raise self._too_large()

    def _canvases(self) -> int:
        return self._number * self._height * self._width * _PIXEL_BYTES

    def _too_large(self) -> InputError:
        return InputError(
            f"{self._name}: {self._number} images, each on a canvas of {self._height} x {self._width} pixels as the"
            f" largest: {self._canvases():,} bytes; {_WAY_OUT}"
        )


Pair = tuple[np.ndarray, np.ndarray]


def _resized_pair(pair: Pair, longer_side: int) -> Pair:
    return resized(pair[0], longer_side), resized(pair[1], longer_side)


def _folder_pairs(files: Sequence[Listed], table: LabelTable, longer_side: int, name: str) -> list[Pair]:
    """Images uint8 [H, W, 3] and masks uint8 [H, W] of files."""
    pairs: list[Pair] = []
    kept: list[int] = []
    fitting: list[int] = []
    unclear: list[int] = []
    blurred = pixels = 0
    held = _Held(len(files), name)
    for i, file in enumerate(files):
        data, mask_data = _bytes(file.image), _bytes(file.mask)
        mask = read_mask(mask_data, str(file.mask))
        stored, shown, is_turned = image_shapes(data, str(file.image))
        turned = stored == shown or mask.values.shape != stored
        if is_turned:
            (kept if not turned else unclear if stored == shown else fitting).append(i)
        pair = _pair(read_image(data, str(file.image), turned), mask, table, str(file.image), str(file.mask))
        pairs.append(_resized_pair(pair, longer_side))
        held.add(pairs[-1][1].shape, len(data) + len(mask_data))
        blurred += int(table.blurred[mask.values].sum())
        pixels += mask.values.size
    held.check()
    if kept:
        _log.warning(
            "%s: %d of %d images have masks as large as their pixels before the EXIF orientation turns them, for"
            " example %s: these are not turned",
            *(name, len(kept), len(files), files[kept[0]].image),
        )
        if not fitting:
            for i in unclear:
                image = read_image(_bytes(files[i].image), str(files[i].image), upright=False)
                pairs[i] = resized(image, longer_side), pairs[i][1]
        elif unclear:
            _log.warning(
                "%s: the EXIF orientation of %d images leaves their size as it is, for example %s: they are turned;"
                " check that their masks are, too",
                *(name, len(unclear), files[unclear[0]].image),
            )
    if blurred:
        _log.warning(
            "%s: %.2f %% of the masks' pixels have none of the given values; each counts as the nearer of the two",
            *(name, 100 * blurred / pixels),
        )
    return pairs


def _bytes(path: Path) -> bytes:
    try:
        return file_bytes(path)
    except BrokenImage as error:
        raise InputError(f"{path}: {error}") from None


def _prepared_pairs(
    info: MaskDatasetInfo, table: LabelTable, split: str, data_dir: str | os.PathLike | None, longer_side: int
) -> Iterator[Pair]:
    roots = data_roots(data_dir)
    version = find_version(info.name, roots)
    if version is None:
        raise InputError(
            f"{info.name} not found: looked for {info.name}/VERSION/dataset_info.json in"
            f" {' and '.join(map(str, roots))}. Prepare it with `tfds build {info.name}` on a machine with TensorFlow,"
            " and pass that folder as --data_dir"
        )
    size, records = open_split(version, split)
    held = _Held(size, f"{info.name} {split}")
    for number, (path, record) in enumerate(records):
        try:
            features = example_features(record)
        except Exception as error:  # protobuf raises its own exception types
            raise InputError(f"{path}: example {number} is damaged ({error}); prepare or copy it again") from error
        stored = [features[key].bytes_list.value for key in info.features]
        for key, values in zip(info.features, stored, strict=True):
            if len(values) != 1:
                raise InputError(f"{path}: example {number} of {split} has no {key!r}: prepare {info.name} again")
        names = (f"{path}, {key} of example {number}" for key in info.features)
        image_name, mask_name = names
        # Masks of published datasets belong to the pixels as stored.
        image = read_image(stored[0][0], image_name, upright=False)
        pair = _pair(image, read_mask(stored[1][0], mask_name), table, image_name, mask_name)
        pair = _resized_pair(pair, longer_side)
        held.add(pair[1].shape, len(record))
        yield pair
    held.check()


def _pair(image: np.ndarray, mask: StoredMask, table: LabelTable, image_name: str, mask_name: str) -> Pair:
    """An image and its labels, uint8 [H, W], both of one size."""
    if mask.values.shape != image.shape[:2]:
        raise InputError(
            f"{mask_name}: the mask has {mask.values.shape[1]} x {mask.values.shape[0]} pixels, its image {image_name}"
            f" {image.shape[1]} x {image.shape[0]}"
        )
    return image, table.apply(mask, mask_name)


def _on_canvas(pairs: Sequence[Pair]) -> MaskDataset:
    sizes = np.array([mask.shape for _, mask in pairs], np.int32)
    height, width = map(int, sizes.max(0))
    images = np.zeros((len(pairs), height, width, 3), np.uint8)
    masks = np.full((len(pairs), height, width), IGNORED, np.uint8)
    for i, (image, mask) in enumerate(pairs):
        images[i, : mask.shape[0], : mask.shape[1]] = image
        masks[i, : mask.shape[0], : mask.shape[1]] = mask
    return MaskDataset(images, masks, sizes)
