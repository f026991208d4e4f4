"""Files that are sound in form and say what cannot be: each is refused in one line that names it."""

import gzip
import json
import os
import pathlib
import pickle
import shutil
import struct

import numpy as np
import pytest
import scipy.io

from resjax.data import load_dataset, load_masks
from resjax.data.arrays import embedded
from resjax.data.formats import tfds_directory
from resjax.data.formats.digit_files import read_idx, read_mat
from resjax.data.formats.mat_files import read_mat_file
from resjax.data.formats.restricted_pickle import load_batch
from resjax.data.formats.text_files import read_text
from resjax.data.images import BrokenImage, open_folder, open_images
from resjax.data.masks import loading as masks
from resjax.errors import InputError
from tests.fuzz import files
from tests.helpers.voc_folder import encoded, write_voc

_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0C\1btR"
TOO_LONG = "x" * 300


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"cnumpy\ndtype\n(X\2\0\0\0u1tR(K\3K\1K\2K\3K\4tb.", "refused: .* an array of fields"),
        (_ARRAY + b"(K\1NNNNtb.", "damaged pickle .an array of no shape"),
        (_ARRAY + b"(K\1)NNNtb.", "refused: .* an array that is not of bytes"),
        (b"}Na.", "damaged pickle .APPEND to a dict"),
        (b"}s.", "damaged pickle .its stack is empty"),
        (pickle.dumps({"data": [1]}, 2)[:-1], "damaged pickle"),
    ],
)
def test_instructions_that_no_batch_has_are_refused(program, message):
    with pytest.raises(InputError, match=f"batch: {message}"):
        load_batch(program, "batch")


def _element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def _matrix(kind, shape, *content):
    """The content of a matrix of a MATLAB file; `kind` 2 is a structure, 9 numbers of one byte."""
    head = _element(6, struct.pack("<II", kind, 0)) + _element(5, struct.pack(f"<{len(shape)}i", *shape))
    return head + _element(1, b"x") + b"".join(content)


def _nested(levels):
    inner = _matrix(9, (1, 1), _element(2, b"a"))
    for _ in range(levels):
        fields = _element(5, struct.pack("<i", 8)), _element(1, b"field\0\0\0")
        inner = _matrix(2, (1, 1), *fields, _element(14, inner))
    return inner


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (_nested(10), "structures within structures without end"),
        (_matrix(9, (-1, 3)), r"an array of shape \[-1, 3\]"),
        (_matrix(9, (2, 2), _element(2, b"abc")), r"3 numbers in an array of shape \[2, 2\]"),
        (_matrix(9, (2, 2), _element(99, b"abcd")), "numbers of the unknown type 99"),
        (_matrix(2, (1, 1), _element(5, bytes(4)), _element(1, b"a")), "structures without fields"),
    ],
)
def test_a_matlab_file_that_cannot_be_is_refused(tmp_path, matrix, message):
    path = tmp_path / "a.mat"
    path.write_bytes(bytes(124) + b"\0\1IM" + _element(14, matrix))
    with pytest.raises(ValueError, match=message):
        read_mat_file(path, 1 << 20)
    with pytest.raises(InputError, match=f"a.mat: not a readable SVHN file .*{message}"):
        read_mat(path)


def test_a_matlab_file_of_texts_is_not_svhn(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"X": "a text", "y": "another"})
    with pytest.raises(InputError, match="a.mat: expected arrays X and y; get the official file again"):
        read_mat(tmp_path / "a.mat")


def _idx(path, array, behind=b""):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()) + behind)


def test_digits_of_more_or_longer_files_than_published_are_refused(tmp_path):
    images, labels = tmp_path / "images.gz", tmp_path / "labels.gz"
    _idx(images, np.zeros((3, 4, 5), np.uint8))
    _idx(labels, np.zeros(3, np.uint8))
    assert read_idx(images, labels, 60).images.shape == (3, 4, 5, 1)
    with pytest.raises(InputError, match=r"images.gz: says \[3, 4, 5\], more than the official file has"):
        read_idx(images, labels, 59)
    _idx(labels, np.zeros(3, np.uint8), behind=bytes(1 << 18))
    with pytest.raises(InputError, match=r"labels.gz: has 262,\d+ bytes, more than it unpacks to"):
        read_idx(images, labels, 60)


def test_a_text_whose_name_is_too_long_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read .*File name too long"):
        read_text(tmp_path / TOO_LONG)


@pytest.fixture
def prepared(tmp_path):
    """A TFDS directory of CIFAR-10 with one record, which is none."""
    version = files.described(tmp_path, "cifar10", "3.0.2", "tfrecord", {"test": 1}, 10)
    (version / "cifar10-test.tfrecord-00000-of-00001").write_bytes(files.framed([b"x"]))
    return version


def test_a_prepared_directory_without_a_number_of_classes_is_refused(prepared):
    (prepared / "label.labels.txt").unlink()
    content = json.loads((prepared / "features.json").read_text())
    content["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = "many"
    (prepared / "features.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="features.json: says no number of classes"):
        tfds_directory.open_split(prepared, "test")


def test_a_shard_that_is_larger_than_its_images_or_the_memory_is_refused(prepared, tmp_path, monkeypatch):
    shard = prepared / "cifar10-test.tfrecord-00000-of-00001"
    with monkeypatch.context() as patched:
        patched.setattr(tfds_directory, "memory_size", lambda: 3)
        with pytest.raises(InputError, match="has 17 bytes, more than this machine has memory"):
            load_dataset("cifar10", "test", tmp_path)
    os.truncate(shard, 1 << 24)
    with pytest.raises(InputError, match="is larger than 1 such images are"):
        load_dataset("cifar10", "test", tmp_path)


def test_a_prepared_directory_of_more_images_than_published_is_refused(tmp_path):
    version = files.described(tmp_path, "cifar10", "3.0.2", "tfrecord", {"test": 10_001}, 10)
    (version / "cifar10-test.tfrecord-00000-of-00001").write_bytes(bytes(20_000))
    with pytest.raises(InputError, match="has 10001 images of test, cifar10 has 10000"):
        load_dataset("cifar10", "test", tmp_path)


def test_a_data_dir_whose_name_is_too_long_is_named():
    with pytest.raises(InputError, match=f"data_dir {TOO_LONG[:50]}.*: cannot be read .*File name too long"):
        open_images("imagenette", TOO_LONG)
    with pytest.raises(InputError, match=f"data_dir {TOO_LONG[:50]}.*: cannot be read .*File name too long"):
        load_masks("voc", "train", TOO_LONG)


def test_a_file_that_is_larger_than_an_image_is_broken(tmp_path):
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(files.pixels(8, 8, 3), "JPEG"))
    os.truncate(tmp_path / "b" / "1.jpg", 1 << 36)
    source = open_folder(tmp_path)
    broken = 0
    for split in (source.train, source.test):
        for index in range(len(split)):
            try:
                split.read(index)
            except BrokenImage as error:
                broken += str(error) == f"has {1 << 36:,} bytes, more than an image"
    assert broken


@pytest.fixture
def voc(tmp_path):
    image = encoded(np.zeros((40, 50), np.uint8))
    return write_voc(tmp_path, {"im0.png": image}, {"im0.png": image}, {"train": "im0\n" * 4})


def test_masks_that_do_not_fit_into_memory_are_refused(voc, monkeypatch):
    assert len(load_masks("voc", "train", voc).images) == 4
    monkeypatch.setattr(masks, "_ALWAYS_HELD", 1000)
    monkeypatch.setattr(masks, "_LARGEST_RATIO", 1)
    with pytest.raises(InputError, match="refused: .* bytes of files unpack to .*, which no photographs do"):
        load_masks("voc", "train", voc)

    def full(*arguments):
        raise MemoryError

    monkeypatch.setattr(masks, "_load", full)
    with pytest.raises(InputError, match="memory"):
        load_masks("voc", "train", voc)


def test_an_image_file_without_end_or_rights_is_refused(voc, monkeypatch):
    image = voc / "JPEGImages" / "im0.png"
    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", lambda *arguments: (_ for _ in ()).throw(PermissionError(13, "denied")))
        with pytest.raises(InputError, match="im0.png: denied"):
            masks._bytes(image)
    os.truncate(image, 1 << 36)
    with pytest.raises(InputError, match="im0.png: has 68,719,476,736 bytes, more than an image"):
        load_masks("voc", "train", voc)


def test_images_that_changed_places_in_the_embedded_set_are_told(tmp_path):
    target = tmp_path / "cifar10_mini"
    shutil.copytree(pathlib.Path(embedded.__file__).parent / "cifar10_mini", target)
    load_dataset("cifar10_mini", "test", tmp_path)
    sheets = json.loads((target / "sheets.json").read_text())
    one, two = [name for name in sheets if name.startswith("test_")][:2]
    sheets[one]["positions"], sheets[two]["positions"] = sheets[two]["positions"], sheets[one]["positions"]
    (target / "sheets.json").write_text(json.dumps(sheets))
    with pytest.raises(InputError, match="cifar10_mini"):
        load_dataset("cifar10_mini", "test", tmp_path)
