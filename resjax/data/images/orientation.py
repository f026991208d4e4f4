"""The orientation that a camera writes into a file (EXIF 2.32, tag 274), and pixels turned upright by it.

`EXIF_ORIENTATIONS` are the choices of a reader. "ignore" is the default of every reader here: torchvision's ImageFolder
and TensorFlow's decode_image read pixels as stored, and published errors were measured that way. "apply" turns an image
as a viewer does.
"""

import warnings
from typing import Any, Literal

import numpy as np

ExifOrientation = Literal["ignore", "apply"]
UPRIGHT = 1
_TAG = 274
# Orientations whose rows are the columns of the upright image.
_LYING = (5, 6, 7, 8)


def noted_orientation(opened: Any) -> int:
    """1 to 8, from EXIF or XMP of an opened `PIL.Image.Image`; 1 (upright) if they have no defined value.

    Pillow applies the orientation tag of a TIFF itself.
    """
    if opened.format == "TIFF":
        return UPRIGHT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged block is ignored, as in every viewer
            value = opened.getexif().get(_TAG, UPRIGHT)
    except Exception:  # Pillow's parser promises no exception type. An unreadable block counts as none.
        return UPRIGHT
    return value if value in range(1, 9) else UPRIGHT


def upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Height and width of the upright image."""
    return (width, height) if orientation in _LYING else (height, width)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """`pixels` [H, W, ...] of an image or its mask, turned upright; contiguous.

    Args:
      pixels: as stored.
      orientation: from `noted_orientation`.
    """
    if orientation in _LYING:
        pixels = pixels.swapaxes(0, 1)
    # The rest is a mirror image of columns, of rows, or of both.
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
