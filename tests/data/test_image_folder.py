"""Folders of class folders: what is found, how it is split, and what is said of what is wrong."""

import numpy as np
import pytest
from PIL import Image

from resjax.data.images import folder as folder_module
from resjax.data.images import open_folder
from resjax.errors import InputError
from tests.data.photographs import write_folder


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
    assert found.class_names == ("airplane", "automobile") and not found.notes and not found.broken
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


def test_the_index_is_read_once_and_follows_changes(photos, monkeypatch):
    write_folder(photos, 3)
    listed, list_folder = [], folder_module._list
    monkeypatch.setattr(folder_module, "_list", lambda path: listed.append(path.name) or list_folder(path))
    assert len(open_folder(photos).train) == 6 and len(listed) == 2
    assert _names(open_folder(photos).train) == _names(open_folder(photos).train) and len(listed) == 2
    (photos / "train" / "airplane" / "000.jpg").unlink()
    assert len(open_folder(photos).train) == 5 and listed[2:] == ["train"]


def test_files_that_are_no_images_are_named_until_they_are_mended(photos):
    write_folder(photos, 3)
    empty, text = photos / "train" / "airplane" / "000.jpg", photos / "val" / "airplane" / "001.jpg"
    whole = empty.read_bytes()
    empty.write_bytes(b"")
    text.write_text("<html>not found</html>")
    for _ in range(2):  # listed, and from the cache
        found = open_folder(photos)
        assert dict(found.broken) == {str(empty): "empty", str(text): "neither JPEG, PNG nor WebP"}
        assert len(found.train) == 5 and len(found.test) == 5
    empty.write_bytes(whole)
    assert len(open_folder(photos).train) == 6


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: (path / "train" / "empty").mkdir(), "no image in empty"),
        (lambda path: (path / "train" / "airplane").rename(path / "train" / "plane"), "has classes that"),
        (lambda path: [file.unlink() for file in path.glob("val/*/*")], "hold no image"),
    ],
)
def test_what_cannot_be_trained_on_is_said(photos, harm, said):
    write_folder(photos, 2)
    harm(photos)
    with pytest.raises(InputError, match=said):
        open_folder(photos)


def test_a_missing_folder_and_one_without_classes_are_said(photos):
    with pytest.raises(InputError, match="does not exist"):
        open_folder(photos / "nowhere")
    with pytest.raises(InputError, match="no class folders"):
        open_folder(photos)
    (photos / "single").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(photos / "single" / "only.png")
    with pytest.raises(InputError, match="one image alone"):
        open_folder(photos)
