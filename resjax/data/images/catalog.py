"""`open_images`: a name to images on disk, prepared by TFDS or in class folders."""

import dataclasses
import os
from pathlib import Path

from resjax.data.images.encoded import require_decoders
from resjax.data.images.folder import open_folder
from resjax.data.images.records import RecordImages
from resjax.data.images.source import ImageDataset
from resjax.data.tfds_directory import describe_split, version_directory
from resjax.errors import InputError, unknown_name

FOLDER = "folder"


@dataclasses.dataclass(frozen=True)
class PhotoInfo:
    """A dataset that TFDS knows.

    Attributes:
      name: TFDS's.
      num_classes: labels are 0 .. num_classes - 1.
      train_images: number of training images.
      description: one line for a person.
      archives: how else it comes.
    """

    name: str
    num_classes: int
    train_images: int
    description: str
    archives: str


_CATALOG = {
    info.name: info
    for info in (
        PhotoInfo(
            "imagenet2012",
            1000,
            1_281_167,
            "ImageNet: 1,281,167 photographs of 1,000 classes to train on, 50,000 to test on",
            "the unpacked archives of image-net.org, sorted into DIR/train/CLASS and DIR/val/CLASS",
        ),
        PhotoInfo(
            "imagenette",
            10,
            9_469,
            "Imagenette: ten easy classes of ImageNet",
            "the unpacked archive imagenette2.tgz of github.com/fastai/imagenette",
        ),
        PhotoInfo(
            "imagenet_resized",
            1000,
            1_281_167,
            "ImageNet at 8, 16, 32 or 64 pixels (Chrabaszcz et al. 2017, arXiv 1707.08819)",
            "no other form: prepare it with TFDS",
        ),
    )
}


def list_image_datasets() -> list[str]:
    """The names that `open_images` takes."""
    return sorted([*_CATALOG, FOLDER])


def image_dataset_info(name: str) -> PhotoInfo | None:
    """What is known of a dataset before it is found; None for "folder".

    Raises:
      InputError: for an unknown name.
    """
    if name not in list_image_datasets():
        raise unknown_name("dataset of photographs", name, list_image_datasets())
    return _CATALOG.get(name)


def open_images(
    name: str, data_dir: str | os.PathLike | None, validation_share: float = 0.1, split_seed: int = 0
) -> ImageDataset:
    """Finds a dataset of encoded images.

    Args:
      name: one of `list_image_datasets()`. "folder" is any folder of class folders.
      data_dir: the folder; for the others a TFDS data directory (default TFDS_DATA_DIR or ~/tensorflow_datasets), the
        dataset's folder in it (of one of its configs, where several are prepared), or class folders in `train` and
        `val`.
      validation_share, split_seed: see `open_folder`.

    Raises:
      InputError: for an unknown name, or images that cannot be found or read.
    """
    require_decoders()
    if name == FOLDER:
        if data_dir is None:
            raise InputError("--dataset folder: say with --data_dir which folder of class folders")
        return open_folder(data_dir, validation_share, split_seed)
    info = image_dataset_info(name)
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    roots = (root, root / "tensorflow_datasets")
    version = next((found for folder in roots if (found := version_directory(name, folder))), None)
    if version is not None:
        return _prepared(info, version)
    for folder in (root, root / name, *sorted(root.glob(f"{name}*/"))):
        if (folder / "train").is_dir() and (folder / "val").is_dir():
            dataset = open_folder(folder)
            if dataset.num_classes != info.num_classes:
                raise InputError(
                    f"{folder}: has {dataset.num_classes} class folders, {name} has {info.num_classes};"
                    " --dataset folder takes any"
                )
            return dataset
    raise InputError(
        f"{name} not found: looked for {name}/[CONFIG/]VERSION/dataset_info.json in {' and '.join(map(str, roots))} and"
        f" for class folders in {root}/train and {root}/val. Give --data_dir a directory that TFDS prepared, or"
        f" {info.archives}"
    )


def _prepared(info: PhotoInfo, version: Path) -> ImageDataset:
    train, test = (describe_split(version, split) for split in ("train", "validation"))
    names = train.class_names
    if len(names) != info.num_classes:
        raise InputError(f"{version}: has {len(names)} classes, {info.name} has {info.num_classes}")
    images = (RecordImages(shards, info.num_classes) for shards in (train, test))
    description = f"{info.description}; {version}"
    return ImageDataset(*images, names, description)
