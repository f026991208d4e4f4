"""Photographs in directories that TFDS prepared, of both file formats: read one by one, in any order."""

import io
import json
import pickle
import re
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from resjax.data.formats.tfds_directory import describe_split
from resjax.data.formats.tfrecord import masked_crc32c, record_checksum
from resjax.data.images import BrokenImage, open_evaluation, open_images
from resjax.data.images.records import RecordImages
from resjax.errors import InputError

SIZES = {"train": 24, "validation": 6}


def _image(split, number):
    return np.full((20, 20 + number, 3), 9 * number + (split == "train"), np.uint8)


def _jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Imagenette as TFDS writes it, with small pictures in it."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    builder = tfds.builder("imagenette/160px-v2", data_dir=root, file_format="array_record")

    def examples(split):
        for number in range(SIZES[split]):
            yield number, {"image": io.BytesIO(_jpeg(_image(split, number))), "label": number % 10}

    builder._split_generators = lambda manager: {split: examples(split) for split in SIZES}
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return root


@pytest.fixture(scope="module")
def as_tfrecord(prepared, tmp_path_factory):
    from array_record.python.array_record_module import ArrayRecordReader

    (source,) = prepared.glob("imagenette/160px-v2/*")
    target = tmp_path_factory.mktemp("tfrecord") / "imagenette" / "160px-v2" / source.name
    target.mkdir(parents=True)
    for file in source.glob("*.json"):
        (target / file.name).write_text(file.read_text().replace('"array_record"', '"tfrecord"'))
    for file in source.glob("*.txt"):
        (target / file.name).write_text(file.read_text())
    for shard in source.glob("*.array_record-*"):
        records = ArrayRecordReader(str(shard)).read_all()
        framed = b"".join(
            struct.pack("<QI", len(data), 0) + data + struct.pack("<I", record_checksum(data)) for data in records
        )
        (target / shard.name.replace("array_record", "tfrecord")).write_bytes(framed)
    assert json.loads((target / "dataset_info.json").read_text())["fileFormat"] == "tfrecord"
    return target.parents[2]


@pytest.mark.parametrize("form", ["prepared", "as_tfrecord"])
def test_every_image_is_read_once_by_its_position(request, form):
    dataset = open_images("imagenette", request.getfixturevalue(form))
    assert dataset.num_classes == 10 and dataset.class_names[0] == "n01440764"
    for source, split in ((dataset.train, "train"), (pickle.loads(pickle.dumps(dataset.test)), "validation")):
        assert len(source) == SIZES[split]
        widths = {}
        for index in reversed(range(len(source))):
            data, label = source.read(index)
            number = Image.open(io.BytesIO(data)).width - 20
            assert label == number % 10 and "record" in source.name(index)
            widths[index] = number
        assert sorted(widths.values()) == list(range(SIZES[split]))


def test_damage_is_named(as_tfrecord, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(as_tfrecord, copy)
    (shard,) = copy.glob("**/*train*tfrecord-*")
    data = shard.read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    shard.write_bytes(data[:12] + bytes(length) + data[12 + length :])
    source = open_images("imagenette", copy).train
    with pytest.raises(BrokenImage, match="checksum"):
        source.read(0)
    assert source.read(1) and str(shard) in source.name(0)
    shard.write_bytes(data[: length + 16])  # whole, but not all
    with pytest.raises(InputError, match=r"truncated or corrupt: 1 of \d+ records"):
        open_images("imagenette", copy)
    shard.write_bytes(data[:-9])
    with pytest.raises(InputError, match="truncated or corrupt"):
        open_images("imagenette", copy)
    shard.unlink()
    with pytest.raises(InputError, match="missing"):
        open_images("imagenette", copy)


def test_labels_and_classes_of_another_dataset_are_named(prepared, tmp_path):
    (version,) = prepared.glob("imagenette/160px-v2/*")
    source = RecordImages(describe_split(version, "validation"), num_classes=1)
    read = [number for number in range(len(source)) if _label_or_none(source, number) == 0]
    assert len(read) == 1  # of labels 0 to 5
    shutil.copytree(prepared / "imagenette", tmp_path / "imagenet2012")
    with pytest.raises(InputError, match="1.0.0: has 10 classes, imagenet2012 has 1000"):
        open_images("imagenet2012", tmp_path)


def _label_or_none(source, number):
    try:
        return source.read(number)[1]
    except BrokenImage as error:
        assert re.fullmatch("its label is [1-5], expected 0 to 0", str(error))


def test_what_is_not_there_is_said_with_the_ways_to_it(tmp_path):
    with pytest.raises(InputError, match="unknown dataset of photographs 'imagenett'; did you mean 'imagenette'"):
        open_images("imagenett", tmp_path)
    with pytest.raises(InputError, match="imagenette2.tgz"):
        open_images("imagenette", tmp_path)
    with pytest.raises(InputError, match="--data_dir"):
        open_images("folder", None)
    for split in ("train", "val"):
        for name in ("one", "two"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "a.jpg").write_bytes(_jpeg(_image("train", 1)))
    with pytest.raises(InputError, match="imagenet2012 has 1000"):
        open_images("imagenet2012", tmp_path)
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="no folder `val`"):
        open_images("imagenet2012", tmp_path)


@pytest.mark.parametrize("length", [0, 3, 4, 63, 64, 65, 4097])
def test_the_checksum_of_a_record_is_that_of_its_bytes_one_by_one(length):
    record = np.random.default_rng(length).integers(0, 256, length, np.uint8)
    (expected,) = masked_crc32c(record, np.zeros(1, np.int64), np.array([length]))
    assert record_checksum(record.tobytes()) == expected


def test_a_single_wrong_bit_of_a_picture_is_seen(as_tfrecord, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(as_tfrecord, copy)
    (shard,) = copy.glob("**/*train*tfrecord-*")
    data = bytearray(shard.read_bytes())
    data[12 + struct.unpack_from("<Q", data)[0] // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(BrokenImage, match="checksum"):
        open_images("imagenette", copy).train.read(0)


def test_prepared_images_are_evaluated_by_split_and_have_an_identity(prepared):
    evaluated = open_evaluation("imagenette", prepared)
    assert evaluated.split == "val" and len(evaluated.images) == SIZES["validation"]
    assert len(open_evaluation("imagenette", prepared, "train").images) == SIZES["train"]
    with pytest.raises(InputError, match="train and val"):
        open_evaluation("imagenette", prepared, "test")
    identity = open_images("imagenette", prepared).identity()
    assert identity["splits"]["test"] == evaluated.identity()["splits"]["test"]
    assert identity["splits"]["train"]["images"] == SIZES["train"]
    assert identity["splits"]["train"]["fingerprint"] != identity["splits"]["test"]["fingerprint"]
