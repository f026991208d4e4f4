"""The cache: the same arrays without decoding, rebuilt when corrupt or outdated, never in the way."""

import logging
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from resjax.data import load_dataset

# Prints what was imported while loading, and a digest of the result.
_PROGRAM = """
import sys, zlib
from resjax.data import load_dataset
dataset = load_dataset("cifar10", "test", sys.argv[1])
heavy = {"tensorflow", "tensorflow_datasets", "PIL", "array_record", "scipy.io"} & sys.modules.keys()
print(zlib.crc32(dataset.images), zlib.crc32(dataset.labels), *heavy)
"""


def run_program(data_dir) -> subprocess.Popen:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), JAX_PLATFORMS="cpu")
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(data_dir)], env=environment, text=True, stdout=subprocess.PIPE
    )


@pytest.fixture(scope="module")
def first_read(prepared_tfrecord, tmp_path_factory):
    """The dataset as first read, and the cache file that reading it left."""
    home = tmp_path_factory.mktemp("first-read")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        dataset = load_dataset("cifar10", "test", prepared_tfrecord)
    (path,) = (home / "resjax" / "datasets").iterdir()
    return dataset, path


@pytest.fixture
def cached(first_read, cache_home):
    """The dataset, and a copy of its cache file where this test looks for it."""
    dataset, path = first_read
    folder = cache_home / "resjax" / "datasets"
    folder.mkdir(parents=True)
    return dataset, pathlib.Path(shutil.copy2(path, folder))


@pytest.fixture
def records_read(monkeypatch):
    """The shards that were decoded since; still decodes them."""
    from resjax.data.formats import tfds_directory

    shards, read = [], tfds_directory.read_tfrecord
    monkeypatch.setattr(tfds_directory, "read_tfrecord", lambda path, most: shards.append(path) or read(path, most))
    return shards


def assert_same(dataset, expected):
    assert dataset.images.dtype == np.uint8 and dataset.labels.dtype == np.int32
    np.testing.assert_array_equal(dataset.images, expected.images)
    np.testing.assert_array_equal(dataset.labels, expected.labels)


def test_hit_gives_the_same_arrays_without_decoding(cached, prepared_tfrecord, records_read):
    assert_same(load_dataset("cifar10", "test", prepared_tfrecord), cached[0])
    assert records_read == []


def test_hit_imports_no_reader(cached, prepared_tfrecord):
    output, _ = run_program(prepared_tfrecord).communicate()
    assert len(output.split()) == 2  # two checksums, no module: nor does `import resjax.data` need one


def test_reading_never_imports_tensorflow(prepared_tfrecord):
    output, _ = run_program(prepared_tfrecord).communicate()
    assert "tensorflow_datasets" in output.split() and "tensorflow" not in output.split()


@pytest.mark.parametrize("position", [0.0, 0.00001, 0.5, 1.0])
def test_corrupt_byte_is_found_and_the_cache_rebuilt(cached, prepared_tfrecord, records_read, caplog, position):
    dataset, path = cached
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert_same(load_dataset("cifar10", "test", prepared_tfrecord), dataset)
    assert len(records_read) == 1 and str(path) in caplog.text
    assert_same(load_dataset("cifar10", "test", prepared_tfrecord), dataset)
    assert len(records_read) == 1  # the rebuilt one is good


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
def test_truncated_cache_is_rebuilt(cached, prepared_tfrecord, records_read, caplog, size):
    dataset, path = cached
    path.write_bytes(path.read_bytes()[:size])
    assert_same(load_dataset("cifar10", "test", prepared_tfrecord), dataset)
    assert len(records_read) == 1 and str(path) in caplog.text


def test_changed_source_is_read_again(cached, prepared_tfrecord, records_read, caplog):
    (shard,) = prepared_tfrecord.rglob("*.tfrecord-*")
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    assert_same(load_dataset("cifar10", "test", prepared_tfrecord), cached[0])
    assert len(records_read) == 1 and "changed since" in caplog.text


def test_two_sources_have_two_caches(cached, cache_home, tmp_path, published, make_synthetic):
    other = make_synthetic("cifar10", "test")._replace(images=np.zeros((10_000, 32, 32, 3), np.uint8))
    published.write(tmp_path, "cifar10", "binary", published.files("cifar10", "binary", "test", other), "folder")
    assert_same(load_dataset("cifar10", "test", tmp_path), other)
    assert len(list((cache_home / "resjax" / "datasets").iterdir())) == 2


def test_cache_directory_that_cannot_be_made_only_warns(prepared_tfrecord, cache_home, make_synthetic, caplog):
    cache_home.write_text("a file where the directory would be")
    assert_same(load_dataset("cifar10", "test", prepared_tfrecord), make_synthetic("cifar10", "test"))
    assert "cannot write the cache" in caplog.text


def test_full_disk_only_warns_and_leaves_nothing(prepared_tfrecord, cache_home, make_synthetic, caplog, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert_same(load_dataset("cifar10", "test", prepared_tfrecord), make_synthetic("cifar10", "test"))
    assert "No space left" in caplog.text
    assert list((cache_home / "resjax" / "datasets").iterdir()) == []


def test_processes_that_start_together_all_load(prepared_tfrecord, cache_home):
    outputs = [process.communicate()[0].split()[:2] for process in [run_program(prepared_tfrecord) for _ in range(2)]]
    assert len(outputs[0]) == 2 and outputs[0] == outputs[1]
    assert len(list((cache_home / "resjax" / "datasets").iterdir())) == 1
