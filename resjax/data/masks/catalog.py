"""Facts about each dataset with masks, known before its images are read: classes, stored labels, folders."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from resjax.data.augment.options import IGNORED
from resjax.data.formats.text_files import read_text
from resjax.data.masks import shapes
from resjax.errors import InputError, unknown_name


@dataclasses.dataclass(frozen=True)
class MaskDatasetInfo:
    """Facts about a dataset with masks.

    Attributes:
      name: the name that `load_masks` takes; the TFDS name, except for "shapes" and folders laid out as PASCAL VOC.
      class_names: name of each label, in label order.
      splits: the default splits to train on and to test on.
      description: one line that says what it is.
      features: TFDS's names of image and mask.
      labels: pairs (stored value, label); any other stored value is an error.
      folders: for a folder laid out as PASCAL VOC: the folder of the masks, and the one of the lists in ImageSets.
      classes_from: the user's own file of class names, if there is one.
      split_sizes: number of images in each split of the complete dataset.
    """

    name: str
    class_names: tuple[str, ...]
    splits: tuple[str, str]
    description: str
    features: tuple[str, str] = ("", "")
    labels: tuple[tuple[int, int], ...] = ()
    folders: tuple[str, str] | None = None
    classes_from: str = ""
    split_sizes: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def num_classes(self) -> int:
        """Labels are 0 .. num_classes - 1."""
        return len(self.class_names)


_VOC_CLASSES = tuple(
    """background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
    pottedplant sheep sofa train tvmonitor""".split()
)
# Mottaghi et al. 2014: the 59 most frequent of its 459 classes, in alphabetical order as converters write them.
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
# cityscapesScripts, helpers/labels.py: the ids of the 19 evaluated classes, out of 34 stored ones.
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
            split_sizes=shapes.SPLIT_SIZES,
        ),
        MaskDatasetInfo(
            "voc",
            _VOC_CLASSES,
            ("train", "val"),
            "a folder as PASCAL VOC 2012: JPEGImages, SegmentationClass, ImageSets/Segmentation",
            folders=("SegmentationClass", "Segmentation"),
            # trainaug: with the images of SBD (Hariharan et al. 2011).
            split_sizes={"train": 1464, "val": 1449, "trainval": 2913, "trainaug": 10_582},
        ),
        MaskDatasetInfo(
            "pascal_context",
            _PASCAL_CONTEXT_CLASSES,
            ("train", "val"),
            "PASCAL Context, in VOC 2010's folder: JPEGImages, SegmentationClassContext, ImageSets/SegmentationContext",
            folders=("SegmentationClassContext", "SegmentationContext"),
            split_sizes={"train": 4998, "val": 5105},
        ),
        MaskDatasetInfo(
            "oxford_iiit_pet",
            ("pet", "background", "outline"),
            ("train", "test"),
            "Oxford-IIIT Pet: 7,349 photographs of cats and dogs, trimaps",
            ("image", "segmentation_mask"),
            ((1, 0), (2, 1), (3, 2)),
            split_sizes={"train": 3680, "test": 3669},
        ),
        MaskDatasetInfo(
            "scene_parse150",
            tuple(f"class {i}" for i in range(1, 151)),
            ("train", "test"),
            "ADE20K, scene parsing: 22,210 scenes, 150 classes",
            ("image", "annotation"),
            ((0, IGNORED), *((i, i - 1) for i in range(1, 151))),
            split_sizes={"train": 20_210, "test": 2000},
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
            split_sizes={"train": 2975, "validation": 500},
        ),
    )
}


def list_mask_datasets() -> list[str]:
    """Sorted names that `load_masks` takes."""
    return sorted(_CATALOG)


def mask_dataset_info(name: str, data_dir: str | os.PathLike | None = None) -> MaskDatasetInfo:
    """The facts about a dataset.

    Args:
      name: one of `list_mask_datasets()`.
      data_dir: for "voc": a file `classes.txt` there, one name per line, replaces VOC's 21 classes.

    Raises:
      InputError: for an unknown name, with the nearest known ones; for a `classes.txt` that is not text, has more than
        255 names, has a name twice, or has a blank line between names, which would leave a label without a name.
    """
    if name not in _CATALOG:
        raise unknown_name("dataset with masks", str(name), _CATALOG)
    info = _CATALOG[name]
    own = Path(os.path.expanduser(data_dir)) / "classes.txt" if data_dir else None
    if name == "voc" and own and os.path.exists(own):
        info = dataclasses.replace(info, class_names=_read_names(own), classes_from=str(own))
    return info


def read_lines(path: Path) -> list[str]:
    """The stripped lines of a text file in UTF-8, or in UTF-16 with its byte order mark, of any operating system.

    Raises:
      InputError: for a file that cannot be read as text.
    """
    text = read_text(path)
    # Files that were joined also have byte order marks in the middle.
    return [line.strip("\ufeff \t") for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


def _read_names(path: Path) -> tuple[str, ...]:
    lines = read_lines(path)
    while lines and not lines[-1]:
        lines.pop()
    if not 1 <= len(lines) <= IGNORED:
        raise InputError(f"{path}: expected 1 to {IGNORED} names of classes, one a line, found {len(lines)}")
    for number, name in enumerate(lines, 1):
        if not name:
            raise InputError(f"{path}: line {number} is blank; the class of value {number - 1} needs a name")
        if (first := lines.index(name) + 1) < number:
            raise InputError(f"{path}: line {number} names {name!r}, as line {first} does; expected distinct names")
    return tuple(lines)
