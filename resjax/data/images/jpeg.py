"""Decodes JPEG with libjpeg-turbo (simplejpeg), which reports everything that it had to guess as an error.

Some of these faults harm no pixel: stray bytes in front of a marker, as webcams and scanners write them, a wrong
version number, a broken colour profile. Such a file is decoded again without them. Any other fault, such as missing
restart markers or an early end, makes the file a broken image.

Marker codes and segments: ITU-T T.81, table B.1; JFIF 1.02; Adobe technical note 5116.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

START = b"\xff\xd8\xff"
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_SOS, _EOI, _APP0, _APP14 = 0xDA, 0xD9, 0xE0, 0xEE
_RESTARTS = range(0xD0, 0xD8)
# Frames, tables, the restart interval and scans; application data and comments carry no pixels.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PIXEL_SEGMENTS = {*_FRAMES, 0xC4, 0xCC, 0xDA, 0xDB, 0xDD, 0xDE, 0xDF}
_SEQUENTIAL = (0xC0, 0xC1)
_MOST_REPAIRS = 32


def read_header(data: bytes) -> tuple[int, int, int]:
    """Height, width and number of colour channels.

    Raises:
      ValueError: from simplejpeg, if `decode` would raise it for the same header.
    """
    import simplejpeg

    (height, width, space, _), _ = _tolerant(simplejpeg.decode_jpeg_header, data)
    return height, width, 4 if space in ("CMYK", "YCCK") else 3


def decode(data: bytes, channels: int, **options: Any) -> tuple[np.ndarray, bytes]:
    """RGB, uint8 [H, W, 3], and the repaired bytes it was decoded from, so that they can be decoded again.

    Args:
      data: the file.
      channels: from `read_header`.
      **options: options of simplejpeg's `decode_jpeg`.

    Raises:
      ValueError: for truncated or corrupt data.
    """
    import simplejpeg
    from PIL import Image

    space = "CMYK" if channels == 4 else "RGB"
    pixels, data = _tolerant(lambda part: simplejpeg.decode_jpeg(part, space, **options), data)
    if channels == 4:
        # All writers of four channels follow Adobe's convention: 255 is no ink.
        size = pixels.shape[1::-1]
        pixels = np.asarray(Image.frombytes("CMYK", size, pixels.tobytes(), "raw", "CMYK;I").convert("RGB"))
    return pixels, data


def _tolerant(read: Callable[[bytes], Any], data: bytes) -> tuple[Any, bytes]:
    """The result of `read` for `data`, or for `data` without its harmless faults, and the bytes that were read."""
    made, reduced = _attempt(read, data), False
    for _ in range(_MOST_REPAIRS):
        if not isinstance(made, ValueError):
            return made, data
        stray = _STRAY.search(str(made))
        if stray is not None and int(stray[2], 16) not in _RESTARTS:
            candidates = _without(data, int(stray[1]), int(stray[2], 16))
        elif reduced:
            # Stray bytes in front of a scan's restart marker are the rest of a damaged interval.
            break
        else:
            candidates, reduced = _pixel_segments_only(data), True
        better = _least_harmed(read, candidates, str(made))
        if better is None:
            break
        made, data = better
    raise made


def _least_harmed(read: Callable[[bytes], Any], candidates: Iterator[bytes], before: str) -> tuple[Any, bytes] | None:
    """The first candidate that can be read, or has only stray bytes left; else any with another fault than before."""
    other = None
    for candidate in candidates:
        made = _attempt(read, candidate)
        if not isinstance(made, ValueError):
            return made, candidate
        if str(made) != before:
            if _STRAY.search(str(made)):
                return made, candidate
            other = other or (made, candidate)
    return other


def _attempt(read: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return read(data)
    except ValueError as error:
        return error


def _without(data: bytes, count: int, marker: int) -> Iterator[bytes]:
    """`data` without the `count` bytes in front of one of the markers of this kind."""
    behind = 2
    for kind, start, end in _markers(data):
        while kind == marker and data[start - 1] == 0xFF:  # fill bytes belong to the marker
            start -= 1
        if kind == marker and start - count >= behind:
            yield data[: start - count] + data[start:]
        behind = end


def _pixel_segments_only(data: bytes) -> Iterator[bytes]:
    """The file with only those segments before its first scan that pixels depend on; nothing if it has no scan.

    Unknown values are replaced by the ones that libjpeg reads instead.
    """
    frame = next((start for kind, start, _ in _markers(data) if kind in _FRAMES), None)
    parts: list[bytes | bytearray] = [data[:2]]
    position = None
    for kind, start, end in _markers(data):
        segment = bytearray(data[start:end])
        if kind == _SOS and frame is not None and data[frame + 1] in _SEQUENTIAL:
            segment[-3:] = b"\x00\x3f\x00"
        elif kind == _APP0 and segment[4:9] == b"JFIF\0" and len(segment) >= 16:
            segment[9] = 1
        elif kind == _APP14 and segment[4:9] == b"Adobe" and len(segment) >= 16 and frame is not None:
            luminance = 2 if data[frame + 9] == 4 else 1
            segment[15] = segment[15] and luminance
        elif position is None and kind not in _PIXEL_SEGMENTS:
            continue
        # The bytes between segments after a scan's header are pixels, and stay as they are.
        parts += [segment] if position is None else [data[position:start], segment]
        if kind == _SOS or position is not None:
            position = end
    if position is not None:
        yield b"".join([*parts, data[position:]])


def _markers(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Each marker up to the end of the image: its code, and the start and end of the marker and its segment."""
    position, size = 2, len(data)
    while (start := data.find(b"\xff", position)) >= 0:
        while start + 1 < size and data[start + 1] == 0xFF:
            start += 1
        if start + 1 >= size:
            return
        kind, position = data[start + 1], start + 2
        if kind in (0, 1) or kind in _RESTARTS:
            continue
        if kind == _EOI:
            yield kind, start, position
            return
        length = int.from_bytes(data[position : position + 2], "big")
        if length < 2 or position + length > size:
            return
        position += length
        yield kind, start, position
