"""What a run trains on, chooses by and is judged on."""

import dataclasses

import numpy as np
import pytest

from experiments import cifar, image_splits
from experiments.configs.cifar import CONFIGS
from experiments.image_splits import load_splits, training_size
from resjax import InputError
from resjax.data import Dataset

CONFIG = CONFIGS["quickstart"].config


def test_validation_images_are_taken_from_the_training_images_alone():
    whole = load_splits(CONFIG)
    parts = load_splits(dataclasses.replace(CONFIG, validation_images=500))
    assert whole.validation is None
    assert (len(parts.train.labels), len(parts.validation.labels)) == (4500, 500)
    np.testing.assert_array_equal(parts.test.images, whole.test.images)
    both = np.concatenate([parts.train.images, parts.validation.images]).reshape(5000, -1)
    order = np.lexsort(both.T), np.lexsort(whole.train.images.reshape(5000, -1).T)
    np.testing.assert_array_equal(both[order[0]], whole.train.images.reshape(5000, -1)[order[1]])
    labels = np.concatenate([parts.train.labels, parts.validation.labels])
    np.testing.assert_array_equal(labels[order[0]], whole.train.labels[order[1]])
    # All classes are among them, and every seed has the same.
    assert len(np.unique(parts.validation.labels)) == 10
    again = load_splits(dataclasses.replace(CONFIG, validation_images=500, seed=1))
    np.testing.assert_array_equal(again.validation.images, parts.validation.images)


def test_grayscale_images_have_the_channels_that_the_network_takes(monkeypatch):
    """One for the network of MNIST's paper, three for all others; and pixels over 256 are what the former takes."""
    shapes = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
    rng = np.random.default_rng(0)

    def load(name, split, data_dir):
        return Dataset(rng.integers(0, 256, (3, *shapes[name]), np.uint8), np.zeros(3, np.int32))

    monkeypatch.setattr(image_splits, "load_dataset", load)
    config = CONFIGS["highway_10_32"].config
    images = load_splits(config).train.images
    assert images.shape == (3, 28, 28, 1)
    np.testing.assert_allclose(cifar.normalization(config, images)(images), images / 256)
    assert load_splits(dataclasses.replace(config, dataset="cifar10")).train.images.shape == (3, 32, 32, 3)
    other = dataclasses.replace(CONFIG, dataset="mnist", normalization="per_pixel_mean_std")
    images = load_splits(other).test.images
    np.testing.assert_array_equal(images, np.repeat(images[..., :1], 3, -1))
    expected = (images - images.mean(0, dtype=np.float64)) / images.std(dtype=np.float64)
    np.testing.assert_allclose(cifar.normalization(other, images)(images), expected, atol=1e-5)


def test_extra_images_follow_those_of_the_train_split(monkeypatch):
    def load(name, split, data_dir):
        value = {"train": 1, "extra": 2, "test": 3}[split]
        return Dataset(np.full((value, 4, 4, 3), value, np.uint8), np.full(value, value, np.int32))

    monkeypatch.setattr(image_splits, "load_dataset", load)
    config = CONFIGS["wrn_16_4_svhn"].config
    splits = load_splits(config)
    np.testing.assert_array_equal(splits.train.labels, [1, 2, 2])
    np.testing.assert_array_equal(splits.train.images[:, 0, 0, 0], [1, 2, 2])
    assert training_size(config) == 73_257 + 531_131
    assert training_size(CONFIGS["resnet_152_svhn_stochastic_depth"].config) == 598_388  # as the paper says


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_images": 5000}, "--validation_images: expected a number from 0 to 4,999"),
        ({"validation_images": -1}, "--validation_images: expected"),
        ({"extra": True}, "extra"),
    ],
)
def test_impossible_divisions_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        training_size(dataclasses.replace(CONFIG, **changes))
