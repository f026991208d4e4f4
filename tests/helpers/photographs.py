"""A folder of class folders, made of embedded images enlarged to JPEG."""

import pathlib

from PIL import Image

from resjax.data import dataset_info, load_dataset


def write_folder(
    folder: pathlib.Path, per_class: int, classes: int = 2, size: int = 40, splits=("train", "val")
) -> pathlib.Path:
    """`per_class` images of each class in each split; without splits, in class folders alone."""
    names = dataset_info("cifar10_mini").class_names
    for split in splits or ("",):
        images, labels = load_dataset("cifar10_mini", "test" if split == "val" else "train")
        for label in range(classes):
            path = folder / split / names[label]
            path.mkdir(parents=True)
            for number, image in enumerate(images[labels == label][:per_class]):
                # A height of its own for each, so that the order of reading shows.
                enlarged = Image.fromarray(image).resize((size, size + number), Image.Resampling.BICUBIC)
                enlarged.save(path / f"{number:03d}.jpg", quality=90)
    return folder
