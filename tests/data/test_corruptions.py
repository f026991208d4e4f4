"""Corruptions of images: bounded, graded, a function of the key; beside Pillow and NumPy where these have the same."""

import colorsys
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resjax import InputError
from resjax.data import load_dataset
from resjax.data.augment import CORRUPTIONS, corrupt

IMAGES = load_dataset("cifar10_mini", "test").images[30:34]


@functools.cache
def _all_severities(name):
    """[5, 4, 32, 32, 3], compiled once with a traced severity."""
    of_one = functools.partial(corrupt, jax.random.key(3), IMAGES, name)
    return np.asarray(jax.jit(lambda: jax.lax.map(of_one, jnp.arange(1, 6)))())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_is_whole_pixels_and_grows_with_severity(name):
    damaged = _all_severities(name)
    assert damaged.shape == (5, *IMAGES.shape) and damaged.dtype == np.float32
    assert (damaged == np.round(damaged)).all() and damaged.min() >= 0 and damaged.max() <= 255
    difference = np.abs(damaged - IMAGES).mean((1, 2, 3, 4))
    assert 0.5 < difference[0] and (np.diff(difference) > 0).all() and difference[-1] < 90, difference


def test_the_damage_of_an_image_depends_on_its_own_key_alone():
    keys = jax.random.split(jax.random.key(3), 4)
    together = _all_severities("glass_blur")[2]
    alone = corrupt(keys[1:2], IMAGES[1:2], "glass_blur", 3)
    np.testing.assert_array_equal(alone[0], together[1])
    assert (corrupt(jax.random.key(4), IMAGES[1:2], "glass_blur", 3)[0] != together[1]).mean() > 0.3


@pytest.mark.parametrize("name", ["snow", "brightness", "jpeg_compression", "defocus_blur"])
def test_gray_images_of_odd_sizes_stay_gray_images(name):
    gray = IMAGES[:2, :27, :29, :1]
    damaged = corrupt(jax.random.key(0), gray, name, 5)
    assert damaged.shape == gray.shape and 1 < np.abs(damaged - gray).mean() < 90


def test_photographs_get_the_strengths_of_photographs():
    white = np.full((1, 96, 96, 3), 128, np.uint8)
    for side, deviation in ((96, 0.38), (95, 0.10)):
        noise = np.asarray(corrupt(jax.random.key(0), white[:, :side], "gaussian_noise", 5)) / 255 - 128 / 255
        inside = np.abs(noise) < 0.2  # not clipped
        expected = np.abs(np.random.default_rng(0).normal(0, deviation, 100_000))
        assert np.abs(noise[inside]).mean() == pytest.approx(expected[expected < 0.2].mean(), rel=0.05)


def test_noise_has_the_moments_of_its_kind():
    gray = np.full((1, 64, 64, 3), 100, np.uint8)
    shot = np.asarray(corrupt(jax.random.key(0), gray, "shot_noise", 5)) / 255
    # Of a Poisson number n / 50 with mean x: variance x / 50.
    assert shot.mean() == pytest.approx(100 / 255, abs=0.005)
    assert shot.var() == pytest.approx(100 / 255 / 50, rel=0.06)
    impulse = np.asarray(corrupt(jax.random.key(0), gray, "impulse_noise", 5))
    for extreme in (0, 255):
        assert (impulse == extreme).mean() == pytest.approx(0.035, abs=0.005)
    assert ((impulse == 100) | (impulse == 0) | (impulse == 255)).all()


@pytest.mark.parametrize("severity, quality", [(1, 80), (5, 40)])
def test_jpeg_is_what_pillow_decodes(severity, quality):
    for image, ours in zip(IMAGES, _all_severities("jpeg_compression")[severity - 1], strict=True):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
        decoded = np.asarray(Image.open(stream), np.float32)
        # Pillow interpolates the colours of half resolution; the luma is the same but for rounding.
        luma = (np.stack([ours, decoded]) @ np.float32([0.299, 0.587, 0.114])).astype(np.float32)
        assert np.abs(luma[0] - luma[1]).mean() < 1.6 < np.abs(ours - image).mean()
        assert np.abs(ours - decoded).mean() < 2.5


def test_coarse_pixels_are_those_of_a_box_filter():
    """20 boxes of 1.6 pixels, as Pillow reduces to 20 pixels; then each pixel shows the box of its centre."""
    nearest = ((np.arange(32) + 0.5) * 20 / 32).astype(int)
    for image, ours in zip(IMAGES, _all_severities("pixelate")[4], strict=True):
        small = np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BOX), np.float32)
        assert (
            np.abs(ours - small[nearest][:, nearest]).max() <= 32
            and np.abs(ours - small[nearest][:, nearest]).mean() < 5
        )


def test_contrast_and_brightness_are_those_of_their_definitions():
    pixels = IMAGES.astype(np.float64)
    mean = pixels.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(_all_severities("contrast")[4], mean + 0.15 * (pixels - mean), atol=0.51)
    for place in ((0, 5, 5), (1, 20, 9), (2, 31, 0), (3, 16, 16)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[place] / 255))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.3))
        np.testing.assert_allclose(_all_severities("brightness")[4][place], np.array(expected) * 255, atol=0.51)


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform"])
def test_what_moves_pixels_leaves_an_even_image_as_it_is(name):
    even = np.full((1, 16, 16, 3), (10, 128, 250), np.uint8)
    np.testing.assert_array_equal(corrupt(jax.random.key(1), even, name, 5), even)


@pytest.mark.parametrize(
    "images, name, severity, message",
    [
        (IMAGES, "gausian_noise", 1, "did you mean 'gaussian_noise'"),
        (IMAGES, "fog", 0, "severity: expected 1 to 5, got 0"),
        (IMAGES[0], "fog", 1, r"images: expected \[N, H, W, 1 or 3\], got \[32, 32, 3\]"),
    ],
)
def test_what_it_cannot_do_is_said(images, name, severity, message):
    with pytest.raises(InputError, match=message):
        corrupt(jax.random.key(0), images, name, severity)
