"""Every kind of image file gives the pixels that Pillow gives; torn ones are refused; gray of many bits is scaled."""

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from resjax.data.images import BrokenImage, EncodedImage
from resjax.data.images.encoded import SUFFIXES, image_format, why_no_image

REAL = pathlib.Path(__file__).parents[1] / "real_files" / "images"
REFUSED = {"truncated_jpeg.jpg": "Premature end", "16bit.s.tif": "signed integers"}
DEEP = {"12bit.cropped.tif": 4, "16bit.cropped.tif": 8, "16_bit_binary.pgm": 8}
FILES = sorted(path.name for path in REAL.iterdir() if path.suffix != ".md")


@pytest.mark.parametrize("name", FILES)
def test_real_files_are_read_as_pillow_reads_them_whatever_their_name(name):
    data = (REAL / name).read_bytes()
    if name in REFUSED:
        with pytest.raises(BrokenImage, match=REFUSED[name]):
            EncodedImage(data).pixels()
        return
    opened = Image.open(io.BytesIO(data))
    if name in DEEP:
        expected = np.repeat((np.asarray(opened).astype(np.int64) >> DEEP[name])[..., None], 3, -1)
    else:
        expected = np.asarray(opened.convert("RGB"), np.int64)
    image = EncodedImage(data)
    assert np.abs(image.pixels() - expected).max() <= (2 if opened.mode == "CMYK" else 0)
    assert (image.height, image.width) == expected.shape[:2]
    if image_format(data) == "JPEG":
        smaller = EncodedImage(data).pixels(2.0)  # decoded at half the size
        assert smaller.shape == (-(-expected.shape[0] // 2), -(-expected.shape[1] // 2), 3)
        assert np.abs(smaller.mean() - expected.mean()) < 3


@pytest.mark.parametrize("name", [name for name in FILES if "orientation" in name])
def test_real_photographs_are_turned_as_a_viewer_turns_them(name):
    data = (REAL / name).read_bytes()
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    image = EncodedImage(data, "apply")
    np.testing.assert_array_equal(image.pixels(), expected)
    assert (image.height, image.width) == expected.shape[:2]
    if name.endswith(".jpg"):
        half = (-(-expected.shape[0] // 2), -(-expected.shape[1] // 2), 3)
        assert EncodedImage(data, "apply").pixels(2.0).shape == half


PIXELS = np.random.default_rng(0).normal(128, 40, (40, 64, 3)).clip(0, 255).astype(np.uint8)


def _jpeg(**options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", quality=80, **options)
    return buffer.getvalue()


def _at(data, marker, more, skip=0):
    """`data` with `more` in front of its first `marker` behind `skip`."""
    place = data.index(bytes((0xFF, marker)), skip)
    return data[:place] + more + data[place:]


def _scan(data):
    return data.index(b"\xff\xda")


def _behind_scan(data):
    """The marker that ends the first scan."""
    place = _scan(data) + 14
    while data[place] != 0xFF or data[place + 1] == 0 or 0xD0 <= data[place + 1] <= 0xD7:
        place += 1
    return data[place + 1]


ODD = {
    "stray bytes in front of a table": lambda data: _at(data, 0xDB, b"abc"),
    "stray bytes in front of the scan": lambda data: _at(data, 0xDA, b"\0\1\2\xff\0\3"),
    "stray bytes in two places": lambda data: _at(_at(data, 0xDB, b"abc"), 0xC4, bytes(40)),
    "stray bytes in front of a second table": lambda data: _at(data, 0xC4, b"abc", data.index(b"\xff\xc4") + 2),
    "stray bytes behind the first scan": lambda data: _at(data, _behind_scan(data), bytes(77), _scan(data) + 14),
    "fill bytes": lambda data: _at(_at(data, 0xDB, b"\xff\xff\xff"), 0xD9, b"\xff\xff"),
    "zeros in front of the end": lambda data: _at(data, 0xD9, bytes(1000)),
    "stray bytes in front of the end": lambda data: _at(data, 0xD9, b"\1\xff\0\2\3\4\5\6\7"),
    "stray and fill bytes in front of the end": lambda data: _at(data, 0xD9, bytes(9) + b"\xff\xff"),
    "stray bytes at start and end": lambda data: _at(_at(data, 0xDB, b"abc"), 0xD9, bytes(99)),
    "junk behind the end": lambda data: data + b"\xff\xd8\xff\xdajunk" * 99,
    "a second image behind the end": lambda data: data + data,
    "an unknown version of JFIF": lambda data: data.replace(b"JFIF\0\1", b"JFIF\0\7"),
    "a broken colour profile": lambda data: _at(data, 0xDB, b"\xff\xe2\0\x10ICC_PROFILE\0\2\1"),
    "a restart marker in the header": lambda data: _at(data, 0xDB, b"\xff\xd0"),
    "an unknown Adobe transform": lambda data: data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\7" + data[20:],
    "stray bytes in front of a restart marker in the header": lambda data: _at(data, 0xDB, b"abc\xff\xd0"),
    "a comment and an empty application segment": lambda data: _at(data, 0xDB, b"\xff\xfe\0\4hi\xff\xe9\0\2"),
}


KINDS = [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 0}]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("odd", ODD)
def test_harmless_faults_of_jpeg_change_no_pixel(odd, options):
    data = ODD[odd](_jpeg(**options))
    expected = np.asarray(Image.open(io.BytesIO(data)))
    image = EncodedImage(data)
    np.testing.assert_array_equal(image.pixels(), expected)
    np.testing.assert_array_equal(image.pixels(), expected)  # again, of what the first decoding kept
    assert EncodedImage(data).pixels(2.0).shape == (20, 32, 3)


def test_scan_parameters_that_a_sequential_decoder_ignores_are_harmless():
    data = _jpeg()
    scan = _scan(data)
    odd = data[: scan + 11] + b"\0\0\0" + data[scan + 14 :]
    np.testing.assert_array_equal(EncodedImage(odd).pixels(), np.asarray(Image.open(io.BytesIO(odd))))


def _restarts(data):
    return [at for at in range(_scan(data), len(data)) if data[at] == 0xFF and 0xD0 <= data[at + 1 : at + 2][0] <= 0xD7]


def _half(data):
    return data[: (_scan(data) + len(data)) // 2]


def _without_interval(data):
    places = _restarts(data)
    return data[: places[2]] + data[places[3] :]


TORN = {
    "no end": lambda data: data[:-2],
    "half the end": lambda data: data[:-1],
    "no end, but zeros": lambda data: data[:-2] + bytes(500),
    "half": lambda data: _half(data),
    "half, and an end": lambda data: _half(data) + b"\xff\xd9",
    "header only": lambda data: data[: _scan(data)],
    "stray bytes and half": lambda data: _at(_half(data), 0xDB, b"abc"),
    "stray bytes, half, and an end": lambda data: _at(_half(data), 0xDB, b"abc") + b"\xff\xd9",
}


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("torn", TORN)
@pytest.mark.parametrize("reduction", [1.0, 2.0])
def test_torn_jpeg_is_refused(torn, options, reduction):
    with pytest.raises(BrokenImage):
        EncodedImage(TORN[torn](_jpeg(**options))).pixels(reduction)


def test_a_lost_restart_interval_is_refused_with_and_without_stray_bytes():
    data = _jpeg(restart_marker_blocks=1)
    for torn in (_without_interval(data), _at(_without_interval(data), 0xDB, b"abc")):
        with pytest.raises(BrokenImage, match="instead of RST"):
            EncodedImage(torn).pixels()
    place = _restarts(data)[3]
    with pytest.raises(BrokenImage, match="before marker 0xd"):  # bytes of a torn interval
        EncodedImage(data[:place] + bytes(200) + data[place:]).pixels()


GRAY = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)


def _gray_file(kind, samples, **options):
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, kind, **options)
    return buffer.getvalue()


def _with_sbit(data, bits):
    chunk = b"sBIT" + bytes([bits])
    return data[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


SCALED = {
    "PNG of 16 bits": _gray_file("PNG", GRAY),
    "TIFF of 16 bits": _gray_file("TIFF", GRAY),
    "TIFF of 16 bits, compressed": _gray_file("TIFF", GRAY, compression="tiff_deflate"),
    "TIFF of 16 bits whose brightest is noted": _gray_file("TIFF", GRAY, tiffinfo={281: 4000}),
    "TIFF of 16 bits, white is zero": _gray_file("TIFF", 65535 - GRAY, tiffinfo={262: 0}),
    "TIFF of 16 bits that hold 12": _gray_file("TIFF", GRAY >> 4, tiffinfo={281: 4095}),
    "PNG of 16 bits, 12 significant, as the standard has them": _with_sbit(_gray_file("PNG", GRAY & 0xFFF0), 12),
    "PNG of 16 bits, 12 significant, the lower ones": _with_sbit(_gray_file("PNG", GRAY >> 4), 12),
    "PGM of 16 bits": b"P5 64 64 65535\n" + GRAY.astype(">u2").tobytes(),
    "PGM of 12 bits": b"P5 64 64 4095\n" + (GRAY >> 4).astype(">u2").tobytes(),
    "JPEG 2000 of 16 bits": _gray_file("JPEG2000", GRAY),
}


@pytest.mark.parametrize("kind", SCALED)
def test_gray_of_more_than_8_bits_is_scaled_and_not_clipped(kind):
    pixels = EncodedImage(SCALED[kind]).pixels()
    assert pixels.shape == (64, 64, 3) and (pixels == pixels[..., :1]).all()
    assert np.abs(pixels[..., 0] - (GRAY >> 8).astype(np.int64)).max() <= (kind == "PGM of 12 bits")


def test_colours_and_gray_of_16_bits_are_scaled_alike():
    rows = b"".join(b"\0" + np.repeat(row.astype(">u2"), 3).tobytes() for row in GRAY)
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0), b"IDAT" + zlib.compress(rows), b"IEND")
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
    np.testing.assert_array_equal(EncodedImage(data).pixels(), EncodedImage(SCALED["PNG of 16 bits"]).pixels())


@pytest.mark.parametrize("samples", [GRAY.astype(np.int32), GRAY.astype(np.float32) / 65535], ids=["int32", "float32"])
def test_samples_whose_white_nothing_states_are_refused(samples):
    with pytest.raises(BrokenImage, match="save it with 8 or 16 bits"):
        EncodedImage(_gray_file("TIFF", samples)).pixels()


def test_floating_point_of_a_portable_map_is_refused():
    with pytest.raises(BrokenImage, match="gray samples in 'F' of a PPM file.*save it with 8 or 16 bits"):
        EncodedImage(b"Pf\n64 64\n-1.0\n" + GRAY.astype("<f4").tobytes()).pixels()


MODES = [("BMP", "RGB"), ("BMP", "1"), ("GIF", "P"), ("PPM", "RGB"), ("PPM", "1"), ("TIFF", "RGB"), ("TIFF", "1"),
         ("TIFF", "CMYK"), ("TIFF", "RGBA"), ("PNG", "1"), ("PNG", "LA"), ("PNG", "P"), ("PNG", "RGBA"),
         ("WEBP", "RGBA"), ("TGA", "RGB"), ("PCX", "P"), ("SGI", "L"), ("ICO", "RGBA"), ("JPEG2000", "RGB"),
         ("JPEG", "CMYK"), ("JPEG", "L"), ("DIB", "RGB"), ("DDS", "RGB")]  # fmt: skip


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_every_format_and_mode_gives_pillows_colours(kind, mode):
    picture = Image.fromarray(PIXELS[:32, :32])
    picture = picture.convert("RGB").quantize(16) if mode == "P" else picture.convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"), np.int64)
    pixels = EncodedImage(buffer.getvalue()).pixels()
    assert np.abs(pixels - expected).max() <= (1 if (kind, mode) == ("JPEG", "CMYK") else 0)


def test_a_palette_with_transparency_keeps_its_colours():
    picture = Image.fromarray(PIXELS).quantize(16)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=bytes(range(16)))
    np.testing.assert_array_equal(EncodedImage(buffer.getvalue()).pixels(), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "empty"),
        (bytes(4096), "zeros"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"%PDF-1.7", "no image: expected JPEG, PNG"),
    ],
)
def test_what_is_no_image_is_said_by_its_content(head, reason):
    assert reason in why_no_image(head, "photo.jpg")
    with pytest.raises(BrokenImage, match=reason):
        EncodedImage(head)


def test_every_suffix_belongs_to_a_format_that_pillow_reads():
    known = Image.registered_extensions()
    assert {suffix for suffix in SUFFIXES if suffix not in known} <= {".jif"}
