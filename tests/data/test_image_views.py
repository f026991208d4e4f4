"""Decoding and cropping, against Pillow's and torchvision's way of doing the same."""

import dataclasses
import io
import random

import numpy as np
import pytest
from PIL import Image

from resjax.data.images import (
    BrokenImage,
    CentralPart,
    CentreCrop,
    EncodedImage,
    FiveCrops,
    RandomResizedCrop,
    RandomScaleCrop,
    ThreeSquares,
)
from resjax.errors import InputError


def _photo(height, width):
    """Smooth colours, which scaling keeps."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 / height, x * 255 / width, (x + y) * 255 / (height + width)], -1).astype(np.uint8)


def _encode(pixels, kind="JPEG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _seen(view, image, seed=0):
    out = np.empty(view.shape, np.uint8)
    view(image, random.Random(seed), out)
    return out


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (231, 517)])
def test_the_centre_crop_is_that_of_resizing_the_whole_image(size):
    data = _encode(_photo(*size), quality=95)
    height, width = size
    scaled = (256, int(256 * width / height)) if height < width else (int(256 * height / width), 256)
    whole = np.asarray(Image.open(io.BytesIO(data)).resize(scaled[::-1], Image.Resampling.BILINEAR), np.int32)
    top, left = (int(round((side - 224) / 2)) for side in scaled)
    difference = np.abs(_seen(CentreCrop(), EncodedImage(data)) - whole[top : top + 224, left : left + 224])
    assert difference.max() <= 1
    five = _seen(FiveCrops(), EncodedImage(data)).astype(np.int32)
    corners = (whole[:224, :224], whole[:224, -224:], whole[-224:, :224], whole[-224:, -224:])
    assert max(np.abs(crop - corner).max() for crop, corner in zip(five, corners, strict=False)) <= 1
    np.testing.assert_array_equal(five[4], _seen(CentreCrop(), EncodedImage(data)))


@pytest.mark.parametrize("size", [(403, 518), (518, 403)])
def test_a_part_of_a_reduced_jpeg_is_that_of_the_whole_one(size):
    """In its place to a pixel, where a half of the side is not whole; a small image is decoded in full."""
    rng = np.random.default_rng(0)
    image = EncodedImage(_encode(_photo(*size) // 2 + rng.integers(0, 64, (*size, 1), np.uint8), quality=95))
    whole, small = CentralPart((60, 60), (50, 40), "bicubic"), CentralPart((110, 110), (100, 90))
    reduced = _seen(dataclasses.replace(whole, gap=1.5), image).astype(np.int32)
    difference = np.abs(reduced - _seen(whole, image))
    assert 0 < difference.max() <= 6 and difference.mean() < 1
    np.testing.assert_array_equal(_seen(dataclasses.replace(small, gap=2), image), _seen(small, image))


def test_three_squares_reach_both_ends():
    pixels = _photo(100, 300)
    squares = _seen(ThreeSquares(50), EncodedImage(_encode(pixels, "PNG")))
    small = np.asarray(Image.fromarray(pixels).resize((150, 50), Image.Resampling.BILINEAR), np.int32)
    for start, square in zip((0, 50, 100), squares, strict=True):
        assert np.abs(square - small[:, start : start + 50]).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("view", [RandomResizedCrop(32), RandomScaleCrop(32, 40, 60)])
def test_a_random_crop_shows_its_box_of_the_image(kind, view):
    # Large enough for JPEG to be decoded at a half or a quarter of its size.
    pixels = _photo(400, 500)
    image = EncodedImage(_encode(pixels, kind, quality=95))
    for seed in range(5):
        top, left, height, width = view.box(400, 500, random.Random(seed))
        box = (left, top, left + width, top + height)
        expected = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR, box=box)
        difference = _seen(view, image, seed).astype(np.int32) - np.asarray(expected, np.int32)
        assert np.abs(difference).mean() < 3


def test_random_resized_crops_have_the_areas_and_shapes_they_should():
    view, rng = RandomResizedCrop(224), random.Random(0)
    boxes = np.array([view.box(375, 500, rng) for _ in range(4000)])
    share, aspect = boxes[:, 2] * boxes[:, 3] / (375 * 500), boxes[:, 3] / boxes[:, 2]
    assert 0.079 < share.min() < 0.1 and share.max() > 0.9 and 0.74 < aspect.min() and aspect.max() < 1.35
    assert abs(np.log(aspect).mean()) < 0.06  # about as wide as high
    assert (boxes[:, 0] + boxes[:, 2] <= 375).all() and (boxes[:, 1] + boxes[:, 3] <= 500).all()
    assert view.box(10, 1000, rng)[2:] == (10, 13)  # nothing else fits


def test_every_kind_of_image_becomes_rgb():
    grey = Image.fromarray(_photo(20, 30)).convert("L")
    for picture, kind in ((grey, "JPEG"), (grey, "PNG"), (Image.new("P", (30, 20)), "PNG"),
                          (Image.new("RGBA", (30, 20)), "PNG"), (Image.new("CMYK", (30, 20)), "JPEG")):  # fmt: skip
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        image = EncodedImage(buffer.getvalue())
        assert image.pixels().shape == (20, 30, 3) and (image.height, image.width) == (20, 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("reduction", [1, 1.01, 4])
def test_cut_and_other_files_are_broken(kind, reduction):
    data = _encode(np.random.default_rng(0).integers(0, 255, (60, 60, 3)).astype(np.uint8), kind)
    for broken in (data[: len(data) // 2], data[:20], b"", b"GIF89a" + data):
        with pytest.raises(BrokenImage):
            EncodedImage(broken).pixels(reduction)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RandomResizedCrop(0), r"random-resized crop: not possible with RandomResizedCrop\(size=0"),
        (lambda: RandomResizedCrop(32, aspect=(2, 1)), "random-resized crop: not possible"),
        (lambda: RandomScaleCrop(64, 32, 48), "random-scale crop: a crop of 64 from sides of 32..48"),
        (lambda: CentreCrop(resize=32, size=64), "centre crop: a square of 64 pixels from a shorter side of 32"),
    ],
)
def test_crops_that_no_image_has_are_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_a_header_that_asks_for_gigabytes_is_broken():
    data = bytearray(_encode(_photo(40, 50)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (60_000).to_bytes(2) * 2
    with pytest.raises(BrokenImage, match="its header says 60000 x 60000 pixels"):
        EncodedImage(bytes(data))


def test_random_crops_without_a_generator_are_refused():
    image = EncodedImage(_encode(_photo(40, 50)))
    for view in (RandomResizedCrop(32), RandomScaleCrop(24, shortest=32, longest=40)):
        with pytest.raises(InputError, match=f"{type(view).__name__}.*no seed was given.*`StreamConfig`"):
            view(image, None, np.empty(view.shape, np.uint8))
