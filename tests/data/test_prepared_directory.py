"""Directories prepared by TFDS, of both file formats: read in official order, checked, never half-read."""

import dataclasses
import json
import re
import shutil
import sys

import numpy as np
import pytest

from resjax.data import dataset_info, load_dataset
from resjax.data.formats import tfds_directory
from resjax.errors import InputError


def assert_same(dataset, expected):
    np.testing.assert_array_equal(dataset.images, expected.images)
    np.testing.assert_array_equal(dataset.labels, expected.labels)


def test_array_record_comes_back_in_official_order(prepared_cifar10, make_synthetic):
    dataset = load_dataset("cifar10", "test", prepared_cifar10)
    assert dataset.images.flags.c_contiguous and dataset.images.dtype == np.uint8
    assert dataset.labels.dtype == np.int32
    assert_same(dataset, make_synthetic("cifar10", "test"))


def test_tfrecord_comes_back_in_official_order(prepared_tfrecord, make_synthetic):
    assert_same(load_dataset("cifar10", "test", prepared_tfrecord), make_synthetic("cifar10", "test"))


@pytest.mark.parametrize("inner", ["", "cifar10", "cifar10/3.0.2"])
def test_data_dir_may_be_the_root_the_dataset_or_the_version(prepared_tfrecord, make_synthetic, inner):
    assert_same(load_dataset("cifar10", "test", prepared_tfrecord / inner), make_synthetic("cifar10", "test"))


def test_found_inside_tensorflow_datasets_and_highest_version_wins(prepared_tfrecord, tmp_path, make_synthetic):
    root = tmp_path / "tensorflow_datasets"
    shutil.copytree(prepared_tfrecord, root)
    for stale in ("3.0.1", "2.10.0"):
        (root / "cifar10" / stale).mkdir()
        (root / "cifar10" / stale / "dataset_info.json").write_text("{}")
    assert_same(load_dataset("cifar10", "test", tmp_path), make_synthetic("cifar10", "test"))


def test_tfds_data_dir_is_the_default(prepared_tfrecord, make_synthetic, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_tfrecord))
    assert_same(load_dataset("cifar10", "test"), make_synthetic("cifar10", "test"))


def test_split_that_was_not_prepared_is_named(prepared_tfrecord):
    with pytest.raises(InputError, match="only the splits test; 'train' was not prepared"):
        load_dataset("cifar10", "train", prepared_tfrecord)


@pytest.fixture
def tfrecord_copy(prepared_tfrecord, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(prepared_tfrecord, root)
    return root


@pytest.fixture
def array_record_copy(prepared_cifar10, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(prepared_cifar10, root, ignore=shutil.ignore_patterns("downloads"))
    return root


def shard_of(root, split="test"):
    return sorted((root / "cifar10" / "3.0.2").glob(f"cifar10-{split}.*-of-*"))[-1]


def refused(root):
    """The message of the refusal; it names the shard at fault and the way out."""
    with pytest.raises(InputError) as caught:
        load_dataset("cifar10", "test", root)
    assert str(shard_of(root)) in str(caught.value) and "again" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("copy", ["tfrecord_copy", "array_record_copy"])
def test_truncated_shard_is_named(request, copy, keep):
    root = request.getfixturevalue(copy)
    shard = shard_of(root)
    data = shard.read_bytes()
    shard.write_bytes(data[: int(len(data) * keep)])
    assert "truncated or corrupt" in refused(root)


@pytest.mark.parametrize("copy", ["tfrecord_copy", "array_record_copy"])
def test_flipped_byte_in_a_record_is_found(request, copy):
    root = request.getfixturevalue(copy)
    shard = shard_of(root)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0x01
    shard.write_bytes(data)
    assert "corrupt" in refused(root)


@pytest.mark.parametrize("position", [0, 7, 8, 11, -1])  # in the first length, its checksum, the last data checksum
def test_flipped_byte_in_a_tfrecord_frame_is_found(tfrecord_copy, position):
    shard = shard_of(tfrecord_copy)
    data = bytearray(shard.read_bytes())
    data[position] ^= 0x01
    shard.write_bytes(data)
    assert "corrupt" in refused(tfrecord_copy)


def test_missing_shard_is_named(tfrecord_copy):
    shard = shard_of(tfrecord_copy)
    shard.rename(shard.with_suffix(".lost"))
    with pytest.raises(InputError, match="missing"):
        load_dataset("cifar10", "test", tfrecord_copy)


def edit_description(root, edit):
    path = root / "cifar10" / "3.0.2" / "dataset_info.json"
    description = json.loads(path.read_text())
    edit(description["splits"][0])
    path.write_text(json.dumps(description))


def test_record_count_is_compared_with_the_description(tfrecord_copy):
    def move_one(split):
        split["shardLengths"] = ["9999", "1"]

    edit_description(tfrecord_copy, move_one)
    shard = shard_of(tfrecord_copy)
    shutil.copy(shard, shard.with_name("cifar10-test.tfrecord-00000-of-00002"))
    shutil.move(shard, shard.with_name("cifar10-test.tfrecord-00001-of-00002"))
    with pytest.raises(InputError, match="00000-of-00002: truncated or corrupt: 10000 of 9999 records"):
        load_dataset("cifar10", "test", tfrecord_copy)


def test_partly_prepared_split_is_taken_as_what_it_says_it_is(tfrecord_copy, make_synthetic, caplog):
    shard = shard_of(tfrecord_copy)
    shard.write_bytes(_first_records(shard, 100))
    stored = [int(number) for number in re.findall(rb"test_(\d{5})", shard.read_bytes())]
    edit_description(tfrecord_copy, lambda split: split.update(shardLengths=["100"]))
    full = make_synthetic("cifar10", "test")
    for _ in range(2):  # decoded, then from the cache
        dataset = load_dataset("cifar10", "test", tfrecord_copy)
        assert_same(dataset, type(full)(full.images[sorted(stored)], full.labels[sorted(stored)]))
    assert "cifar10 test has 10000 images, this copy only 100" in caplog.text


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_damaged_description_is_an_input_error(tfrecord_copy, file):
    (tfrecord_copy / "cifar10" / "3.0.2" / file).write_text("{ not json")
    with pytest.raises(InputError, match="not a readable TFDS directory.*again"):
        load_dataset("cifar10", "test", tfrecord_copy)


def test_the_folder_of_a_version_says_of_which_dataset_it_is(tfrecord_copy):
    version = tfrecord_copy / "cifar10" / "3.0.2"
    for text in ("{ not json", "{}", "[]"):
        (version / "dataset_info.json").write_text(text)
        with pytest.raises(InputError, match="dataset_info.json: not a readable TFDS description .*copy the folder"):
            load_dataset("cifar10", "test", version)


def _first_records(shard, count):
    """The bytes of a tfrecord shard's first records."""
    data, end = shard.read_bytes(), 0
    for _ in range(count):
        end += int.from_bytes(data[end : end + 8], "little") + 16
    return data[:end]


def test_an_image_that_is_there_twice_is_refused(tfrecord_copy):
    shard = shard_of(tfrecord_copy)
    records = _first_records(shard, 3)
    for number in range(2):
        shard.with_name(f"cifar10-test.tfrecord-0000{number}-of-00002").write_bytes(records)
    edit_description(tfrecord_copy, lambda split: split.update(shardLengths=["3", "3"]))
    with pytest.raises(InputError, match="3.0.2: ids of test occur twice; prepare it again"):
        load_dataset("cifar10", "test", tfrecord_copy)


def test_a_label_of_another_dataset_is_refused(tfrecord_copy):
    info = dataclasses.replace(dataset_info("cifar10"), num_classes=2)
    with pytest.raises(InputError, match="tfrecord-.*: labels of cifar10 are 0 to 1, found [2-9]; prepare or copy"):
        tfds_directory.find_prepared(info, "test", tfrecord_copy).read()


def test_a_record_that_is_no_example_is_refused(array_record_copy):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(shard_of(array_record_copy)), "group_size:1")
    writer.write(b"no example")
    writer.close()
    edit_description(array_record_copy, lambda split: split.update(shardLengths=["1"]))
    with pytest.raises(InputError, match="array_record-.*: undecodable example .*; prepare or copy"):
        load_dataset("cifar10", "test", array_record_copy)


def test_another_file_format_is_refused(tfrecord_copy):
    description = tfrecord_copy / "cifar10" / "3.0.2" / "dataset_info.json"
    description.write_text(description.read_text().replace('"tfrecord"', '"riegeli"'))
    shard = shard_of(tfrecord_copy)
    shard.rename(shard.with_name(shard.name.replace("tfrecord", "riegeli")))
    with pytest.raises(InputError, match="file format 'riegeli'; prepare it as array_record or tfrecord"):
        load_dataset("cifar10", "test", tfrecord_copy)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("tensorflow_datasets", "reading a prepared TFDS directory needs .*pip install tensorflow-datasets"),
        ("array_record.python.array_record_module", "array_record is missing .*pip install array-record"),
    ],
)
def test_a_package_that_is_missing_is_named(array_record_copy, monkeypatch, module, said):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=said):
        load_dataset("cifar10", "test", array_record_copy)


def test_other_dataset_under_the_name_is_refused(tfrecord_copy):
    (tfrecord_copy / "cifar10").rename(tfrecord_copy / "mnist")
    with pytest.raises(InputError, match="expected uint8 images"):
        load_dataset("mnist", "test", tfrecord_copy)
