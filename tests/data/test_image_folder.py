"""Folders of class folders: what is found, how it is split, and what is said of what is wrong."""

import io
import os
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from resjax.data.images import BrokenImage, evaluation_folder, listing, open_folder, open_images
from resjax.data.images.encoded import READ_FORMATS
from resjax.errors import InputError
from tests.helpers.photographs import write_folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def _names(source):
    return [source.name(index) for index in range(len(source))]


def test_own_splits_and_every_format_are_found(photos):
    write_folder(photos, 3)
    image = Image.new("RGB", (5, 4))
    image.save(photos / "train" / "airplane" / "a.PNG")
    image.save(photos / "train" / "automobile" / "b.webp")
    (photos / "train" / "automobile" / "notes.txt").write_text("no image")
    (photos / "train" / "automobile" / "below").mkdir()
    image.save(photos / "train" / "automobile" / "below" / "c.jpeg")
    found = open_folder(photos)
    assert found.class_names == ("airplane", "automobile") and not found.broken
    assert found.notes == (f"{photos}: passed over as no images: 1 .txt (read are {READ_FORMATS})",)
    assert len(found.train) == 9 and len(found.test) == 6
    labels = {name: found.train.read(index)[1] for index, name in enumerate(_names(found.train))}
    assert all(label == ("automobile" in name) for name, label in labels.items())
    assert any(name.endswith("below/c.jpeg") for name in labels)


def test_a_folder_without_splits_is_split_by_class_and_seed(photos):
    write_folder(photos, 10, splits=())
    found, again, other = (open_folder(photos, 0.2, seed) for seed in (0, 0, 1))
    assert len(found.train) == 16 and len(found.test) == 4 and "no split of its own" in found.notes[0]
    assert [found.test.read(index)[1] for index in range(4)] == [0, 0, 1, 1]
    assert not set(_names(found.train)) & set(_names(found.test))
    assert _names(again.test) == _names(found.test) != _names(other.test)


def test_a_class_called_train_is_a_class(photos):
    write_folder(photos, 4, splits=())
    (photos / "airplane").rename(photos / "train")
    assert open_folder(photos).class_names == ("automobile", "train")


@pytest.fixture
def looked(monkeypatch):
    """Names of the files whose first bytes are read."""
    names, look = [], listing._look
    monkeypatch.setattr(listing, "_look", lambda path: names.append(pathlib.Path(path).name) or look(path))
    return names


def test_first_bytes_are_read_once_and_every_change_is_seen(photos, looked):
    write_folder(photos, 3)
    whole = open_folder(photos)
    assert len(looked) == 12 and len(open_folder(photos).train) == 6 and len(looked) == 12
    # Written over in place, which changes no folder: another size is another file.
    path = photos / "train" / "airplane" / "000.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    again = open_folder(photos)
    assert looked[12:] == ["000.jpg"] and _names(again.train) == _names(whole.train)
    assert (
        again.identity() != whole.identity()
        and again.identity()["splits"]["test"] == whole.identity()["splits"]["test"]
    )
    path.unlink()
    assert len(open_folder(photos).train) == 5 and looked[13:] == []


def _without_a_file(data):
    """The index without the first of its files, whose sizes and digests are still there."""
    saved = dict(np.load(io.BytesIO(data)))
    buffer = io.BytesIO()
    np.savez(buffer, **saved | {"files": saved["files"][1:]})
    return buffer.getvalue()


@pytest.mark.parametrize("harm", [lambda data: b"", lambda data: data[:-30], lambda data: b"x" * 100, _without_a_file])
def test_a_damaged_index_is_made_again(photos, looked, harm):
    write_folder(photos, 2, splits=())
    before = open_folder(photos).identity()
    path = listing._cache_path(photos.resolve())
    path.write_bytes(harm(path.read_bytes()))
    assert open_folder(photos).identity() == before and len(looked) == 8
    assert open_folder(photos).identity() == before and len(looked) == 8


def test_an_identity_is_of_the_files_and_not_of_where_they_lie(photos, tmp_path):
    write_folder(photos, 3)
    before = open_folder(photos).identity()
    assert (
        before["splits"]["train"]["per_class"] == {"airplane": 3, "automobile": 3}
        and before["splits"]["test"]["split"] == "val"
    )
    moved = photos.rename(tmp_path / "moved")
    assert open_folder(moved).identity() == before
    (moved / "train" / "airplane").rename(moved / "train" / "x")
    (moved / "train" / "automobile").rename(moved / "train" / "airplane")
    (moved / "train" / "x").rename(moved / "train" / "automobile")
    assert open_folder(moved).identity()["splits"]["train"]["fingerprint"] != before["splits"]["train"]["fingerprint"]


def test_files_that_are_no_images_are_named_until_they_are_mended(photos):
    write_folder(photos, 3)
    empty, text = photos / "train" / "airplane" / "000.jpg", photos / "val" / "airplane" / "001.jpg"
    whole = empty.read_bytes()
    empty.write_bytes(b"")
    text.write_text("<html>not found</html>")
    for _ in range(2):  # listed, and from the cache
        found = open_folder(photos)
        assert dict(found.broken) == {str(empty): "empty", str(text): "a web page or XML, no image"}
        assert len(found.train) == 5 and len(found.test) == 5
    empty.write_bytes(whole)
    assert len(open_folder(photos).train) == 6


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: (path / "train" / "empty").mkdir(), "no image in empty"),
        (lambda path: (path / "train" / "airplane").rename(path / "train" / "plane"), "has classes that"),
        (lambda path: [file.unlink() for file in path.glob("val/*/*")], "no image in"),
    ],
)
def test_what_cannot_be_trained_on_is_said(photos, harm, said):
    write_folder(photos, 2)
    harm(photos)
    with pytest.raises(InputError, match=said):
        open_folder(photos)


def test_a_folder_that_the_system_refuses_to_list_is_said(photos, monkeypatch):
    write_folder(photos, 2)
    scandir = os.scandir

    def refuse(folder):
        if os.fspath(folder).endswith("airplane"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    for open_it in (open_folder, evaluation_folder):
        with pytest.raises(InputError, match=f"^{photos}: cannot be read .*airplane.*; check its permissions"):
            open_it(photos)


def test_an_image_that_has_gone_is_broken_and_a_held_out_part_is_one(photos):
    write_folder(photos, 2, splits=())
    source = open_folder(photos).train
    pathlib.Path(source.name(0)).unlink()
    with pytest.raises(BrokenImage, match="^No such file or directory$"):
        source.read(0)
    for share in (0, 1, -0.5):
        with pytest.raises(InputError, match=rf"validation_fraction: expected a number in \(0, 1\), got {share}"):
            open_folder(photos, validation_fraction=share)


def test_without_its_decoders_a_stream_says_what_to_install(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"streams of images need cv2: pip install 'resjax\[imagenet\]'"):
        open_images("folder", photos)


def test_a_missing_folder_and_one_without_classes_are_said(photos):
    with pytest.raises(InputError, match="does not exist"):
        open_folder(photos / "nowhere")
    with pytest.raises(InputError, match="no class folders"):
        open_folder(photos)
    for name in ("pair", "single"):
        (photos / name).mkdir()
        for number in range(1 + (name == "pair")):
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(photos / name / f"{number}.png")
    with pytest.raises(InputError, match="one image alone"):
        open_folder(photos)


def test_test_images_that_are_training_images_are_said_whatever_their_names(photos):
    write_folder(photos, 4)
    assert not any("training images, too" in note for note in open_folder(photos).notes)
    train, val = (photos / split / "airplane" for split in ("train", "val"))
    copy = photos / "val" / "automobile" / "another name.jpg"
    copy.write_bytes((train / "000.jpg").read_bytes())
    # As long, with the same first bytes, and another image all the same.
    longer = bytearray((train / "001.jpg").read_bytes() + bytes(listing.HEAD_BYTES))
    (train / "001.jpg").write_bytes(longer)
    longer[-1] = 1
    (val / "001.jpg").write_bytes(longer)
    for _ in range(2):  # from the files, and from what is remembered of them
        (note,) = (note for note in open_folder(photos).notes if "training images, too" in note)
        assert note.startswith(f"1 of 9 test images are training images, too, for example {copy}")


def test_held_out_images_that_are_there_twice_are_said(photos):
    write_folder(photos, 4, splits=())
    for file in sorted((photos / "airplane").iterdir()):
        (photos / "airplane" / f"copy of {file.name}").write_bytes(file.read_bytes())
    (note,) = (note for note in open_folder(photos, 0.2).notes if "training images, too" in note)
    assert note.startswith("2 of 3 test images") or note.startswith("1 of 3 test images")
