"""Orientation that a camera noted: every one of the eight, in every kind of file, against Pillow's `exif_transpose`."""

import io
import random

import numpy as np
import pytest
from PIL import Image, ImageOps

from resjax.data.images import (
    CentreCrop,
    EncodedImage,
    FiveCrops,
    ImageStream,
    RandomResizedCrop,
    RandomScaleCrop,
    StreamConfig,
    ThreeSquares,
    open_evaluation,
)
from resjax.data.images.orientation import noted_orientation, upright, upright_size

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def _file(orientation, kind, pixels=PIXELS):
    exif = Image.Exif()
    exif[274] = orientation
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(pixels).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_as_pillow_turns_them(kind, orientation):
    opened = Image.open(io.BytesIO(_file(orientation, kind)))
    assert noted_orientation(opened) == orientation
    expected = np.asarray(ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(upright(np.asarray(opened), orientation), expected)
    np.testing.assert_array_equal(upright(np.asarray(opened)[..., 0], orientation), expected[..., 0])  # a mask
    assert upright_size(5, 7, orientation) == expected.shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_not_defined_is_upright(orientation):
    assert noted_orientation(Image.open(io.BytesIO(_file(orientation, "PNG")))) == 1


def _photo(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 / height, x * 255 / width, (x + y) * 255 / (height + width)], -1).astype(np.uint8)


VIEWS = [RandomResizedCrop(32), RandomScaleCrop(32, 40, 60), CentreCrop(36, 32), FiveCrops(36, 32), ThreeSquares(32)]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: type(view).__name__)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_view_of_a_turned_image_is_that_of_the_upright_one(kind, view):
    # Large enough for JPEG to be decoded at a half or a quarter of its size.
    pixels = _photo(300, 500)
    for orientation in (3, 6, 7):
        seen, expected = np.empty(view.shape, np.uint8), np.empty(view.shape, np.uint8)
        image = EncodedImage(_file(orientation, kind, pixels), "apply")
        whole = EncodedImage(_file(1, "PNG", upright(pixels, orientation)))
        assert (image.height, image.width) == (whole.height, whole.width)
        view(image, random.Random(1), seen)
        view(whole, random.Random(1), expected)
        assert np.abs(seen.astype(np.int32) - expected).mean() < 3


def test_a_stream_turns_images_where_it_is_told_to_and_a_folder_counts_them(tmp_path):
    for name, orientation in (("a", 6), ("b", 1)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(_file(orientation, "JPEG", _photo(40, 60)))
    found = open_evaluation("folder", tmp_path / "photos")
    assert found.oriented == 2
    seen = {}
    for mode in ("ignore", "apply"):
        with ImageStream(found.images, StreamConfig((CentreCrop(36, 32),), 4, exif_orientation=mode)) as stream:
            seen[mode] = next(stream).views[0]
    np.testing.assert_array_equal(seen["ignore"][2:], seen["apply"][2:])
    np.testing.assert_array_equal(seen["ignore"][0], seen["ignore"][2])
    turned = upright(seen["ignore"][0], 6).astype(np.int32)
    assert np.abs(turned - seen["apply"][0]).max() <= 2 and np.abs(turned - seen["ignore"][0]).mean() > 20
