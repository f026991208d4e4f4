"""What a segmentation run is told about its labels before it trains, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from experiments.configs.segmentation import CONFIGS
from experiments.inputs.masks import check_labels, check_options, check_pixels, load_splits, normalize
from resjax import InputError
from resjax.data import MaskDataset
from resjax.data.augment.masks import IGNORED
from tests.helpers.voc_folder import encoded, random_image, write_voc

CLASSES = 3
CONFIG = dataclasses.replace(CONFIGS["quickstart"].config, dataset="voc")
GOOD = np.arange(64).reshape(8, 8) % CLASSES


@pytest.fixture
def notes(tmp_path):
    """notes(train masks, test masks, **fields of the config) -> what is said."""

    def check(train, test, classes="sky\nground\nsea\n", seeds=(0, 100), **fields):
        images, masks, lists = {}, {}, {}
        for (split, arrays), seed in zip({"train": train, "val": test}.items(), seeds, strict=True):
            for i, mask in enumerate(arrays):
                images[f"{split}{i}.png"] = encoded(random_image(*np.shape(mask), seed=seed + i))
                masks[f"{split}{i}.png"] = encoded(np.asarray(mask, np.uint8))
            lists[split] = "".join(f"{split}{i}\n" for i in range(len(arrays)))
        root = write_voc(tmp_path, images, masks, lists, classes)
        config = dataclasses.replace(CONFIG, data_dir=str(root), **fields)
        return check_labels(config, *load_splits(config))

    return check


def test_of_good_masks_nothing_is_said(notes):
    assert notes([GOOD] * 3, [GOOD]) == []


def test_black_and_white_masks_are_refused_with_their_advice_which_works(notes):
    black_and_white = [np.where(GOOD == 1, 255, 0)] * 4
    with pytest.raises(InputError) as raised:
        notes(black_and_white, black_and_white, "no\nyes\n")
    assert "training split 'train': the only class with a pixel is 'no', of 2; expected two" in str(raised.value)
    assert "4 of 4 masks are black and white" in str(raised.value) and "--mask_values 0 255" in str(raised.value)
    assert notes(black_and_white, black_and_white[:1], "no\nyes\n", mask_values=(0, 255)) == []


def test_some_black_and_white_masks_among_others_are_said(notes):
    (note,) = notes([GOOD, GOOD, np.where(GOOD == 1, 255, 0)], [GOOD])
    assert note.startswith("training split 'train': 1 of 3 masks are black and white") and "--mask_values 0 255" in note


def test_classes_without_a_pixel_are_said_in_training_and_in_test(notes):
    training, test = notes([GOOD % 2] * 2, [np.where(GOOD == 1, 0, GOOD)])
    assert training == "training split 'train': no pixel of 1 of 3 classes (sea): they cannot be learned"
    assert test == "test split 'val': no pixel of 1 of 3 classes (ground): the mean IoU does not judge them"
    many = notes([GOOD], [GOOD], "\n".join("abcdefghijk"))[0]
    assert "no pixel of 8 of 11 classes (d, e, f, g, h, i, and 2 more)" in many and "classes.txt" not in many


def test_classes_that_may_not_be_a_persons_own_are_said(notes):
    training, _ = notes([GOOD], [GOOD], classes=None)
    assert "no pixel of 18 of 21 classes (bird, boat, " in training and "name yours in a file classes.txt" in training


def test_a_test_split_of_one_class_or_of_none_cannot_be_judged(notes):
    with pytest.raises(InputError, match="test split 'val': the only class with a pixel is 'ground', of 3"):
        notes([GOOD], [np.ones((8, 8))])
    with pytest.raises(InputError, match="test split 'val': no class has a pixel.*check the masks"):
        notes([GOOD], [np.full((8, 8), IGNORED)])


def test_many_ignored_pixels_are_said_without_those_of_the_canvas(notes):
    half = GOOD.copy()
    half[:4] = IGNORED
    (note,) = notes([half, np.zeros((2, 16))], [GOOD])
    assert note == "training split 'train': 33 % of the pixels are ignored (label 255)"


def test_training_images_among_the_test_images_are_said(notes):
    (note,) = notes([GOOD] * 3, [GOOD, GOOD], seeds=(0, 2))
    assert note == "1 of 2 test images are training images, too"


@pytest.mark.parametrize(
    ("fields", "train", "test", "side", "message"),
    [
        # One crop of 64 x 64 is 4,096 pixels: the smallest number of images that is too many, and one less.
        ({}, 2**19, 1, 64, "training: 2,147,483,648 pixels an epoch"),
        ({}, 2**19 - 1, 1, 64, None),
        # Coarse logits of 64 / 2 = 32 rows, and of a crop of 63 as many.
        ({"coarse_loss": True}, 2**21, 1, 64, "training: 2,147,483,648 pixels an epoch.*--augmentation.crop"),
        ({"coarse_loss": True, "crop": 63}, 2**21, 1, 64, "training: 2,147,483,648"),
        ({"coarse_loss": True}, 2**21 - 1, 1, 64, None),
        # Without a crop, the canvas.
        ({"crop": 0}, 2**21, 1, 32, "training: 2,147,483,648"),
        ({"crop": 0}, 2**21 - 1, 1, 32, None),
        ({"crop": 0, "coarse_loss": True}, 2**23, 1, 32, "training: 2,147,483,648"),
        ({}, 1, 2**19, 64, "test: 2,147,483,648 pixels.*--longer_side"),
        ({}, 1, 2**19 - 1, 64, None),
    ],
)
def test_more_pixels_than_the_confusion_matrix_can_count_are_refused(fields, train, test, side, message):
    def data(count):  # of no memory
        masks = np.broadcast_to(np.uint8(0), (count, side, side))
        return MaskDataset(masks, masks, masks)

    fields = dict(fields)
    augmentation = dataclasses.replace(CONFIG.augmentation, crop=fields.pop("crop", 64))
    config = dataclasses.replace(CONFIG, augmentation=augmentation, **fields)
    if message is None:
        check_pixels(config, data(train), data(test))
        return
    with pytest.raises(InputError, match=message):
        check_pixels(config, data(train), data(test))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ohem_threshold": 1.0}, r"--ohem_threshold: expected a number in \[0, 1\), got 1.0"),
        *(({field: -1}, f"--{field}: expected a number >= 0, got -1") for field in ("longer_side", "ohem_min_pixels")),
        *(({field: -1}, f"--{field}: expected a number >= 0, got -1") for field in ("head_factor", "eval_window")),
        ({"head_factor": float("nan")}, "--head_factor: expected a number >= 0, got nan"),
        ({"eval_scales": ()}, "--eval_scales: expected positive numbers"),
        ({"eval_scales": (1.0, 0.0)}, "--eval_scales: expected positive numbers"),
    ],
)
def test_a_number_that_no_run_can_have_is_named_with_its_flag(fields, message):
    check_options(CONFIG)
    with pytest.raises(InputError, match=f"^{message}"):
        check_options(dataclasses.replace(CONFIG, **fields))


def test_outside_of_an_image_is_the_mean_colour():
    images = np.full((2, 4, 5, 3), 200, np.uint8)
    normal = np.asarray(normalize(images, np.array([[2, 5], [4, 3]])))
    expected = (200 - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    np.testing.assert_allclose(normal[0, :2], np.broadcast_to(expected, (2, 5, 3)), rtol=1e-5)
    assert not normal[0, 2:].any() and not normal[1, :, 3:].any() and normal[1, :, :3].all()
