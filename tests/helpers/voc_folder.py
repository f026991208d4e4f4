"""Folders of images and masks as PASCAL VOC has them."""

import io
import pathlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

# Of images; masks have the same height and width.
SIZES = ((6, 9), (8, 5), (7, 7))
_LISTS = {"train": "im2\nim0\n", "val": "im1\n"}


def encoded(array, kind="PNG", palette=False, **options) -> bytes:
    """An array, or an image of Pillow, as the bytes of a file."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    if palette:
        image.putpalette(list(range(256)) * 3)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_voc(
    root: pathlib.Path,
    images: Mapping[str, bytes],
    masks: Mapping[str, bytes],
    lists: Mapping[str, str | bytes] = _LISTS,
    classes: str | bytes | None = None,
    folders: tuple[str, str] = ("SegmentationClass", "Segmentation"),
) -> pathlib.Path:
    """Writes files by name, with suffix, lists by split, and `classes.txt`; `folders` are those of masks and lists."""
    files = {f"JPEGImages/{name}": data for name, data in images.items()}
    files |= {f"{folders[0]}/{name}": data for name, data in masks.items()}
    files |= {f"ImageSets/{folders[1]}/{split}.txt": text for split, text in lists.items()}
    if classes is not None:
        files["classes.txt"] = classes
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3]."""
    return np.random.default_rng((seed, height, width)).integers(0, 256, (height, width, 3)).astype(np.uint8)
