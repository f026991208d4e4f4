"""What a run trains on, chooses by and is judged on."""

import dataclasses

import numpy as np
import pytest

from experiments.configs.cifar import CONFIGS
from experiments.inputs import splits as image_splits
from experiments.inputs.images import normalization
from experiments.inputs.splits import load_splits, severities, training_size
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
    np.testing.assert_allclose(normalization(config, images)(images), images / 256)
    assert load_splits(dataclasses.replace(config, dataset="cifar10")).train.images.shape == (3, 32, 32, 3)
    other = dataclasses.replace(CONFIG, dataset="mnist", normalization="per_pixel_mean_std")
    images = load_splits(other).test.images
    np.testing.assert_array_equal(images, np.repeat(images[..., :1], 3, -1))
    expected = (images - images.mean(0, dtype=np.float64)) / images.std(dtype=np.float64)
    np.testing.assert_allclose(normalization(other, images)(images), expected, atol=1e-5)


def test_arrays_that_are_too_few_to_hold_some_out_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", images=rng.integers(0, 256, (8, 8, 8, 3), np.uint8), labels=np.arange(8) % 2)
    with pytest.raises(InputError, match="own.npz: .*too few, and none to test on; expected at least"):
        load_splits(dataclasses.replace(CONFIG, dataset="arrays", data_dir=str(tmp_path / "own.npz")))


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


def _arrays(folder, **arrays):
    np.savez(folder / "own.npz", **arrays)
    return dataclasses.replace(CONFIG, dataset="arrays", data_dir=str(folder / "own.npz"))


@pytest.mark.parametrize("names", [("images", "labels"), ("x_train", "y_train")])
def test_arrays_without_test_images_give_a_tenth_of_each_class_and_say_so(tmp_path, caplog, names):
    """No image is trained on and tested on, and none is lost."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (205, 6, 5, 3), np.uint8), np.repeat([0, 1, 2], [100, 65, 40])
    config = _arrays(tmp_path, **dict(zip(names, (images, labels), strict=True)))
    train, validation, test = load_splits(config)
    assert validation is None and training_size(config) == len(train.labels) == 185
    np.testing.assert_array_equal(np.bincount(test.labels), [10, 6, 4])
    both = {image.tobytes(): label for data in (train, test) for image, label in zip(*data, strict=True)}
    assert both == {image.tobytes(): label for image, label in zip(images, labels, strict=True)} and len(both) == 205
    np.testing.assert_array_equal(load_splits(dataclasses.replace(config, seed=3)).test.images, test.images)
    assert "no test images; every tenth image, class by class, is kept to test on: 20 of 205" in caplog.text


def test_arrays_with_validation_images_alone_are_tested_on_them_and_it_is_said(tmp_path, caplog):
    gray = np.random.default_rng(0).integers(0, 256, (30, 6, 5), np.uint8)
    config = _arrays(tmp_path, x_train=gray[:20], y_train=np.arange(20) % 2, x_val=gray[20:], y_val=np.arange(10) % 2)
    np.testing.assert_array_equal(load_splits(config).test.images, np.repeat(gray[20:, ..., None], 3, -1))
    assert "the error is that on its validation images" in caplog.text


def test_test_images_of_arrays_that_are_training_images_are_said(tmp_path, caplog):
    images, labels = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), np.uint8), np.arange(30) % 2
    load_splits(_arrays(tmp_path, x_train=images[:20], y_train=labels[:20], x_test=images[20:], y_test=labels[20:]))
    assert "training images, too" not in caplog.text
    load_splits(_arrays(tmp_path, x_train=images[:20], y_train=labels[:20], x_test=images[17:], y_test=labels[17:]))
    assert "own.npz: 3 of 13 test images are training images, too" in caplog.text


def test_severities_are_told_by_their_labels():
    labels = np.array([0, 2, 1, 1])
    images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    parts = severities(Dataset(images, np.tile(labels, 5)))
    assert [part.images.ravel().tolist() for part in parts] == np.arange(20).reshape(5, 4).tolist()
    other = Dataset(images, np.tile(labels, 5)[::-1] * np.arange(20))
    assert severities(other) == [other]


def test_the_numbers_of_cifar_10_are_not_for_images_of_other_channels():
    config = dataclasses.replace(CONFIG, normalization="cifar10_mean_std")
    with pytest.raises(InputError, match="cifar10_mean_std: its numbers are of 3 channels, these images have 4"):
        normalization(config, np.zeros((2, 4, 4, 4), np.uint8))
