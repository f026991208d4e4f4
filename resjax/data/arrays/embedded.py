"""`cifar10_mini`: a subset of CIFAR-10 that comes with the repository, to try things out without a download.

It has the first 500 training and the first 100 test images of each class, in official order. Each class and split is
one contact sheet (lossless WebP, tiles of 32x32 pixels, row by row), which any browser shows. `sheets.json` gives the
positions of a sheet's images in CIFAR-10 and the checksum of its pixels.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from resjax.data.catalog import DatasetInfo
from resjax.data.formats.text_files import read_json
from resjax.data.images.encoded import LARGEST_FILE, check_pixels
from resjax.data.source import Dataset, checked
from resjax.errors import InputError

NAME = "cifar10_mini"
# Of what sheets.json says, its keys sorted.
_SHEETS_SHA256 = "46b58b32f811ff5fc414eb39031dcd0c7ccccad39d34198c61d49d2e3246ae31"
_COLUMNS = {"train": 25, "test": 10}
_TILE = 32


def load(info: DatasetInfo, split: str, data_dir: Path | None) -> Dataset:
    """Returns one split, its classes interleaved as in CIFAR-10: ordered by position there.

    Args:
      info: the catalog's entry of `cifar10_mini`.
      split: "train" or "test".
      data_dir: a folder that has `cifar10_mini/`; by default the sheets beside this file.

    Raises:
      InputError: if the sheets are missing (a wheel does not have them), or one is damaged; the message names it.
    """
    folder = Path(__file__).parent / NAME
    if data_dir is not None:
        folder = data_dir if data_dir.name == NAME else data_dir / NAME
        if not folder.is_dir():
            raise InputError(
                f"data_dir {data_dir}: has no {NAME}/; leave --data_dir out, as {NAME} comes with the repository, or"
                " say with --dataset what that folder holds"
            )
    sheets = _sheets(folder)
    tiles_by_class, labels_by_class, positions = [], [], []
    for label, class_name in enumerate(info.class_names):
        file = f"{split}_{class_name}.webp"
        tiles = _read_sheet(folder / file, _COLUMNS[split], sheets[file]["pixels_sha256"])
        tiles_by_class.append(tiles)
        labels_by_class.append(np.full(len(tiles), label, np.int32))
        positions.extend(sheets[file]["positions"])
    images, labels = np.concatenate(tiles_by_class), np.concatenate(labels_by_class)
    order = np.argsort(positions)
    return checked(Dataset(images[order], labels[order]), info, split, folder)


def _sheets(folder: Path) -> dict:
    path = folder / "sheets.json"
    if not path.exists():
        raise InputError(
            f"{path}: not found; an installed wheel does not have the images of {NAME}: clone the repository and run "
            f"from there, or pass `--data_dir` a folder that has {NAME}/"
        )
    try:
        sheets = read_json(path)
    except InputError as error:
        raise InputError(f"{error}: damaged; restore the folder from the repository") from None
    if hashlib.sha256(json.dumps(sheets, sort_keys=True).encode()).hexdigest() != _SHEETS_SHA256:
        raise InputError(f"{path}: damaged: it is not that of {NAME}; restore the folder from the repository")
    return sheets


def _read_sheet(path: Path, columns: int, pixels_sha256: str) -> np.ndarray:
    """Returns the tiles of a contact sheet, uint8 `[N, 32, 32, 3]`, row by row."""
    from PIL import Image

    try:
        if not path.is_file() or path.stat().st_size > LARGEST_FILE:
            raise InputError("no image")
        image = Image.open(path)
        check_pixels(image.height, image.width)
        sheet = np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise many types.
        raise InputError(f"{path}: missing or damaged ({error}); restore it from the repository") from error
    height, width, _ = sheet.shape
    if width != columns * _TILE or height % _TILE or hashlib.sha256(sheet.data).hexdigest() != pixels_sha256:
        raise InputError(f"{path}: damaged: its pixels are not those of {NAME}; restore it from the repository")
    tiles = sheet.reshape(height // _TILE, _TILE, columns, _TILE, 3).swapaxes(1, 2)
    return tiles.reshape(-1, _TILE, _TILE, 3)
