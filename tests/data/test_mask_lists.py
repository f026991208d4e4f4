"""The lists and names of a folder like PASCAL VOC's, as several projects and systems write them: read, or said."""

import pathlib

import numpy as np
import pytest

from resjax import InputError
from resjax.data import load_masks, mask_dataset_info
from tests.helpers.voc_folder import SIZES, encoded, random_image, write_voc

# Each image has a suffix and a label of its own.
SUFFIXES = {"im0": (".png", "PNG"), "im1": (".JPG", "JPEG"), "im2": (".jpeg", "JPEG"), "my photo": (".bmp", "BMP")}
LABELS = {name: label for label, name in enumerate(SUFFIXES)}


def _write(root, train: str | bytes, **others):
    images, masks = {}, {}
    for (name, (suffix, kind)), size in zip(SUFFIXES.items(), (*SIZES, (5, 5)), strict=True):
        images[name + suffix] = encoded(random_image(*size), kind)
        masks[f"{name}.png"] = encoded(np.full(size, LABELS[name], np.uint8))
    return write_voc(root, images, masks, {"train": train}, **others)


def _labels(root) -> list[int]:
    data = load_masks("voc", "train", root)
    return [int(mask[0, 0]) for mask in data.masks]


@pytest.mark.parametrize(
    "text",
    [
        b"im2\nim0\n",
        b"im2\r\nim0\r\n",
        b"\xef\xbb\xbfim2\n\n\n  im0\t \n \n",
        "im2\r\nim0\r\n".encode("utf-16"),
        b"im2.jpeg\nim0.png",
        b"im2.jpg\nim0.jpg",  # as the images of the original are called
        b"/JPEGImages/im2.jpeg /SegmentationClass/im2.png\n/JPEGImages/im0.png /SegmentationClass/im0.png\n",
        b"JPEGImages/im2.jpeg\tSegmentationClass/im2.png\nJPEGImages/im0.png\tSegmentationClass/im0.png\n",
        b"JPEGImages\\im2.jpeg SegmentationClass\\im2.png\r\nim0.png,im0.png\r\n",
        b"JPEGImages/im2\nJPEGImages/im0\n",
        b"im2 im2\nim0 im0\n",
        b"im2  1\nim0  1\n",
    ],
)
def test_a_list_is_read_however_it_is_written(tmp_path, text):
    assert _labels(_write(tmp_path, text)) == [LABELS["im2"], LABELS["im0"]]


def test_suffixes_in_capitals_names_with_spaces_and_paths_from_the_root_are_found(tmp_path):
    root = _write(tmp_path, f"im1\nmy photo\n{tmp_path}/JPEGImages/im0.png {tmp_path}/SegmentationClass/im0.png\n")
    assert _labels(root) == [LABELS["im1"], LABELS["my photo"], LABELS["im0"]]


def test_the_second_column_is_the_mask(tmp_path):
    root = _write(tmp_path, "/JPEGImages/im0.png /SegmentationClassAug/im0.png\n")
    (root / "SegmentationClassAug").mkdir()
    (root / "SegmentationClassAug" / "im0.png").write_bytes(encoded(np.full(SIZES[0], 17, np.uint8)))
    assert _labels(root) == [17]


def test_images_in_folders_of_their_own_have_their_masks_likewise(tmp_path):
    images = {f"{part}/x.png": encoded(random_image(4, 4)) for part in "ab"}
    masks = {f"{part}/x.png": encoded(np.full((4, 4), 3 + i, np.uint8)) for i, part in enumerate("ab")}
    assert _labels(write_voc(tmp_path, images, masks, {"train": "b/x\na/x\n"})) == [4, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("im0 -1", r"line 2: 'im0 -1' is of a list that says which images show one class"),
        ("im0 im0 im0", "line 2: expected a name, or an image and its mask, got 3 columns"),
        ("im7", r"line 2: the image is missing: no im7 in .*JPEGImages \(.jpg"),
        ("im0.png im7.png", r"line 2: the mask is missing: no im7.png in .*SegmentationClass \(.png"),
        ("../../etc/passwd", "line 2: '../../etc/passwd' leads out of .*a split lists files inside"),
        ("im0 ../SegmentationClass/../../x.png", "line 2: 'im0 ../SegmentationClass.*' leads out of"),
        ("/elsewhere/im0.png /elsewhere/im0m.png", "line 2: the image is missing: no /elsewhere/im0.png"),
        ("..\\im0", r"line 2: '..\\\\im0' leads out of"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_with_its_list_and_number(tmp_path, line, message):
    with pytest.raises(InputError, match=message) as raised:
        load_masks("voc", "train", _write(tmp_path, f"im2\n{line}\n"))
    assert "ImageSets/Segmentation/train.txt, line 2" in str(raised.value)


def test_a_file_outside_is_not_read_whatever_its_path(tmp_path):
    outside = tmp_path / "other" / "im0.png"
    outside.parent.mkdir()
    outside.write_bytes(encoded(random_image(*SIZES[0])))
    root = _write(tmp_path / "data", f"{outside} SegmentationClass/im0.png\n")
    with pytest.raises(InputError, match="line 1: the image is missing"):
        load_masks("voc", "train", root)
    (root / "JPEGImages" / "link.png").symlink_to(outside)
    (root / "ImageSets/Segmentation/train.txt").write_text("link.png im0.png\n")
    with pytest.raises(InputError, match="line 1: .*link.png is a link that leads out of"):
        load_masks("voc", "train", root)
    # A folder of images on another disk is usual.
    (root / "JPEGImages").rename(tmp_path / "elsewhere")
    (root / "JPEGImages").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("im0\n")
    assert _labels(root) == [LABELS["im0"]]


def test_two_files_of_a_name_are_not_chosen_from(tmp_path):
    root = _write(tmp_path, "im0\n")
    (root / "JPEGImages" / "im0.jpg").write_bytes(encoded(random_image(*SIZES[0]), "JPEG"))
    with pytest.raises(InputError, match="line 1: 'im0' may be im0.jpg or im0.png"):
        load_masks("voc", "train", root)
    (root / "ImageSets/Segmentation/train.txt").write_text("im0.png\n")
    assert _labels(root) == [LABELS["im0"]]


def test_a_mask_of_another_format_is_said(tmp_path):
    root = _write(tmp_path, "im0\n")
    (root / "SegmentationClass" / "im0.png").rename(root / "SegmentationClass" / "im0.gif")
    with pytest.raises(InputError, match="the mask is missing.*; there is im0.gif: save it as PNG"):
        load_masks("voc", "train", root)


def test_an_image_that_is_listed_twice_counts_twice_and_is_said(tmp_path, caplog):
    assert _labels(_write(tmp_path, "im0\nim2\nim0.png\n")) == [LABELS["im0"], LABELS["im2"], LABELS["im0"]]
    (record,) = caplog.records
    assert "lists 1 images again, for example im0.png in line 3" in record.getMessage()


def test_a_list_or_names_that_are_no_text_are_said(tmp_path):
    root = _write(tmp_path, b"im0\n\xff\xff\xe4")
    with pytest.raises(InputError, match="train.txt: cannot be read as text.*save it as UTF-8"):
        load_masks("voc", "train", root)


def test_names_of_classes_are_read_without_a_mark_and_blank_lines_behind(tmp_path):
    (tmp_path / "classes.txt").write_bytes("﻿sky\r\ndéjà vu \r\n\r\n\r\n".encode())
    info = mask_dataset_info("voc", tmp_path)
    assert info.class_names == ("sky", "déjà vu") and info.classes_from == str(tmp_path / "classes.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sky\n\nground\n", "classes.txt: line 2 is blank; the class of value 1 needs a name"),
        ("sky\nground\nsky\n", "classes.txt: line 3 names 'sky', as line 1 does"),
        ("\n\n", "classes.txt: expected 1 to 255 names of classes, one a line, found 0"),
        ("\n".join(map(str, range(256))), "found 256"),
    ],
)
def test_names_that_do_not_fit_values_are_said(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        mask_dataset_info("voc", pathlib.Path(tmp_path))


def test_a_value_without_a_name_is_said_with_the_file_of_names(tmp_path):
    root = _write(tmp_path, "im0\nim2\n", classes="sky\nground\n")
    with pytest.raises(InputError, match=r"im2.png: label 2 at row 0, column 0; expected 0 to 1, 255; .*classes.txt"):
        load_masks("voc", "train", root)
