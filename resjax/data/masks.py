"""Datasets of images and masks in memory: `load_masks` and what is known about each one."""

import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resjax.data import shapes
from resjax.data.augment_masks import IGNORED
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


@dataclasses.dataclass(frozen=True)
class MaskDatasetInfo:
    """Facts about a dataset with masks.

    Attributes:
      name: the name that `load_masks` takes; the TFDS name, except for "shapes" and folders as PASCAL VOC has them.
      class_names: name of each label, in label order.
      splits: the splits to train on and to test on, by default.
      description: one line for a person.
      features: TFDS's names of image and mask.
      labels: label of each stored value: pairs; a value that is in none is an error.
      folders: of a folder as PASCAL VOC has it: those of the masks and, in ImageSets, of the lists.
    """

    name: str
    class_names: tuple[str, ...]
    splits: tuple[str, str]
    description: str
    features: tuple[str, str] = ("", "")
    labels: tuple[tuple[int, int], ...] = ()
    folders: tuple[str, str] | None = None

    @property
    def num_classes(self) -> int:
        """Labels are 0 .. num_classes - 1."""
        return len(self.class_names)


_VOC_CLASSES = tuple(
    """background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
    pottedplant sheep sofa train tvmonitor""".split()
)
# Mottaghi et al. 2014, the 59 most frequent classes, in the order that converters of its 459 give them: alphabetical.
_PASCAL_CONTEXT_CLASSES = tuple(
    """background aeroplane bag bed bedclothes bench bicycle bird boat book bottle building bus cabinet car cat ceiling
    chair cloth computer cow cup curtain dog door fence floor flower food grass ground horse keyboard light motorbike
    mountain mouse person plate platform pottedplant road rock sheep shelves sidewalk sign sky snow sofa table track
    train tree truck tvmonitor wall water window wood""".split()
)
_CITYSCAPES_CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
# cityscapesScripts, helpers/labels.py: the ids of the 19 classes that are evaluated, of the 34 that are stored.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

_CATALOG = {
    info.name: info
    for info in (
        MaskDatasetInfo(
            shapes.NAME,
            shapes.CLASS_NAMES,
            ("train", "test"),
            f"shapes: {sum(shapes.SPLIT_SIZES.values()):,} drawn images of textured geometric objects, 64x64 pixels,"
            " exact masks",
        ),
        MaskDatasetInfo(
            "voc",
            _VOC_CLASSES,
            ("train", "val"),
            "a folder as PASCAL VOC 2012: JPEGImages, SegmentationClass, ImageSets/Segmentation",
            folders=("SegmentationClass", "Segmentation"),
        ),
        MaskDatasetInfo(
            "pascal_context",
            _PASCAL_CONTEXT_CLASSES,
            ("train", "val"),
            "PASCAL Context, in VOC 2010's folder: JPEGImages, SegmentationClassContext, ImageSets/SegmentationContext",
            folders=("SegmentationClassContext", "SegmentationContext"),
        ),
        MaskDatasetInfo(
            "oxford_iiit_pet",
            ("pet", "background", "outline"),
            ("train", "test"),
            "Oxford-IIIT Pet: 7,349 photographs of cats and dogs, trimaps",
            ("image", "segmentation_mask"),
            ((1, 0), (2, 1), (3, 2)),
        ),
        MaskDatasetInfo(
            "scene_parse150",
            tuple(f"class {i}" for i in range(1, 151)),
            ("train", "test"),
            "ADE20K, scene parsing: 22,210 scenes, 150 classes",
            ("image", "annotation"),
            ((0, IGNORED), *((i, i - 1) for i in range(1, 151))),
        ),
        MaskDatasetInfo(
            "cityscapes",
            _CITYSCAPES_CLASSES,
            ("train", "validation"),
            "Cityscapes, fine annotations: 3,475 street scenes, 19 classes",
            ("image_left", "segmentation_label"),
            (
                *((i, IGNORED) for i in (*range(34), 255) if i not in _CITYSCAPES_IDS),
                *((identifier, label) for label, identifier in enumerate(_CITYSCAPES_IDS)),
            ),
        ),
    )
}


def list_mask_datasets() -> list[str]:
    """Sorted names that `load_masks` takes."""
    return sorted(_CATALOG)


def mask_dataset_info(name: str, data_dir: str | os.PathLike | None = None) -> MaskDatasetInfo:
    """What is known about a dataset.

    Args:
      name: one of `list_mask_datasets()`.
      data_dir: of "voc": a file `classes.txt` there, one name a line, replaces VOC's 21 classes.

    Raises:
      InputError: for an unknown name, with the nearest known ones, or more than 255 classes.
    """
    if name not in _CATALOG:
        raise unknown_name("dataset with masks", str(name), _CATALOG)
    info = _CATALOG[name]
    own = Path(data_dir).expanduser() / "classes.txt" if data_dir else None
    if name == "voc" and own and own.is_file():
        names = tuple(line.strip() for line in own.read_text(encoding="utf-8").splitlines() if line.strip())
        if not 1 <= len(names) <= IGNORED:
            raise InputError(f"{own}: expected 1 to {IGNORED} names of classes, one a line, found {len(names)}")
        info = dataclasses.replace(info, class_names=names)
    return info


def load_masks(name: str, split: str, data_dir: str | os.PathLike | None = None, longer_side: int = 0) -> MaskDataset:
    """Loads one split of a dataset with masks.

    Args:
      name: one of `list_mask_datasets()`.
      split: e.g. one of `mask_dataset_info(name).splits`; of a folder as VOC's, a list NAME.txt of
        ImageSets/Segmentation.
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
        pairs = _voc_pairs(info, info.folders, split, data_dir)
    else:
        pairs = _prepared_pairs(info, split, data_dir)
    if longer_side:
        pairs = ((resized(image, longer_side), resized(mask, longer_side)) for image, mask in pairs)
    return _on_canvas(pairs, f"{name} {split}")


def resized(image: np.ndarray, longer_side: int) -> np.ndarray:
    """An image or mask whose longer side has so many pixels.

    Args:
      image: uint8 [H, W, 3], resized bicubically, or a mask uint8 [H, W], which keeps its labels (nearest).
      longer_side: pixels.
    """
    from PIL import Image

    height, width = (max(round(side * longer_side / max(image.shape[:2])), 1) for side in image.shape[:2])
    method = Image.Resampling.BICUBIC if image.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize((width, height), method))


Pair = tuple[np.ndarray, np.ndarray]


def _voc_pairs(
    info: MaskDatasetInfo, folders: tuple[str, str], split: str, data_dir: str | os.PathLike | None
) -> Iterator[Pair]:
    of_masks, of_lists = folders
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
