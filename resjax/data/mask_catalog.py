"""What is known about each dataset with masks before its images are read: classes, stored labels, folders."""

import dataclasses
import os
from pathlib import Path

from resjax.data import shapes
from resjax.data.augment_masks import IGNORED
from resjax.errors import InputError, unknown_name


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
