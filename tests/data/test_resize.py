"""Resizing inside a program beside Pillow's own."""

import jax
import numpy as np
import pytest
from PIL import Image

from resjax import InputError
from resjax.data.images import CentralPart
from resjax.data.resize import INTERPOLATIONS, resize


@pytest.fixture(scope="module")
def images():
    """A shape by name; of smooth structure and noise."""
    rng = np.random.default_rng(0)

    def make(height, width):
        rows, columns = np.mgrid[:height, :width]
        waves = 127 + 100 * np.sin(rows / 7) * np.cos(columns / 11)
        noisy = waves[..., None] + rng.normal(0, 30, (height, width, 3))
        return np.clip(noisy, 0, 255).astype(np.uint8)

    return make


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("old, new", [((97, 131), (64, 86)), ((60, 45), (37, 31)), ((31, 40), (75, 97))])
def test_pixels_are_those_of_pillow(old, new, interpolation, images):
    image = images(*old)
    expected = np.asarray(Image.fromarray(image).resize(new[::-1], Image.Resampling[interpolation.upper()]))
    got = np.asarray(jax.jit(resize, static_argnums=(1, 2))(image[None], new, interpolation)[0])
    difference = np.abs(got.astype(int) - expected)
    assert got.dtype == np.uint8 and difference.max() <= 1
    # Sums that lie between two numbers: a float32 and Pillow's 22 bits round them apart.
    assert (difference > 0).mean() < 0.005


def test_tall_images_differ_by_one_at_most(images):
    """Newer versions of Pillow resize their rows first."""
    image = images(200, 40)
    expected = np.asarray(Image.fromarray(image).resize((16, 80), Image.Resampling.BICUBIC))
    assert np.abs(np.asarray(resize(image[None], (80, 16), "bicubic")[0]).astype(int) - expected).max() <= 1


def test_a_part_is_a_part_of_the_whole(images):
    image = images(50, 70)[None]
    whole = np.asarray(resize(image, (40, 56), "bicubic"))
    part = np.asarray(resize(image, (40, 56), "bicubic", (3, 9), (20, 31)))
    np.testing.assert_array_equal(part, whole[:, 3:23, 9:40])


def test_an_image_of_the_size_wanted_stays_as_it_is(images):
    image = images(32, 32)[None]
    np.testing.assert_array_equal(resize(image, (32, 32), "lanczos"), image)


def test_the_view_on_the_host_cuts_the_same_part(images):
    image, view = images(60, 91), CentralPart((40, 40), (32, 32), "bicubic")
    out = np.empty(view.shape, np.uint8)
    view.cut(image, out)
    scaled, corner = view.place(60, 91)
    assert scaled == (40, 60) and corner == (4, 14)
    again = np.asarray(resize(image[None], scaled, "bicubic", corner, view.size)[0])
    assert np.abs(again.astype(int) - out).max() <= 1


def test_an_unknown_interpolation_is_named():
    with pytest.raises(InputError, match="'bicubik'; did you mean 'bicubic'"):
        resize(np.zeros((1, 4, 4, 3), np.uint8), (2, 2), "bicubik")
