"""Files of masks and of images: bits, palettes, colours, compression, orientation; right, or one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from resjax import InputError
from resjax.data import load_masks
from resjax.data.augment.masks import IGNORED
from resjax.data.masks import read_image
from tests.helpers.voc_folder import encoded, random_image, write_voc

SHAPE = (12, 20)
LABELS = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
CLASSES = "sky\nground\nsea\n"


def _load(root, mask, image=None, suffix=".png", classes=CLASSES, **options):
    image = encoded(random_image(*SHAPE)) if image is None else image
    write_voc(root, {"x.png": image}, {f"x{suffix}": mask}, {"train": "x\n"}, classes)
    return load_masks("voc", "train", root, **options)


def _gray_png(values, bits):
    """A gray PNG of few bits, which Pillow cannot write: that of a palette, without it."""
    image = Image.fromarray(values)
    image.putpalette([channel for value in range(2**bits) for channel in (value, value, value)])
    file = io.BytesIO()
    image.save(file, "PNG", bits=bits)
    data, chunks = file.getvalue(), []
    position = 8
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length
        if kind == b"PLTE":
            continue
        if kind == b"IHDR":
            body = body[:9] + b"\0" + body[10:]
        chunks.append(struct.pack(">I", length) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return data[:8] + b"".join(chunks)


def _alpha(mode, opaque=True):
    image = Image.fromarray(LABELS).convert(mode)
    alpha = np.full(SHAPE, 255, np.uint8)
    alpha[3, 4] = 255 if opaque else 0
    image.putalpha(Image.fromarray(alpha))
    return image


SAME_LABELS = {
    "gray": encoded(LABELS),
    "palette": encoded(LABELS, palette=True),
    "palette of 2 bits": encoded(Image.fromarray(LABELS), palette=True, bits=2),
    "gray of 2 bits": _gray_png(LABELS, 2),
    "gray of 4 bits": _gray_png(LABELS, 4),
    "gray of 16 bits": encoded(LABELS.astype(np.uint16)),
    "gray of 32 bits, TIFF": encoded(LABELS.astype(np.int32), "TIFF"),
    "RGB that repeats gray": encoded(np.repeat(LABELS[..., None], 3, -1)),
    "gray with alpha": encoded(_alpha("LA")),
    "RGB with alpha": encoded(_alpha("RGBA")),
    "TIFF": encoded(LABELS, "TIFF"),
    "BMP": encoded(LABELS, "BMP"),
}


@pytest.mark.parametrize("kind", SAME_LABELS)
def test_the_values_of_a_mask_are_its_labels_in_every_format(tmp_path, kind):
    np.testing.assert_array_equal(_load(tmp_path, SAME_LABELS[kind]).masks[0], LABELS)


def test_label_15_of_four_bits_is_no_ignored_pixel(tmp_path):
    """Pillow gives gray of 4 bits times 17: 15 as 255."""
    values = np.arange(16, dtype=np.uint8).reshape(2, 8).repeat(6, 0)[:, :8]
    mask = _gray_png(values, 4)
    assert np.asarray(Image.open(io.BytesIO(mask))).max() == 255
    image = encoded(random_image(*values.shape))
    np.testing.assert_array_equal(_load(tmp_path, mask, image, classes=None).masks[0], values)


def test_a_mask_of_one_bit_has_two_classes_and_white_is_255_where_that_is_a_value(tmp_path):
    bits = LABELS > 1
    for options in ({}, {"mask_values": (0, 255)}, {"mask_values": (0, 1)}):
        data = _load(tmp_path, encoded(Image.fromarray(bits)), classes="no\nyes\n", **options)
        np.testing.assert_array_equal(data.masks[0], bits)


REFUSED = {
    "colours": (
        encoded(np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)[LABELS]),
        r"x.png: the mask codes 3 colours \(\(0, 0, 0\), \(0, 128, 0\), \(128, 0, 0\)\); expected an indexed",
    ),
    "transparency": (encoded(_alpha("LA", opaque=False)), "x.png: the mask has transparent pixels"),
    "floats": (encoded(LABELS.astype(np.float32), "TIFF"), "x.png: expected an indexed or gray image.*found float32"),
    "negative": (encoded(LABELS.astype(np.int32) - 1, "TIFF"), "x.png: expected .*found int32, -1 to 1"),
    "16 bits": (
        encoded(np.array([0, 1, 300], np.uint16)[LABELS]),
        r"x.png: label 300 .*; expected 0 to 2, 255; .*classes.txt names 3 classes, or, where its values 0 1 300",
    ),
    "pages": (
        encoded(Image.fromarray(LABELS), "TIFF", save_all=True, append_images=[Image.fromarray(LABELS)]),
        "x.png: a mask of several pages",
    ),
    "JPEG": (encoded(LABELS, "JPEG"), "x.png: JPEG changes the values of a mask.*--mask_values 0 255"),
    "nothing": (b"", "x.png: damaged or no image; get it again"),
    "cut": (encoded(random_image(*SHAPE))[:200], r"x.png: damaged or no image \("),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_mask_without_labels_is_said_in_one_line(tmp_path, kind):
    mask, message = REFUSED[kind]
    with pytest.raises(InputError, match=message) as raised:
        _load(tmp_path, mask)
    assert "\n" not in str(raised.value)


def test_values_stand_for_classes_in_the_order_given(tmp_path):
    stored = np.array([255, 7, 128], np.uint8)[LABELS]
    np.testing.assert_array_equal(_load(tmp_path, encoded(stored), mask_values=(255, 7, 128)).masks[0], LABELS)
    wide = np.array([0, 40_000, 65_535], np.uint16)[LABELS]
    np.testing.assert_array_equal(_load(tmp_path, encoded(wide), mask_values=(0, 40_000, 65_535)).masks[0], LABELS)
    ignored = np.where(LABELS == 2, IGNORED, LABELS * 9).astype(np.uint8)
    data = _load(tmp_path, encoded(ignored), mask_values=(0, 9, 5))
    np.testing.assert_array_equal(data.masks[0], np.where(LABELS == 2, IGNORED, LABELS))
    with pytest.raises(InputError, match=r"label 9 .*; expected 0, 8, 5, 255 \(--mask_values\)"):
        _load(tmp_path, encoded(ignored), mask_values=(0, 8, 5))


def test_values_of_two_classes_after_jpeg_count_as_the_nearer_one(tmp_path, caplog):
    truth = np.zeros((64, 64), bool)
    truth[10:40, 21:50] = True
    image, two = encoded(random_image(64, 64)), "no\nyes\n"
    jpeg = encoded(np.where(truth, 255, 0).astype(np.uint8), "JPEG", quality=75)
    blurred = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert len(np.unique(blurred)) > 10
    for suffix, mask in ((".jpg", jpeg), (".png", encoded(blurred))):
        root = tmp_path / suffix
        data = _load(root, mask, image, suffix, two, mask_values=(0, 255))
        np.testing.assert_array_equal(data.masks[0], blurred > 127)
        assert (data.masks[0] == truth).mean() > 0.995
        other = _load(root, mask, image, suffix, two, mask_values=(255, 0))
        np.testing.assert_array_equal(other.masks[0], 1 - data.masks[0])
    assert "of the masks' pixels have none of the given values" in caplog.text
    with pytest.raises(InputError, match="looks like black and white after a lossy compression: --mask_values 0 255"):
        _load(tmp_path / ".png", encoded(blurred), image, classes=two)


def test_a_third_value_is_no_blur(tmp_path):
    three = np.array([0, 255, 128], np.uint8)[LABELS]
    with pytest.raises(InputError, match="label 128 at row"):
        _load(tmp_path, encoded(three), classes="no\nyes\n", mask_values=(0, 255))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 255), "expected the value of each of 3 classes, got 2; .*classes.txt names 3 classes"),
        ((0, 1, 1), "expected different values from 0 to 65535"),
        ((0, 1, -1), "expected different values from 0 to 65535"),
    ],
)
def test_wrong_values_are_named(tmp_path, values, message):
    with pytest.raises(InputError, match=f"--mask_values: {message}"):
        _load(tmp_path, encoded(LABELS), mask_values=values)


def test_values_are_given_only_where_a_dataset_has_none_of_its_own():
    with pytest.raises(InputError, match="--mask_values: cityscapes has values of its own"):
        load_masks("cityscapes", "train", mask_values=(0, 255))
    with pytest.raises(InputError, match="longer_side .*: expected up to 8192 pixels"):
        load_masks("shapes", "test", longer_side=-1)


# The eight orientations of EXIF, as operations of NumPy on what is stored.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def _turned(array, orientation, kind="PNG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(array, kind, exif=exif)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_is_turned_to_its_mask(tmp_path, orientation):
    stored = random_image(*SHAPE)
    upright = UPRIGHT[orientation](stored)
    mask = UPRIGHT[orientation](LABELS)
    data = _load(tmp_path, encoded(np.ascontiguousarray(mask)), _turned(stored, orientation))
    np.testing.assert_array_equal(data.images[0], upright)
    np.testing.assert_array_equal(data.masks[0], mask)
    np.testing.assert_array_equal(read_image(_turned(stored, orientation), "x"), upright)


def _two_images(root, second):
    """One image that its mask shows to be left as stored, and one that leaves it open, of orientation 3."""
    stored = random_image(*SHAPE)
    images = {"a.png": _turned(stored, 6), "b.png": _turned(stored, 3)} | second
    masks = {f"{name[0]}.png": encoded(LABELS) for name in images}
    return stored, write_voc(root, images, masks, {"train": "".join(f"{name}\n" for name in images)}, CLASSES)


def test_an_image_stays_as_its_mask_and_one_that_leaves_it_open_follows_the_others(tmp_path, caplog):
    stored, root = _two_images(tmp_path, {})
    data = load_masks("voc", "train", root)
    np.testing.assert_array_equal(data.images[0], stored)
    np.testing.assert_array_equal(data.images[1], stored)
    assert "1 of 2 images have masks as large as their pixels before the EXIF orientation" in caplog.text


def test_where_the_others_disagree_the_image_is_turned_and_that_is_said(tmp_path, caplog):
    other = random_image(SHAPE[1], SHAPE[0])
    stored, root = _two_images(tmp_path, {"c.png": _turned(other, 6)})
    data = load_masks("voc", "train", root)
    np.testing.assert_array_equal(data.images[0], stored)
    np.testing.assert_array_equal(data.images[1], stored[::-1, ::-1])
    np.testing.assert_array_equal(data.images[2], np.rot90(other, -1))
    assert "the EXIF orientation of 1 images leaves their size as it is" in caplog.text


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_tiff_whose_orientation_its_reader_applies_is_not_said_to_lie(tmp_path, caplog, orientation):
    stored = random_image(*SHAPE)
    shown = UPRIGHT[orientation](stored)
    labels = np.ascontiguousarray(UPRIGHT[orientation](LABELS))
    root = write_voc(
        tmp_path, {"a.tif": _turned(stored, orientation, "TIFF")}, {"a.png": encoded(labels)}, {"train": "a\n"}, CLASSES
    )
    data = load_masks("voc", "train", root)
    np.testing.assert_array_equal(data.images[0], shown)
    np.testing.assert_array_equal(data.masks[0], labels)
    assert "orientation" not in caplog.text


def test_gray_of_the_kinds_that_photographs_have_is_read_in_an_image_beside_a_mask():
    deep = np.random.default_rng(0).integers(0, 2**16, SHAPE).astype(np.uint16)
    pgm = b"P5 %d %d 4095\n" % SHAPE[::-1] + (deep >> 4).astype(">u2").tobytes()
    seen = read_image(pgm, "x")[..., 0].astype(int)
    assert np.abs(seen - (deep >> 8)).max() <= 1  # 4095 is white, not 65535
    white_is_zero = read_image(encoded(deep, "TIFF", tiffinfo={262: 0}), "x")[..., 0]
    np.testing.assert_array_equal(white_is_zero, 255 - (deep >> 8))


def test_a_damaged_orientation_leaves_the_image_as_it_is():
    stored = random_image(*SHAPE)
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nothing"):
        np.testing.assert_array_equal(read_image(encoded(stored, "PNG", exif=exif), "x"), stored)


def test_gray_images_of_16_and_12_bits_are_scaled_as_colours_are(tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, SHAPE).astype(np.uint16)
    expected = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, -1)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(read_image(encoded(deep, kind), "x"), expected)
    np.testing.assert_array_equal(_load(tmp_path, encoded(LABELS), encoded(deep)).images[0], expected)
    with pytest.raises(InputError, match="x: gray samples of 32 bits .floating point.*save it with 8 or 16 bits"):
        read_image(encoded(deep.astype(np.float32), "TIFF"), "x")


def test_transparency_of_an_image_is_left_out():
    image = random_image(*SHAPE)
    alpha = np.random.default_rng(1).integers(0, 256, (*SHAPE, 1)).astype(np.uint8)
    np.testing.assert_array_equal(read_image(encoded(np.concatenate([image, alpha], -1)), "x"), image)


def test_sizes_that_differ_are_both_said(tmp_path):
    with pytest.raises(InputError, match=r"x.png: the mask has 12 x 20 pixels, its image .*x.png 20 x 12"):
        _load(tmp_path, encoded(np.ascontiguousarray(LABELS.T)))
    # Of an image that is turned, the size that is seen.
    with pytest.raises(InputError, match=r"the mask has 5 x 5 pixels, its image .*x.png 12 x 20"):
        _load(tmp_path, encoded(np.zeros((5, 5), np.uint8)), _turned(random_image(*SHAPE), 6))


def test_identity_tells_repaired_masks_other_images_and_other_orders(tmp_path):
    def identity(masks=(LABELS, LABELS), order="a\nb\n", seed=0):
        images = {f"{name}.png": encoded(random_image(*SHAPE, seed=seed + i)) for i, name in enumerate("ab")}
        files = {f"{name}.png": encoded(mask) for name, mask in zip("ab", masks, strict=True)}
        root = write_voc(tmp_path, images, files, {"train": order}, "x\ny\nz\n")
        return load_masks("voc", "train", root).identity(3)

    first = identity()
    assert first == identity()
    assert first["images"] == 2 and first["ignored_pixels"] == 0
    assert first["pixels"] == [2 * int((LABELS == label).sum()) for label in range(3)]
    moved = np.roll(LABELS, 1, 1)
    others = [identity((LABELS, moved)), identity(order="b\na\n"), identity(seed=5)]
    assert len({first["fingerprint"], *(other["fingerprint"] for other in others)}) == 4
    assert others[0]["pixels"] == first["pixels"]  # the counts alone would not tell
