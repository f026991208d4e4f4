"""Decodes images, at a lower resolution where a crop needs no more.

JPEG is decoded by `resjax.data.images.jpeg`, at half, a quarter or an eighth of the size for less work; everything else
goes through Pillow. The kind of a file is told by its first bytes, not by its name.
"""

import io
import os
import stat
from typing import Any

import numpy as np

from resjax.data.images import jpeg
from resjax.data.images.orientation import (
    UPRIGHT,
    ExifOrientation,
    noted_orientation,
    upright,
    upright_size,
)
from resjax.errors import InputError

# Pillow's name -> suffixes, and first bytes. Formats that Pillow reads only with other programs are left out.
_FORMATS = {
    "JPEG": ((".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"), (jpeg.START,)),
    "PNG": ((".png", ".apng"), (b"\x89PNG\r\n\x1a\n",)),
    "GIF": ((".gif",), (b"GIF87a", b"GIF89a")),
    "BMP": ((".bmp", ".dib"), (b"BM",)),
    "TIFF": ((".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"MM*\0", b"II\0*")),
    "WEBP": ((".webp",), ()),
    "PPM": ((".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"PF")),
    "JPEG2000": (
        (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
        (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
    ),
    "AVIF": ((".avif",), ()),
    "ICO": ((".ico",), (b"\0\0\1\0",)),
    "PCX": ((".pcx",), (b"\x0a\0", b"\x0a\2", b"\x0a\3", b"\x0a\5")),
    "QOI": ((".qoi",), (b"qoif",)),
    "SGI": ((".sgi", ".rgb", ".rgba", ".bw"), (b"\x01\xda",)),
    "SUN": ((".ras",), (b"\x59\xa6\x6a\x95",)),
    "PSD": ((".psd",), (b"8BPS",)),
    "DIB": ((), (b"\x28\0\0\0",)),
    "DDS": ((".dds",), (b"DDS ",)),
    "TGA": ((".tga",), ()),
}
SUFFIXES = frozenset(suffix for suffixes, _ in _FORMATS.values() for suffix in suffixes)
READ_FORMATS = "JPEG, PNG, TIFF, BMP, GIF, WebP, PPM and others that Pillow reads"
HEAD_BYTES = 4096
LARGEST_FILE = 2**30  # in bytes; the pixels that are decoded take no more
# Pillow's own limit (`Image.MAX_IMAGE_PIXELS`), where it warns and goes on to twice as many: decoding them takes a
# gigabyte of each worker. The largest image of ImageNet has 17 million pixels.
MOST_PIXELS = 2**30 // 12


class BrokenImage(Exception):
    """The image cannot be read or decoded. The message says why, but not which file it is."""


def file_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image's file.

    Raises:
      BrokenImage: for a file that cannot be read, has more bytes than an image, or is a pipe or a device.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            raise BrokenImage("no regular file")
        if status.st_size > LARGEST_FILE:
            raise BrokenImage(f"has {status.st_size:,} bytes, more than an image")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BrokenImage(error.strerror or str(error)) from error


def require_decoders() -> None:
    """Raises InputError unless the packages that image streams need are installed."""
    try:
        import cv2  # noqa: F401
        import grain  # noqa: F401
        import simplejpeg  # noqa: F401
    except ImportError as error:
        raise InputError(f"streams of images need {error.name}: pip install 'resjax[imagenet]'") from error


def image_format(head: bytes, name: str = "") -> str | None:
    """Pillow's name of a file's format, or None if it is not an image that can be read.

    Args:
      head: its first 18 bytes or more.
      name: name of the file: TGA is the only format that the first bytes do not tell.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    for kind, (_, starts) in _FORMATS.items():
        if head.startswith(starts):
            return kind
    # Colour map or none, one of six encodings, and a depth (Truevision TGA 2.0, fields 2, 3 and 5.5).
    maybe = len(head) > 16 and head[1] < 2 and head[2] in (1, 2, 3, 9, 10, 11) and head[16] in (1, 8, 15, 16, 24, 32)
    return "TGA" if maybe and name.lower().endswith(_FORMATS["TGA"][0]) else None


def why_no_image(head: bytes, name: str = "") -> str | None:
    """Why the first bytes show that a file is not an image, or None."""
    if not head:
        return "empty"
    if image_format(head, name) is not None:
        return None
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis"):
        return "HEIC, which is not read here: save it as JPEG or PNG"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file: fetch it with git lfs pull"
    text = head.lstrip()[:15].lower()
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<svg")):
        return "a web page or XML, no image"
    if not head.strip(b"\0"):
        return "zeros only"
    return f"no image: expected {READ_FORMATS}"


def check_pixels(height: int, width: int) -> None:
    """Raises BrokenImage for a header that says more pixels than are decoded here."""
    if height * width > MOST_PIXELS:
        raise BrokenImage(f"its header says {height} x {width} pixels, more than {MOST_PIXELS:,}: make it smaller")


class EncodedImage:
    """An image of which only the header has been read.

    Args:
      data: the file: JPEG, or another format of `READ_FORMATS`.
      exif_orientation: "apply" turns the image upright as its EXIF says, "ignore" keeps the pixels as stored.

    Attributes:
      height, width: in pixels.

    Raises:
      BrokenImage: for a header that cannot be read.
    """

    def __init__(self, data: bytes, exif_orientation: ExifOrientation = "ignore"):
        from PIL import Image

        self._data, self._opened, self._orientation = data, None, UPRIGHT
        kind = image_format(data[:18])
        if kind is None:
            if (reason := why_no_image(data[:HEAD_BYTES], ".tga")) is not None:
                raise BrokenImage(reason)
            kind = "TGA"
        try:
            if kind == "JPEG":
                height, width, self._channels = jpeg.read_header(data)
            else:
                self._opened = Image.open(io.BytesIO(data), formats=(kind,))
                width, height = self._opened.size
            if exif_orientation == "apply":
                opened = self._opened or Image.open(io.BytesIO(data), formats=("JPEG",))
                self._orientation = noted_orientation(opened)
        except Exception as error:  # C decoders promise no exception type.
            raise BrokenImage(_reason(error, kind)) from error
        check_pixels(height, width)
        self._stored_height, self._stored_width = height, width
        self.height, self.width = upright_size(height, width, self._orientation)

    def pixels(self, reduction: float = 1.0) -> np.ndarray:
        """RGB, uint8 [H, W, 3], in full size; a JPEG may be smaller by at most `reduction` if that is less work.

        A full-size JPEG equals libjpeg's result; with a reduction, its faster transforms may be used, too. Pillow
        converts other modes to RGB: an alpha channel is dropped, and an animation gives its first frame.
        Gray of more than 8 bits is scaled to 8.

        Raises:
          BrokenImage: for truncated or corrupt data, or samples without a stated black and white.
        """
        try:
            pixels = self._from_jpeg(reduction) if self._opened is None else rgb(self._opened, self._data)
        except BrokenImage:
            raise
        except Exception as error:
            raise BrokenImage(_reason(error)) from error
        return pixels if self._orientation == UPRIGHT else upright(pixels, self._orientation)

    def _from_jpeg(self, reduction: float) -> np.ndarray:
        options = {}
        if reduction > 1:
            # Only halvings have a fast inverse DCT: 5/8 takes longer than full size.
            halves = 2 ** int(np.log2(reduction))
            options = {
                "fastdct": True,
                "fastupsample": True,
                "min_height": -(-self._stored_height // halves) if halves > 1 else 0,
                "min_width": -(-self._stored_width // halves) if halves > 1 else 0,
                "min_factor": 2,
            }
        pixels, self._data = jpeg.decode(self._data, self._channels, **options)
        return pixels


def rgb(opened: Any, data: bytes) -> np.ndarray:
    """Pixels of an image that Pillow has opened, uint8 [H, W, 3], as stored.

    Args:
      opened: the `PIL.Image.Image`.
      data: its file.

    Raises:
      BrokenImage: as `scale_gray`.
    """
    if opened.mode in ("I", "F") or opened.mode.startswith("I;"):
        gray = scale_gray(np.asarray(opened), opened, data)
        return np.repeat(gray[..., None], 3, -1)
    # Pillow warns of a palette with several transparent colours, unless it becomes RGBA first.
    if opened.mode == "P" and isinstance(opened.info.get("transparency"), bytes):
        opened = opened.convert("RGBA")
    return np.asarray(opened.convert("RGB"), np.uint8)


def scale_gray(samples: np.ndarray, opened: Any, data: bytes) -> np.ndarray:
    """Gray of more than 8 bits, scaled to uint8 [H, W].

    Pillow clips it to 0 .. 255, so that most of it becomes white. The largest sample is the one that the file states:
    BitsPerSample of TIFF (12 or 16; or its MaxSampleValue, if that is a number of bits), PNG's sBIT if no sample is
    larger, or the maximum of PGM, which Pillow scales to 16 bits. Otherwise it is that of 16 bits. The most significant
    bits are kept, as Pillow does for colours of 16 bits.

    Args:
      samples: [H, W].
      opened: the `PIL.Image.Image` they come from.
      data: its file.

    Raises:
      BrokenImage: for integers of 32 bits, signed integers and floats, where nothing states what is white.
    """
    bits, inverted = 16, False
    if opened.format == "TIFF":
        stored, sample_format = opened.tag_v2.get(258, (1,))[0], opened.tag_v2.get(339, (1,))[0]
        if sample_format != 1 or stored > 16:
            kind = {1: "unsigned integers", 2: "signed integers", 3: "floating point"}.get(sample_format, "unknown")
            raise BrokenImage(
                f"gray samples of {stored} bits ({kind}), of which no standard says what is white: save it with 8 or"
                " 16 bits a sample"
            )
        largest = opened.tag_v2.get(281, (2**stored - 1,))
        largest = largest[0] if isinstance(largest, tuple) else largest
        # TIFF 6.0 calls this field statistics: 2^bits - 1 is a camera's range, other values are the image's maximum.
        bits = int(largest).bit_length() if largest in (1023, 4095, 16383) else stored
        inverted = opened.tag_v2.get(262) == 0  # WhiteIsZero, which Pillow applies only up to 8 bits
    elif opened.format == "PNG":
        bits = _png_bits(samples, data)
    elif opened.mode == "F" or opened.format not in ("PPM", "JPEG2000"):
        raise BrokenImage(
            f"gray samples in {opened.mode!r} of a {opened.format} file, of which no standard says what is white: save"
            " it with 8 or 16 bits a sample"
        )
    gray = np.minimum(samples.astype(np.int32) >> (bits - 8), 255).astype(np.uint8)
    return 255 - gray if inverted else gray


def _png_bits(samples: np.ndarray, data: bytes) -> int:
    """Significant bits of the samples of a 16-bit gray PNG, as sBIT may state.

    By the standard (PNG, section 11.3.2.7) these are the upper bits, and the lower bits repeat them or are zero. Some
    cameras store them as the lower bits: then some sample is neither, and no sample is larger.
    """
    end = data.find(b"IDAT")
    chunk = data.find(b"sBIT", 0, end)
    bits = data[chunk + 4] if chunk >= 0 else 16
    if not 8 < bits < 16 or samples.max(initial=0) >= 2**bits:
        return 16
    unused = 16 - bits
    lower = samples & (2**unused - 1)
    repeated = samples >> bits
    return 16 if ((lower == 0) | (lower == repeated)).all() else bits


def _reason(error: Exception, kind: str = "") -> str:
    if isinstance(error, KeyError) and kind:
        return f"{kind}, which the installed Pillow does not read"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
