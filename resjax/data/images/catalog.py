"""`open_images` and `open_evaluation` find a dataset's images on disk: prepared by TFDS, or in class folders."""

import dataclasses
import os
from pathlib import Path

from resjax.data.formats.tfds_directory import data_roots, describe_split, find_version
from resjax.data.images.encoded import require_decoders
from resjax.data.images.folder import evaluation_folder, open_folder
from resjax.data.images.layout import TRAIN, VAL, find_splits
from resjax.data.images.listing import read_folder
from resjax.data.images.records import RecordImages
from resjax.data.images.source import EvaluationImages, ImageDataset
from resjax.errors import InputError, printable, unknown_name

FOLDER = "folder"
# The folder of the splits in Kaggle's archive of ImageNet.
_INNER_FOLDERS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


@dataclasses.dataclass(frozen=True)
class PhotoInfo:
    """A dataset that TFDS knows.

    Attributes:
      name: the TFDS name.
      num_classes: labels are 0 .. num_classes - 1.
      train_images, test_images: number of images.
      description: one line that says what it is.
      archives: other forms in which it is read.
    """

    name: str
    num_classes: int
    train_images: int
    test_images: int
    description: str
    archives: str


_CATALOG = {
    info.name: info
    for info in (
        PhotoInfo(
            "imagenet2012",
            1000,
            1_281_167,
            50_000,
            "ImageNet: 1,281,167 photographs of 1,000 classes to train on, 50,000 to test on",
            "the unpacked archives of image-net.org in DIR/train and DIR/val, class folders or flat with a list",
        ),
        PhotoInfo(
            "imagenette",
            10,
            9_469,
            3_925,
            "Imagenette: ten easy classes of ImageNet",
            "the unpacked archive imagenette2.tgz of github.com/fastai/imagenette",
        ),
        PhotoInfo(
            "imagenet_resized",
            1000,
            1_281_167,
            50_000,
            "ImageNet at 8, 16, 32 or 64 pixels (Chrabaszcz et al. 2017, arXiv 1707.08819)",
            "no other form: prepare it with TFDS",
        ),
    )
}


def list_image_datasets() -> list[str]:
    """The names that `open_images` takes."""
    return sorted([*_CATALOG, FOLDER])


def image_dataset_info(name: str) -> PhotoInfo | None:
    """The facts about a dataset that are known before it is found; None for "folder".

    Raises:
      InputError: for an unknown name.
    """
    return None if name == FOLDER else _known(name)


def _known(name: str) -> PhotoInfo:
    if name not in _CATALOG:
        raise unknown_name("dataset of photographs", name, list_image_datasets())
    return _CATALOG[name]


def open_images(
    name: str, data_dir: str | os.PathLike | None, validation_fraction: float = 0.1, split_seed: int = 0
) -> ImageDataset:
    """Finds a dataset of encoded images to train and test on.

    Args:
      name: one of `list_image_datasets()`. "folder" is any folder of class folders.
      data_dir: the folder; for other names a TFDS data directory (default TFDS_DATA_DIR or ~/tensorflow_datasets), the
        dataset's folder in it (or that of one config, if several are prepared), or folders `train` and `val`.
      validation_fraction, split_seed: see `open_folder`.

    Raises:
      InputError: for an unknown name, or images that cannot be found, read or understood.
    """
    require_decoders()
    if name == FOLDER:
        return open_folder(_given(data_dir), validation_fraction, split_seed)
    info = _known(name)
    version, folder = _find(info, data_dir)
    if version is not None:
        return _prepared(info, version)
    dataset = open_folder(folder, must_have_split=True)
    _check_classes(info, folder, dataset.num_classes)
    if len(dataset.train) == info.train_images:
        return dataset
    note = f"{folder}: has {len(dataset.train):,} training images, {name} has {info.train_images:,}"
    return dataclasses.replace(dataset, notes=(note, *dataset.notes))


def open_evaluation(
    name: str,
    data_dir: str | os.PathLike | None,
    split: str | None = None,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> EvaluationImages:
    """Finds encoded images to evaluate on. Training images need not be there.

    Args:
      name: one of `list_image_datasets()`.
      data_dir: as in `open_images`; for a folder also `DIR/val` itself, or any folder of class folders.
      split: "val", "test", "train", "held_out" or "all", see `evaluation_folder`; None takes the one
        that is there. TFDS's "validation" is val.
      validation_fraction, split_seed: for "held_out", see `open_folder`.

    Raises:
      InputError: for an unknown name or split, or images that cannot be found, read or understood.
    """
    require_decoders()
    if name == FOLDER:
        return evaluation_folder(_given(data_dir), split, validation_fraction, split_seed)
    info = _known(name)
    version, folder = _find(info, data_dir, evaluation=True)
    if version is None:
        found = evaluation_folder(folder, split)
        _check_classes(info, folder, found.num_classes)
        return found
    if split not in (None, VAL, TRAIN):
        raise InputError(f"{name}: has the splits train and val, not {split!r}")
    dataset = _prepared(info, version)
    source = dataset.train if split == TRAIN else dataset.test
    return EvaluationImages(
        images=source, class_names=dataset.class_names, split=split or VAL, description=dataset.description
    )


def _given(data_dir: str | os.PathLike | None) -> str | os.PathLike:
    if data_dir is None:
        raise InputError("--dataset folder: say with --data_dir which folder of class folders")
    return data_dir


def _find(info: PhotoInfo, data_dir: str | os.PathLike | None, evaluation: bool = False) -> tuple[Path | None, Path]:
    """The folder of a version that TFDS prepared; or None, and a folder of split folders."""
    try:
        return _searched(info, data_dir, evaluation)
    except OSError as error:  # permissions, a lost network disk, an impossible path
        raise InputError(f"data_dir {printable(data_dir)}: cannot be read ({error.strerror or error})") from error


def _searched(info: PhotoInfo, data_dir: str | os.PathLike | None, evaluation: bool) -> tuple[Path | None, Path]:
    name = info.name
    roots = data_roots(data_dir)
    root, version = roots[0], find_version(name, roots)
    if version is not None:
        return version, version
    places = (root, root / name, *sorted(root.glob(f"{name}*/")), *(root / inner for inner in _INNER_FOLDERS))
    for folder in places:
        if folder.is_dir() and find_splits(folder)[0]:
            return None, folder
    if evaluation and root.is_dir() and read_folder(root).folders and data_dir is not None:
        return None, root
    raise InputError(
        f"{name} not found: looked for {name}/[CONFIG/]VERSION/dataset_info.json in {' and '.join(map(str, roots))} and"
        f" for folders `train` and `val` in {root}. Give --data_dir a directory that TFDS prepared, or {info.archives}"
    )


def _check_classes(info: PhotoInfo, folder: Path, classes: int) -> None:
    if classes != info.num_classes:
        raise InputError(
            f"{folder}: has images of {classes} classes, {info.name} has {info.num_classes}; --dataset folder takes any"
        )


def _prepared(info: PhotoInfo, version: Path) -> ImageDataset:
    train, test = (describe_split(version, split) for split in ("train", "validation"))
    names = train.class_names
    if len(names) != info.num_classes:
        raise InputError(f"{version}: has {len(names)} classes, {info.name} has {info.num_classes}")
    train_images, test_images = (RecordImages(shards, info.num_classes) for shards in (train, test))
    description = f"{info.description}; {version}"
    return ImageDataset(
        train=train_images, test=test_images, class_names=names, description=description, test_split=VAL
    )
