"""Augmentation of photographs in the step, against NumPy and Pillow, which torchvision's operations call."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from resjax.data.augment.colour import (
    OPERATIONS,
    apply_operations,
    colour_jitter,
    lighting,
    rand_augment,
    random_erasing,
    trivial_augment,
)
from resjax.data.augment.photographs import PhotoAugmentation, augment_photos
from resjax.data.normalization import Normalization
from resjax.errors import InputError

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(20, 230, (3, 24, 32, 3)).astype(np.uint8)


@functools.partial(jax.jit, static_argnames="wide")
def _apply_each(strength, sign, wide):
    """Every operation on every image."""
    kinds = jnp.repeat(jnp.arange(len(OPERATIONS)), len(IMAGES))
    images = jnp.tile(jnp.float32(IMAGES), (len(OPERATIONS), 1, 1, 1))
    return apply_operations(images, kinds, jnp.full(len(kinds), strength), jnp.full(len(kinds), sign), wide)


def _apply(name, strength, sign):
    each = np.asarray(_apply_each(strength, sign, wide=True)).reshape(len(OPERATIONS), *IMAGES.shape)
    return each[OPERATIONS.index(name)]


_ENHANCED = {
    "brightness": ImageEnhance.Brightness,
    "colour": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_operations_are_pillows(strength, sign):
    pillow = {name: lambda image, e=e: e(image).enhance(1 + sign * 0.99 * strength) for name, e in _ENHANCED.items()}
    pillow |= {
        "identity": lambda image: image,
        "posterize": lambda image: ImageOps.posterize(image, 8 - round(6 * strength)),
        "solarize": lambda image: ImageOps.solarize(image, 255 * (1 - strength)),
        "auto_contrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
    }
    for name, operation in pillow.items():
        expected = np.stack([np.asarray(operation(Image.fromarray(image)), np.float32) for image in IMAGES])
        difference = np.abs(np.asarray(_apply(name, strength, sign)) - expected)
        assert difference.max() <= 2 and difference.mean() < 0.6, name


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_moves_are_pillows_affine_maps(sign):
    strength = 1 / 3
    angle = np.deg2rad(135 * strength * sign)
    maps = {
        "shear_x": (1, 0.99 * strength * sign, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.99 * strength * sign, 1, 0),
        "translate_x": (1, 0, 32 * strength * sign, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 32 * strength * sign),
        "rotate": (np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0),
    }
    height, width = IMAGES.shape[1:3]
    for name, (a, b, c, d, e, f) in maps.items():
        # About the centre.
        x, y = width / 2, height / 2
        matrix = (a, b, c + x - a * x - b * y, d, e, f + y - d * x - e * y)
        expected = np.stack(
            [np.asarray(Image.fromarray(image).transform((width, height), Image.AFFINE, matrix)) for image in IMAGES]
        )
        same = (np.asarray(_apply(name, strength, sign)) == expected).all(-1).mean()
        assert same > 0.97, name  # where a place falls between two pixels either is nearest


def test_jitter_lighting_and_erasing_do_what_they_say():
    images, jitter = jnp.float32(IMAGES), jax.jit(colour_jitter)
    grey = jnp.broadcast_to(jnp.float32(100), images.shape)
    jittered = np.asarray(jitter(KEY, grey, 0.4))
    assert np.ptp(jittered, axis=(1, 2, 3)).max() < 1e-3 and 60 - 1e-3 <= jittered.min() <= jittered.max() <= 140 + 1e-3
    assert len(np.unique(jittered[:, 0, 0, 0])) == 3
    np.testing.assert_allclose(jitter(KEY, images, 0.0), images, atol=1e-3)
    light = np.asarray(lighting(KEY, images, 0.1) - images)
    assert np.ptp(light, axis=(1, 2)).max() < 1e-3 and 0.1 < np.abs(light).mean() < 30
    erased = np.asarray(jax.jit(random_erasing)(KEY, jnp.ones((200, 24, 32, 3)), 0.5)) == 0
    share = erased.all(-1).mean((1, 2))
    assert 70 < (share > 0).sum() < 130 and share.max() < 0.36 and 0.01 < share[share > 0].min()
    for mask in erased[share > 0][:20, ..., 0]:  # a rectangle
        np.testing.assert_array_equal(mask, mask.any(1)[:, None] & mask.any(0)[None])


def test_policies_leave_their_range_and_draw_for_each_image():
    same = jnp.broadcast_to(jnp.float32(IMAGES[0]), (64, *IMAGES.shape[1:]))
    for policy in (trivial_augment, rand_augment):
        changed = np.asarray(jax.jit(policy)(KEY, same))
        assert changed.min() >= 0 and changed.max() <= 255 and len(np.unique(changed.mean((1, 2, 3)))) > 20


def test_the_whole_augmentation_gives_mixed_targets():
    augmentation = PhotoAugmentation(
        policy="trivial_augment", colour_jitter=0.4, lighting=0.1, random_erasing=0.5, mixup=0.2, cutmix=1.0
    )
    normalize = Normalization(np.float32([120.0] * 3), np.float32([60.0] * 3))
    images, targets = jax.jit(
        lambda key: augment_photos(key, jnp.asarray(IMAGES), jnp.arange(3), 5, normalize, augmentation)
    )(KEY)
    assert images.shape == IMAGES.shape and np.isfinite(np.asarray(images)).all()
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
    plain, _ = augment_photos(KEY, jnp.asarray(IMAGES), jnp.arange(3), 5, normalize, PhotoAugmentation(flip=False))
    np.testing.assert_allclose(plain, (IMAGES - np.float32(120)) / np.float32(60), rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"policy": "auto"}, "policy: expected 'none', .*, got 'auto'"),
        ({"magnitude": 31}, "magnitude: expected 0 to 30, got 31"),
        ({"colour_jitter": 1.5}, "colour_jitter: expected a value from 0 to 1, got 1.5"),
        ({"lighting": -0.1}, "lighting: expected a value from 0 to inf, got -0.1"),
        ({"random_erasing": 2.0}, "random_erasing: expected a value from 0 to 1"),
        ({"mixup": -1.0}, "mixup: expected a value >= 0"),
        ({"cutmix": float("nan")}, "cutmix: expected a value >= 0, got nan"),
    ],
)
def test_values_out_of_range_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        PhotoAugmentation(**fields)
