"""Decodes files of images and masks with Pillow: the colours of an image, the stored values of a mask."""

import io
from typing import Any, NamedTuple

import numpy as np

from resjax.data.images.encoded import BrokenImage, check_pixels, rgb
from resjax.data.images.orientation import UPRIGHT, noted_orientation, upright_size
from resjax.data.images.orientation import upright as turned_upright
from resjax.errors import InputError

_LOSSLESS = ("PNG", "BMP", "TIFF", "PPM", "GIF")


class StoredMask(NamedTuple):
    """A mask as stored in its file.

    Attributes:
      values: uint8 or uint16 [H, W].
      is_one_bit: whether the file is black and white; then the values are 0 and 1.
      is_lossy: whether the file's compression changes values.
    """

    values: np.ndarray
    is_one_bit: bool
    is_lossy: bool


def read_image(file: bytes, name: str, upright: bool = True) -> np.ndarray:
    """The colours of an image file, uint8 [H, W, 3].

    Gray of more than 8 bits is scaled by `resjax.data.images.encoded.scale_gray`; transparency is dropped.

    Args:
      file: its bytes.
      name: for messages.
      upright: whether to turn it as its EXIF orientation says, as viewers do, or to leave it as stored.

    Raises:
      InputError: for a file that cannot be decoded, or gray samples without a stated black and white.
    """
    image = _opened(file, name)
    orientation = noted_orientation(image) if upright else UPRIGHT
    try:
        return turned_upright(rgb(image, file), orientation)
    except BrokenImage as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:  # Pillow's decoders raise many exception types.
        raise _damaged(name, error) from error


def image_shapes(file: bytes, name: str) -> tuple[tuple[int, int], tuple[int, int], bool]:
    """Height and width of an image as stored, the same when turned upright, and whether EXIF turns it."""
    image = _opened(file, name)
    orientation = noted_orientation(image)
    return (
        (image.height, image.width),
        upright_size(image.height, image.width, orientation),
        orientation != UPRIGHT,
    )


def read_mask(file: bytes, name: str) -> StoredMask:
    """The stored values of a mask: palette indices, or gray of 1 to 16 bits, which RGB may repeat.

    Raises:
      InputError: for a file that cannot be decoded, or whose pixels are not single integers: colours, transparency,
        floating point, several pages.
    """
    image = _opened(file, name)
    try:
        image.load()
        values = np.asarray(image)
    except Exception as error:
        raise _damaged(name, error) from error
    if getattr(image, "is_animated", False):  # counting its pages may take minutes
        raise InputError(f"{name}: a mask of several pages; expected one image, whose values are labels")
    lossy = image.format not in _LOSSLESS or image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
    if image.mode in ("LA", "PA", "RGBA"):
        if (values[..., -1] != 255).any():
            raise InputError(
                f"{name}: the mask has transparent pixels, whose label is not known; save it without transparency"
            )
        values = values[..., :-1]
    if values.ndim == 3:
        # Gray is stored as equal channels; a lossy compression leaves small differences.
        if np.ptp(values, axis=-1).max() > (16 if lossy else 0):
            raise InputError(f"{name}: {_colours(values)}")
        values = values[..., values.shape[-1] // 2]
    if values.dtype == bool or (image.mode == "I" and 0 <= values.min() and values.max() < 2**16):
        values = values.astype(np.uint16 if image.mode == "I" else np.uint8)
    if values.dtype.kind != "u":
        raise InputError(
            f"{name}: expected an indexed or gray image of 1 to 16 bits, whose values are labels; found"
            f" {values.dtype}, {values.min()} to {values.max()}"
        )
    return StoredMask(values // values.dtype.type(_scale(image, file)), image.mode == "1", lossy)


def _scale(image: Any, file: bytes) -> int:
    """Pillow scales gray values of 2 or 4 bits by this factor to 0 .. 255; labels are the stored values."""
    if image.mode != "L":
        return 1
    if image.format == "PNG":
        bits = file[24]  # from the IHDR chunk, which comes first
    else:
        bits = (getattr(image, "tag_v2", {}).get(258) or (8,))[0]
    return {2: 85, 4: 17}.get(bits, 1)


def _colours(values: np.ndarray) -> str:
    """The message about a mask of colours."""
    colours = np.unique(values.reshape(-1, values.shape[-1]), axis=0)
    shown = ", ".join(str(tuple(map(int, colour))) for colour in colours[:4])
    return (
        f"the mask codes {len(colours):,} colours ({shown}{', ..' if len(colours) > 4 else ''}); expected an indexed or"
        " gray image, whose values are labels: save it with the label of each colour"
    )


def _opened(file: bytes, name: str) -> Any:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(file))
        check_pixels(image.height, image.width)
        return image
    except BrokenImage as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> InputError:
    if not str(error).strip() or "BytesIO" in str(error):
        return InputError(f"{name}: damaged or no image; get it again")
    return InputError(f"{name}: damaged or no image ({str(error).strip().splitlines()[0]}); get it again")
