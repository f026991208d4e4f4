"""Photographs in directories that TFDS prepared, of both file formats: read one by one, in any order."""

import io
import json
import pickle
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from resjax.data.images import BrokenImage, open_images
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
        framed = b"".join(struct.pack("<QI", len(record), 0) + record + bytes(4) for record in records)
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
    with pytest.raises(BrokenImage):
        source.read(0)
    assert source.read(1) and str(shard) in source.name(0)
    shard.write_bytes(data[:-9])
    with pytest.raises(InputError, match="truncated or corrupt"):
        open_images("imagenette", copy)
    shard.unlink()
    with pytest.raises(InputError, match="missing"):
        open_images("imagenette", copy)


def test_what_is_not_there_is_said_with_the_ways_to_it(tmp_path):
    with pytest.raises(InputError, match="imagenette2.tgz"):
        open_images("imagenette", tmp_path)
    with pytest.raises(InputError, match="--data_dir"):
        open_images("folder", None)
    for split in ("train", "val"):
        (tmp_path / split / "only").mkdir(parents=True)
        (tmp_path / split / "only" / "a.jpg").write_bytes(_jpeg(_image("train", 1)))
    with pytest.raises(InputError, match="imagenet2012 has 1000"):
        open_images("imagenet2012", tmp_path)
