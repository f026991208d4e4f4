"""Encoded images, decoded no further than a crop of them needs.

JPEG goes through libjpeg-turbo (simplejpeg), which reports what it had to guess as an error, and reads at half, a
quarter or an eighth of the size for less work; PNG and WebP go through Pillow.
"""

import io

import numpy as np

from resjax.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
# Beyond this a header promises gigabytes; the largest image of ImageNet has 17 million pixels.
_MOST_PIXELS = 2**28
_JPEG = b"\xff\xd8\xff"


class BrokenImage(Exception):
    """Bytes that no image can be read from; the message says why, and nothing of where they came from."""


def require_decoders() -> None:
    """Raises InputError unless the packages that streams of images need are installed."""
    try:
        import cv2  # noqa: F401
        import grain  # noqa: F401
        import simplejpeg  # noqa: F401
    except ImportError as error:
        raise InputError(f"streams of images need {error.name}: pip install 'resjax[imagenet]'") from error


def looks_like_an_image(head: bytes) -> bool:
    """Whether a file that starts with `head` (12 bytes or more) says it is JPEG, PNG or WebP."""
    return head.startswith((_JPEG, b"\x89PNG\r\n\x1a\n")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


class EncodedImage:
    """An image of which only the header has been read.

    Args:
      data: a JPEG, PNG or WebP file.

    Attributes:
      height, width: in pixels, as stored: an orientation that a camera noted is not applied.

    Raises:
      BrokenImage: for a header that cannot be read.
    """

    def __init__(self, data: bytes):
        import simplejpeg
        from PIL import Image

        self._data, self._opened = data, None
        try:
            if data.startswith(_JPEG):
                self.height, self.width = simplejpeg.decode_jpeg_header(data)[:2]
            else:
                self._opened = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
                self.width, self.height = self._opened.size
        except Exception as error:  # Decoders of C promise no type.
            raise BrokenImage(_reason(error)) from error
        if self.height * self.width > _MOST_PIXELS:
            raise BrokenImage(f"its header says {self.height} x {self.width} pixels")

    def pixels(self, reduction: float = 1.0) -> np.ndarray:
        """RGB, uint8 [H, W, 3]: in full size, or a JPEG smaller by at most `reduction`, where that is less work.

        A full-size JPEG is what libjpeg gives; with a reduction also its faster transforms may be used.

        Raises:
          BrokenImage: for data that are truncated or corrupt.
        """
        import simplejpeg

        try:
            if self._opened is not None:
                return np.asarray(self._opened.convert("RGB"))
            if reduction <= 1:
                return simplejpeg.decode_jpeg(self._data)
            # Of the sizes between only halves have a fast inverse DCT: 5/8 takes longer than the whole.
            halves = 2 ** int(np.log2(reduction))
            return simplejpeg.decode_jpeg(
                self._data,
                fastdct=True,
                fastupsample=True,
                min_height=-(-self.height // halves) if halves > 1 else 0,
                min_width=-(-self.width // halves) if halves > 1 else 0,
                min_factor=2,
            )
        except Exception as error:
            raise BrokenImage(_reason(error)) from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
