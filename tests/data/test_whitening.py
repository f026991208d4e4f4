"""Contrast normalisation and whitening beside NumPy, in float64."""

import numpy as np
import pytest

from resjax import InputError
from resjax.data.normalization import ContrastNormalization, Whitening, patch_whitening


@pytest.fixture(scope="module")
def images():
    """Smooth images, whose pixels are correlated as those of photographs are."""
    noise = np.random.default_rng(0).normal(size=(300, 6, 6, 3))
    for axis in (1, 2):
        noise = noise.cumsum(axis)
    return np.clip(128 + 20 * noise, 0, 255).astype(np.uint8)


def _gcn(images):
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat = flat - flat.mean(1)[:, None]
    return 55 * flat / np.linalg.norm(flat, axis=1)[:, None]


def test_contrast_is_normalised_image_by_image(images):
    found = np.asarray(ContrastNormalization()(images)).reshape(len(images), -1)
    np.testing.assert_allclose(found, _gcn(images), atol=1e-4)
    np.testing.assert_allclose(found.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 55, rtol=1e-5)
    assert not np.asarray(ContrastNormalization()(np.full((1, 6, 6, 3), 9, np.uint8))).any()


def test_normalised_images_are_centred_at_the_mean_of_those_that_are_trained_on(images):
    fitted = ContrastNormalization.fit(images[:200], chunk=64)
    mean = _gcn(images[:200]).mean(0)
    np.testing.assert_allclose(np.asarray(fitted(images)).reshape(300, -1), _gcn(images) - mean, atol=1e-4)


def test_whitening_is_that_of_numpy(images):
    flat = _gcn(images)
    centred = flat - flat.mean(0)
    u, s, _ = np.linalg.svd(centred.T @ centred / len(images) + 0.1 * np.eye(108))
    expected = centred @ (u @ np.diag(s**-0.5) @ u.T)
    whitening = Whitening.fit(images, chunk=64)
    np.testing.assert_allclose(np.asarray(whitening(images)).reshape(300, -1), expected, atol=2e-4)


def test_whitened_images_are_uncorrelated_and_look_like_themselves(images):
    whitening = Whitening.fit(images, bias=1e-6)
    white = np.asarray(whitening(images)).reshape(300, -1)
    # Contrast normalisation takes one direction away, the mean of an image.
    spectrum = np.linalg.eigvalsh(white.T @ white / 300)
    np.testing.assert_allclose(spectrum[1:], 1, atol=0.02)
    # ZCA, not PCA: of all whitenings that nearest to the identity.
    np.testing.assert_allclose(whitening.matrix, np.asarray(whitening.matrix).T, atol=1e-4)


def test_other_images_do_not_change_the_statistics(images):
    fitted = Whitening.fit(images[:200])
    np.testing.assert_allclose(fitted(images[200:])[:3], fitted(images[200:203]), atol=1e-5)
    np.testing.assert_allclose(fitted.mean, _gcn(images[:200]).mean(0), atol=1e-5)
    with pytest.raises(InputError, match="at least two"):
        Whitening.fit(images[:1])


def test_whitened_patches_have_unit_second_moments_and_come_with_their_negatives(images):
    floats = images / 64 - 2
    kernel = patch_whitening(floats, bias=0.0)
    assert kernel.shape == (2, 2, 3, 24) and kernel.dtype == np.float32
    corners = [floats[:, i : i + 5, j : j + 5] for i in (0, 1) for j in (0, 1)]
    patches = np.stack(corners, 3).reshape(-1, 12)  # in the order of the kernel: row, column, channel
    white = patches @ kernel.reshape(12, 24).astype(np.float64)
    np.testing.assert_allclose(white[:, :12].T @ white[:, :12] / len(white), np.eye(12), atol=1e-3)
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])


def test_directions_without_variation_are_not_blown_up(images):
    grey = np.repeat(images[..., :1], 3, -1) / 64.0
    assert np.abs(patch_whitening(grey)).max() <= 5e-4**-0.5
