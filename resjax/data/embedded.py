"""`cifar10_mini`: a small part of CIFAR-10 that comes with the repository, to try things out without a download.

The first 500 training and the first 100 test images of each class in official order, as one contact sheet per class
and split (lossless WebP, tiles of 32x32 pixels, row by row), which any browser shows. `sheets.json` gives each sheet's
positions in CIFAR-10 and the checksum of its pixels.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from resjax.data.catalog import DatasetInfo
from resjax.data.source import Dataset, checked
from resjax.errors import InputError

NAME = "cifar10_mini"
_COLUMNS = {"train": 25, "test": 10}
_TILE = 32


def load(info: DatasetInfo, split: str, data_dir: Path | None) -> Dataset:
    """Returns one split, its classes interleaved as in CIFAR-10: ordered by position there.

    Args:
      info: the catalog's entry of `cifar10_mini`.
      split: "train" or "test".
      data_dir: a folder that has `cifar10_mini/`; by default the sheets beside this file.

    Raises:
      InputError: if the sheets are not there (a wheel does not have them) or one is damaged; names it.
    """
    folders = [data_dir / NAME] if data_dir is not None and (data_dir / NAME).is_dir() else []
    folder = [*folders, Path(__file__).parent / NAME][0]
    sheets = _sheets(folder)
    images, labels, positions = [], [], []
    for label, class_name in enumerate(info.class_names):
        file = f"{split}_{class_name}.webp"
        if file not in sheets:
            raise InputError(f"{folder / 'sheets.json'}: does not list {file}; restore the folder from the repository")
        tiles = _read_sheet(folder / file, _COLUMNS[split], sheets[file]["pixels_sha256"])
        images.append(tiles)
        labels.append(np.full(len(tiles), label, np.int32))
        positions.extend(sheets[file]["positions"])
    images, labels = np.concatenate(images), np.concatenate(labels)
    if len(positions) != len(images):
        raise InputError(f"{folder / 'sheets.json'}: {len(positions)} positions for {len(images)} {split} images")
    order = np.argsort(positions)
    return checked(Dataset(images[order], labels[order]), info, split, folder)


def _sheets(folder: Path) -> dict:
    path = folder / "sheets.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: not found; an installed wheel does not have the images of {NAME}: clone the repository and run "
            f"from there, or pass `--data_dir` a folder that has {NAME}/"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); restore the folder from the repository") from error


def _read_sheet(path: Path, columns: int, pixels_sha256: str) -> np.ndarray:
    """Returns the tiles of a contact sheet, uint8 `[N, 32, 32, 3]`, row by row."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(f"{path}: reading it needs Pillow: pip install pillow") from error
    try:
        sheet = np.asarray(Image.open(path).convert("RGB"))
    except Exception as error:  # Pillow's decoders raise many types.
        raise InputError(f"{path}: missing or damaged ({error}); restore it from the repository") from error
    height, width, _ = sheet.shape
    if width != columns * _TILE or height % _TILE or hashlib.sha256(sheet).hexdigest() != pixels_sha256:
        raise InputError(f"{path}: damaged: its pixels are not those of {NAME}; restore it from the repository")
    tiles = sheet.reshape(height // _TILE, _TILE, columns, _TILE, 3).swapaxes(1, 2)
    return tiles.reshape(-1, _TILE, _TILE, 3)
