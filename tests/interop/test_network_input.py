"""Weights with their preprocessing: `resjax.preprocessing`."""

import os

import jax
import numpy as np
import pytest
from PIL import Image

import resjax
from resjax import InputError
from resjax.data import load_dataset
from resjax.interop import network_input
from resjax.interop.network_input import Preprocessing, preprocessing_of
from tests.conftest import ROOT
from tests.helpers.pretrained_networks import MODEL

ABOUT = {"mean": [120.0, 110.0, 100.0], "std": [60.0, 50.0, 40.0], "size": [24, 24], "crop": 0.75}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(network_input, "_said", set())


def natural(*shape):
    return np.clip(np.random.default_rng(0).normal(115, 60, shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", resjax.list_pretrained())
def test_every_shipped_network_says_what_its_input_is(name):
    about = resjax.pretrained_info(name)
    assert {"mean", "std", "size", "crop", "interpolation", "class_names"} <= about.keys()
    images = natural(2, 32, 32, 3)
    expected = (images.astype(np.float32) - np.float32(about["mean"])) / np.float32(about["std"])
    np.testing.assert_allclose(resjax.preprocessing(name)(images), expected, rtol=1e-6, atol=1e-5)


def test_resnet_20_classifies_with_its_preprocessing_and_not_by_the_usual_constants():
    """Of a per-pixel mean and no division: about the error of its card, 12 %, and near chance without."""
    images, labels = (array[::5] for array in load_dataset("cifar10_mini", "test"))
    model, variables = resjax.from_pretrained("resnet_20-cifar10")
    logits = jax.jit(lambda x: model.apply(variables, x))

    def error(inputs):
        return 100 * (np.asarray(logits(inputs)).argmax(-1) != labels).mean()

    usual = (images / np.float32(255) - np.float32([0.49, 0.48, 0.45])) / np.float32([0.25, 0.24, 0.26])
    assert error(resjax.preprocessing("resnet_20-cifar10")(images)) < 20
    assert error(usual) > 60


def test_it_resizes_as_pillow_cuts_the_centre_and_normalises():
    preprocess = preprocessing_of(ABOUT | {"interpolation": "bicubic"}, "x")
    image = natural(80, 100, 3)
    resized = Image.fromarray(image).resize((40, 32), Image.Resampling.BICUBIC)  # 24 / 0.75 = 32
    expected = (np.float32(resized)[4:28, 8:32] - np.float32(ABOUT["mean"])) / np.float32(ABOUT["std"])
    for got in (preprocess(image), jax.jit(preprocess)(image[None]), jax.jit(lambda p, x: p(x))(preprocess, image)):
        assert got.shape == (1, 24, 24, 3) and got.dtype == np.float32
        assert np.abs(np.asarray(got[0]) - expected).max() <= 1 / 40 + 1e-5  # a level of uint8


def test_files_and_images_of_different_sizes_are_one_batch(tmp_path):
    preprocess = preprocessing_of(ABOUT, "x")
    images = [natural(40, 60, 3), natural(70, 30, 3), natural(50, 50, 1)]
    for i, image in enumerate(images[:2]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    batch = preprocess([tmp_path / "0.png", str(tmp_path / "1.png"), images[2]])
    for got, image in zip(batch, images, strict=True):
        assert np.abs(np.asarray(got - preprocess(image)[0])).max() <= 1 / 40 + 1e-5
    assert preprocess(tmp_path / "0.png").shape == (1, 24, 24, 3)


def test_a_file_is_turned_upright():
    path = ROOT / "tests" / "real_files" / "images" / "hopper_orientation_6.jpg"
    preprocess = Preprocessing(np.zeros(3, np.float32), np.ones(3, np.float32))
    with Image.open(path) as image:
        assert preprocess(path).shape[1:3] == image.size  # as stored, width and height are the upright ones


def test_images_of_pillow_are_those_of_their_files():
    photo = ROOT / "tests" / "real_files" / "images" / "hopper_orientation_6.jpg"
    preprocess = preprocessing_of(ABOUT, "x")
    with Image.open(photo) as opened:
        np.testing.assert_allclose(preprocess(opened), preprocess(photo), atol=3 / 40)  # two decoders
    palette = Image.fromarray(natural(40, 60, 3)).convert("P")
    for one in (palette, [palette]):
        np.testing.assert_array_equal(preprocess(one), preprocess([np.asarray(palette.convert("RGB"))]))


def test_gray_and_colours_become_what_the_network_takes():
    colours = natural(1, 8, 8, 3)
    gray = Preprocessing(np.zeros(1, np.float32), np.ones(1, np.float32))(colours)
    np.testing.assert_array_equal(gray[0, ..., 0], np.float32(Image.fromarray(colours[0]).convert("L")))
    three = Preprocessing(np.zeros(3, np.float32), np.ones(3, np.float32))(colours[..., :1])
    np.testing.assert_array_equal(three, np.float32(colours[..., :1].repeat(3, -1)))


@pytest.mark.parametrize("change", [lambda x: x // 255, lambda x: 255 - x // 8, lambda x: 0 * x + 120])
def test_a_batch_far_from_the_training_images_is_said_once(change):
    preprocess = preprocessing_of(ABOUT, "some weights")
    preprocess(natural(4, 24, 24, 3))
    with pytest.warns(
        UserWarning, match="some weights: these images have mean .* it was trained on images of mean 120"
    ):
        preprocess(change(natural(4, 24, 24, 3)))
    preprocess(change(natural(4, 24, 24, 3)))


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # reading it would never end
    with pytest.raises(InputError, match="pipe.png: no regular file"):
        preprocessing_of(ABOUT, "x")(tmp_path / "pipe.png")


@pytest.mark.parametrize(
    "images, message",
    [
        (natural(2, 8, 8, 3).astype(np.float32), "expected pixels as uint8 0 .. 255, got float32"),
        (natural(2, 8, 8, 4), r"leaves an alpha channel out"),
        (natural(2, 3, 8, 9), r"images.transpose\(0, 2, 3, 1\) puts the channels last"),
        (natural(8, 8), r"expected uint8 \[N, H, W, C\] or \[H, W, C\], got shape \(8, 8\)"),
        ("no_such.jpg", "no_such.jpg: No such file or directory"),
        (str(ROOT / "README.md"), "README.md: damaged or no image"),
        ([], "at least one"),
        (3, "got int"),
    ],
)
def test_what_is_no_image_is_told(images, message):
    with pytest.raises(InputError, match=message):
        preprocessing_of(ABOUT, "x")(images)


@pytest.mark.parametrize(
    "change",
    [
        {"std": [1, 0, 1]},
        {"mean": [1, 2]},
        {"size": [0, 3]},
        {"crop": 1.5},
        {"interpolation": "nearest"},
        {"mean": "x"},
        {"mean": np.zeros((4, 4, 3)).tolist()},
    ],
)
def test_what_cannot_be_a_preprocessing_is_refused(change):
    with pytest.raises(InputError, match="^x: "):
        preprocessing_of(ABOUT | change, "x")


def test_weights_that_do_not_say_their_normalisation_are_refused(tmp_path, variables):
    resjax.save_pretrained(tmp_path / "saved", MODEL, variables)
    with pytest.raises(InputError, match="says nothing of the mean and std"):
        resjax.preprocessing(tmp_path / "saved")


def test_without_a_size_images_stay_at_their_own(tmp_path, variables):
    about = {key: ABOUT[key] for key in ("mean", "std")}
    resjax.save_pretrained(tmp_path / "saved", MODEL, variables, about)
    preprocess = resjax.preprocessing(tmp_path / "saved")
    assert preprocess(natural(2, 9, 11, 3)).shape == (2, 9, 11, 3)
    with pytest.raises(InputError, match="of different sizes"):
        preprocess([natural(9, 11, 3), natural(9, 9, 3)])


def test_images_and_constants_of_another_number_of_axes_or_channels_are_refused():
    preprocess = preprocessing_of(ABOUT, "net")
    with pytest.raises(InputError, match=r"images\[1\]: expected a path, or uint8 \[H, W, C\], got shape \(4, 4\)"):
        preprocess([natural(4, 4, 3), natural(4, 4)])
    two = preprocessing_of({"mean": [1.0, 2.0], "std": [9.0, 9.0]}, "net")
    with pytest.raises(InputError, match=r"images: expected 2 channels, got shape \(1, 4, 4, 3\)"):
        two(natural(1, 4, 4, 3))


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"mean": [10**400] * 3}, "are no numbers"),
        ({"size": [float("inf"), 3]}, "are no numbers"),
        ({"size": [10**6, 10**6]}, "do not fit each other"),
    ],
)
def test_sizes_and_numbers_beyond_all_bounds_are_refused(about, message):
    with pytest.raises(InputError, match=message):
        preprocessing_of(ABOUT | about, "net")
