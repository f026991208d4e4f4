"""Image and mask move together: each output pixel shows the place that its label came from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import map_coordinates

from resjax import InputError
from resjax.data.augment.masks import IGNORED, MaskAugmentation, augment_with_masks, bilinear, change_colour, nearest

SIZES = np.array([[12, 16], [16, 10], [5, 7]] * 8, np.int32)


def _coordinates(shape=(16, 16)):
    """Images whose channels are their own row and column, and 1; masks of the row."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.stack([rows, columns, np.ones(shape)], -1).astype(np.float32)
    return np.repeat(image[None], len(SIZES), 0), np.repeat(rows[None].astype(np.uint8), len(SIZES), 0)


_run = jax.jit(augment_with_masks, static_argnums=4)


def _augmented(augmentation, seed=0, sizes=SIZES):
    return [np.asarray(x) for x in _run(jax.random.key(seed), *_coordinates(), sizes, augmentation)]


MOVING = MaskAugmentation(crop=9, scale_min=0.7, scale_max=1.3)


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=50)
@given(seed=SEEDS, sizes=arrays(np.int32, SIZES.shape, elements=st.integers(1, 16)))
def test_masks_follow_their_images(seed, sizes):
    images, masks = _augmented(MOVING, seed, sizes)
    assert images.shape == (len(sizes), 9, 9, 3) and masks.shape == (len(sizes), 9, 9)
    inside = images[..., 2] > 0.5
    np.testing.assert_array_equal(masks == IGNORED, ~inside)
    assert not images[~inside].any()  # the mean colour
    # The label is the row nearest to the one that the image shows.
    assert (np.abs(masks - images[..., 0])[inside] <= 0.5 + 1e-4).all()
    # Nothing from outside of an image.
    for image, mask, (height, width) in zip(images, masks, sizes, strict=True):
        own = image[..., 2] > 0.5
        assert own.any() and mask[own].max() < height
        assert image[..., 0][own].max() <= height - 1 + 1e-4 and image[..., 1][own].max() <= width - 1 + 1e-4
        # An image that is larger than the crop at the smallest scale fills it.
        assert own.all() or min(height, width) < 13


def test_every_place_is_reached():
    images, _ = _augmented(MOVING)
    seen = images[0::3][images[0::3][..., 2] > 0.5]
    assert (seen[:, :2].min(0) < 1.5).all() and (seen[:, :2].max(0) > (9.5, 13.5)).all()


def test_scales_and_flips_are_drawn_for_each_image_within_their_limits():
    images, _ = _augmented(MOVING)
    steps = np.array([np.median(np.diff(image[:, :, 1], axis=1)[image[:, 1:, 2] > 0.5]) for image in images])
    assert 0 < (steps < 0).sum() < len(steps)
    scales = 1 / np.abs(steps)
    # Enlarged images have a whole number of pixels.
    assert scales.min() > 0.7 - 0.08 and scales.max() < 1.3 + 0.08 and len(np.unique(scales.round(3))) > 5


def test_at_scale_one_a_crop_is_a_cut_without_interpolation():
    images, masks = _augmented(MaskAugmentation(crop=9, scale_min=1, scale_max=1, flip=False))
    np.testing.assert_allclose(images, images.round(), atol=1e-4)
    inside = images[..., 2] > 0.5
    np.testing.assert_array_equal(images[..., 0].round()[inside], masks[inside])
    assert len({tuple(image[0, 0].round()) for image in images[0::3]}) > 3


def test_without_a_crop_only_flips_remain_each_within_its_own_image():
    images, masks = _augmented(MaskAugmentation(crop=0))
    before, before_masks = _coordinates()
    flipped = 0
    for i, (height, width) in enumerate(SIZES):
        own, own_mask = before[i, :height, :width], before_masks[i, :height, :width]
        mirrored = images[i, 0, 0, 1] == width - 1
        flipped += mirrored
        order = slice(None, None, -1 if mirrored else 1)
        np.testing.assert_array_equal(images[i, :height, :width], own[:, order])
        np.testing.assert_array_equal(masks[i, :height, :width], own_mask[:, order])
    assert 0 < flipped < len(SIZES)


def test_the_key_decides():
    first, again, other = (_augmented(MOVING, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


PLACES = st.floats(-1, 6, width=32)


@settings(max_examples=50)
@given(
    seed=SEEDS,
    size=st.tuples(st.integers(1, 6), st.integers(1, 5)),
    rows=arrays(np.float32, 5, elements=PLACES),
    columns=arrays(np.float32, 3, elements=PLACES),
)
@example(0, (5, 4), np.float32([-0.4, 0.25, 3.5, 4.4, 4.6]), np.float32([0, 2.75, 3.4]))
def test_resampling_is_scipys_bilinear_for_images_and_nearest_for_masks(seed, size, rows, columns):
    rng = np.random.default_rng(seed)
    image, mask = rng.normal(size=(6, 5, 2)).astype(np.float32), rng.integers(0, 9, (6, 5)).astype(np.uint8)
    resampled, labels = _resample(image, mask, rows, columns, np.array(size))
    own = np.s_[: size[0], : size[1]]
    places = np.meshgrid(rows.astype(np.float64), columns.astype(np.float64), indexing="ij")
    inside = np.logical_and.reduce([(-0.5 <= p) & (p < n - 0.5) for p, n in zip(places, size, strict=True)])
    for channel in range(2):
        expected = map_coordinates(image[own][..., channel], places, order=1, mode="nearest")
        np.testing.assert_allclose(resampled[..., channel], np.where(inside, expected, 0), atol=1e-5)
    # Half way between two pixels the later one.
    row, column = (np.clip(np.floor(p + 0.5), 0, n - 1).astype(int) for p, n in zip(places, size, strict=True))
    np.testing.assert_array_equal(labels, np.where(inside, mask[row, column], IGNORED))


@jax.jit
def _resample(image, mask, rows, columns, size):
    return bilinear(image, rows, columns, size), nearest(mask, rows, columns, size)


def test_colours_change_within_their_limits_and_leave_masks_and_padding_alone():
    colour = MaskAugmentation(crop=9, scale_min=0.7, scale_max=1.3, brightness=0.5, contrast=0.5, saturation=0.5)
    (plain, plain_masks), (images, masks) = _augmented(MOVING), _augmented(colour)
    np.testing.assert_array_equal(masks, plain_masks)
    assert not images[masks == IGNORED].any() and (images != plain).any()
    only = MaskAugmentation(brightness=0.5)
    gray = jnp.zeros((200, 2, 2, 3))
    shifts = change_colour(jax.random.key(0), gray, jnp.ones((200, 2, 2, 1), bool), only)[:, 0, 0, 0]
    assert np.abs(shifts).max() <= 0.5 and shifts.min() < -0.4 and shifts.max() > 0.4


@pytest.mark.parametrize("fields", [{"crop": -1}, {"scale_min": 0.0}, {"scale_min": 2.0}, {"contrast": -0.1}])
def test_wrong_values_are_named(fields):
    with pytest.raises(InputError, match="expected"):
        MaskAugmentation(**fields)
