"""Augmentation: what may happen to an image, how often, and that it happens to each image on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resjax import InputError
from resjax.data import load_dataset
from resjax.data.augment import (
    Augmentation,
    Normalization,
    alternation,
    augment,
    cutmix,
    cutout,
    mirrored_and_shifted,
    mixup,
    random_crop,
    random_flip,
)

NOTHING = Augmentation(crop_padding=0, flip=False)


def _images(n, size=32, channels=3):
    return jnp.asarray(np.random.default_rng(0).normal(size=(n, size, size, channels)), jnp.float32)


_crop = jax.jit(random_crop, static_argnums=(2, 3))


@pytest.mark.quick
@given(
    size=st.tuples(st.sampled_from([5, 8, 9]), st.sampled_from([5, 8])),
    padding=st.sampled_from([0, 1, 4]),
    mode=st.sampled_from([("zero", "constant"), ("reflect", "reflect")]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_crop_is_a_window_of_the_padded_image_of_its_own(size, padding, mode, seed):
    height, width = size
    images = np.arange(1, 1 + 12 * height * width * 2, dtype=np.float32).reshape(12, height, width, 2)
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode[1])
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, (1, 2))  # [N, y, x, C, H, W]
    crops = np.asarray(_crop(jax.random.key(seed), jnp.asarray(images), padding, mode[0]))
    found = (windows == crops.transpose(0, 3, 1, 2)[:, None, None]).all((3, 4, 5))
    assert found.any((1, 2)).all()
    assert padding == 0 or len(set(found.reshape(12, -1).argmax(1))) > 1


@pytest.mark.quick
def test_every_one_of_the_81_crops_occurs_uniformly():
    n = 20_000
    image = np.arange(1, 82, dtype=np.float32).reshape(9, 9, 1)
    crops = np.asarray(_crop(jax.random.key(0), jnp.tile(image, (n, 1, 1, 1)), 4, "reflect"))
    _, counts = np.unique(crops.reshape(n, -1), axis=0, return_counts=True)
    assert len(counts) == 81
    chi_squared = np.sum((counts - n / 81) ** 2 / (n / 81))
    # 80 degrees of freedom: above 139 with probability 5e-5.
    assert chi_squared < 139


def test_flip_mirrors_half_of_the_images_and_leaves_the_others():
    images = _images(4000, size=4)
    flipped = np.asarray(random_flip(jax.random.key(0), images))
    mirrored = np.asarray([np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, images, strict=True)])
    untouched = np.asarray([np.array_equal(a, b) for a, b in zip(flipped, images, strict=True)])
    assert np.all(mirrored ^ untouched)
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_two_epochs_of_alternating_flips_show_each_image_both_ways():
    """Whatever the order of the images; one half of photographs in the first epoch, the other in the second."""
    images = load_dataset("cifar10_mini", "test").images
    first, second, third = (np.asarray(alternation(jnp.asarray(images), jnp.int32(epoch))) for epoch in range(3))
    assert (first != second).all() and (first == third).all()
    assert 0.45 < first.mean() < 0.55
    np.testing.assert_array_equal(alternation(jnp.asarray(images[::-1]), jnp.int32(0)), first[::-1])
    options, key = Augmentation(crop_padding=0, flip=False, alternating_flip=True), jax.random.key(0)
    batch, labels = _images(4), jnp.zeros(4, jnp.int32)
    mirrored = jnp.array([True, False, False, True])
    expected = np.where(np.asarray(mirrored)[:, None, None, None], batch[:, :, ::-1], batch)
    np.testing.assert_array_equal(augment(key, batch, labels, 10, options, mirrored)[0], expected)
    with pytest.raises(InputError, match="say which images"):
        augment(key, batch, labels, 10, options)


def test_views_of_an_image_are_it_and_its_shifts_and_their_mirrors():
    image = np.arange(1, 13, dtype=np.float32).reshape(1, 3, 4, 1)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    views = [image, padded[:, :3, :4], padded[:, 2:, 2:]]
    expected = {(view if side == 1 else view[:, :, ::-1]).tobytes() for view in views for side in (1, -1)}
    found = mirrored_and_shifted(jnp.asarray(image))
    assert {np.asarray(view).tobytes() for _, view in found} == expected and len(found) == 6
    assert [weight for weight, _ in found] == [1 / 4, 1 / 8, 1 / 8] * 2


def test_cutout_zeroes_one_square_that_may_reach_over_the_border():
    n, size, length = 3000, 16, 6
    cut = np.asarray(cutout(jax.random.key(0), jnp.ones((n, size, size, 1)), length))[..., 0] == 0
    rows, columns = cut.any(2).sum(1), cut.any(1).sum(1)
    np.testing.assert_array_equal(cut.sum((1, 2)), rows * columns)  # a full rectangle
    assert rows.max() == columns.max() == length and rows.min() == length // 2
    # Every pixel is equally likely to be the centre: the mean area follows from the clipped sides.
    sides = [min(c + 3, size) - max(c - 3, 0) for c in range(size)]
    assert abs(rows.mean() - np.mean(sides)) < 4 * np.std(sides) / np.sqrt(n)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_mixed_targets_are_the_shares_of_the_two_images(mix):
    # Image i is filled with i: what each result holds of itself and of its neighbour can be read off.
    n = 500
    images = jnp.broadcast_to(jnp.arange(1.0, n + 1)[:, None, None, None], (n, 8, 8, 1))
    targets = jnp.eye(n)
    mixed, mixed_targets = mix(jax.random.key(0), images, targets, 1.0)
    neighbour = np.roll(np.arange(n), 1)
    kept = np.asarray(mixed_targets)[np.arange(n), np.arange(n)]
    given = np.asarray(mixed_targets)[np.arange(n), neighbour]
    np.testing.assert_allclose(kept + given, 1, rtol=1e-5)
    expected = kept * (np.arange(n) + 1) + given * (neighbour + 1)
    np.testing.assert_allclose(np.asarray(mixed).mean((1, 2, 3)), expected, rtol=1e-3)
    assert kept.std() > 0.1  # each image has a weight of its own


def test_mixup_and_cutmix_together_give_each_image_one_of_them():
    images = jnp.broadcast_to(jnp.arange(400.0)[:, None, None, None], (400, 8, 8, 1))
    mixed, targets = augment(
        jax.random.key(0), images, jnp.zeros(400, jnp.int32), 10, Augmentation(0, "zero", False, 0, 1.0, 1.0)
    )
    # A blended image is flat (its neighbours are flat), a pasted one has two values.
    pasted = np.asarray(mixed).reshape(400, -1).std(1) > 0.1
    assert 0.3 < pasted.mean() < 0.6  # a pasted box may be empty or the whole image, which is flat
    np.testing.assert_allclose(np.asarray(targets).sum(1), 1, rtol=1e-5)


def test_nothing_to_do_changes_nothing():
    images, labels = _images(5), jnp.arange(5)
    same, targets = augment(jax.random.key(0), images, labels, 10, NOTHING)
    np.testing.assert_array_equal(same, images)
    np.testing.assert_array_equal(targets, np.eye(10)[:5])


@pytest.mark.quick
def test_draws_depend_on_the_key_alone():
    images, labels = _images(16), jnp.zeros(16, jnp.int32)
    options = Augmentation(4, "reflect", True, 8, 0.2, 1.0)
    run = jax.jit(lambda key: augment(key, images, labels, 10, options)[0])
    np.testing.assert_array_equal(run(jax.random.key(1)), run(jax.random.key(1)))
    assert not np.array_equal(run(jax.random.key(1)), run(jax.random.key(2)))


def test_normalization_per_channel_and_per_pixel():
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), np.uint8)
    mean, std = np.float32([120, 121, 122]), np.float32([60, 61, 62])
    np.testing.assert_allclose(
        Normalization(mean, std)(jnp.asarray(images)), (images - mean) / std, rtol=1e-5, atol=1e-6
    )
    pixel_mean = images.mean(0)
    got = Normalization(jnp.asarray(pixel_mean, jnp.float32), jnp.float32(1))(jnp.asarray(images))
    np.testing.assert_allclose(got.mean(0), 0, atol=1e-4)


def test_two_ways_to_flip_are_one_too_many():
    with pytest.raises(InputError, match="flip, alternating_flip: choose one"):
        Augmentation(alternating_flip=True)


@pytest.mark.parametrize(
    "options", [{"padding_mode": "mirror"}, {"cutout": -1}, {"mixup": -0.5}, {"mixup": float("nan")}]
)
def test_bad_options_are_named(options):
    (name,) = options
    with pytest.raises(InputError, match=name):
        Augmentation(**options)
