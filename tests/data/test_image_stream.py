"""Streams of images: one order whatever the workers and processes, a position that restores, nothing silent or left."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from resjax.data.images import (
    CentreCrop,
    EncodedImage,
    ImageStream,
    RandomResizedCrop,
    StreamConfig,
    open_folder,
)
from resjax.data.images.ring import Ring
from resjax.errors import InputError
from tests.helpers.photographs import write_folder

VIEW = RandomResizedCrop(16)
CROP = CentreCrop(20, 16)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_folder(write_folder(tmp_path_factory.mktemp("photos"), 7))


def _take(source, config, batches, start=0, workers=0, **options):
    with ImageStream(source, config, start, workers, **options) as stream:
        return [next(stream) for _ in range(batches)]


def _assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.views[0], b.views[0])


def test_worker_processes_make_what_threads_make_from_any_position(dataset):
    config = StreamConfig((VIEW,), 4, seed=3)
    whole = _take(dataset.train, config, 9)  # three epochs of 3 batches; 2 images of each are left out
    _assert_same(whole, _take(dataset.train, config, 9, workers=2))
    _assert_same(whole[5:], _take(dataset.train, config, 4, start=5))
    assert not np.array_equal(whole[0].views[0], whole[3].views[0])  # the next epoch has another order


def test_a_batch_may_be_one_image(dataset):
    whole = _take(dataset.train, StreamConfig((VIEW,), 2, seed=3), 3)
    single = _take(dataset.train, StreamConfig((VIEW,), 1, seed=3), 6)
    np.testing.assert_array_equal([batch.labels[0] for batch in single], np.concatenate([b.labels for b in whole]))


class _Numbered:
    """Images whose labels are their indices."""

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return len(self._source)

    def read(self, index):
        return self._source.read(index)[0], index


def test_an_epoch_has_each_image_once_and_seeds_have_their_own_orders(dataset):
    orders = []
    for seed in (0, 1):
        batches = _take(_Numbered(dataset.train), StreamConfig((VIEW,), 7, seed=seed), 4)
        orders += [np.concatenate([batch.labels for batch in part]).tolist() for part in (batches[:2], batches[2:])]
    assert all(sorted(order) == list(range(14)) for order in orders)
    assert len(set(map(tuple, orders))) == 4


def test_processes_read_their_part_of_the_same_batch(dataset):
    (whole,) = _take(dataset.train, StreamConfig((VIEW,), 6, seed=1), 1)
    parts = [
        _take(dataset.train, StreamConfig((VIEW,), 6, seed=1, process_index=index, process_count=3), 1)[0]
        for index in range(3)
    ]
    np.testing.assert_array_equal(whole.views[0], np.concatenate([part.views[0] for part in parts]))
    np.testing.assert_array_equal(whole.labels, np.concatenate([part.labels for part in parts]))


def test_repeats_show_an_image_again_otherwise(dataset):
    batches = _take(dataset.train, StreamConfig((VIEW,), 4, seed=1, repeats=2), 6)
    for batch in batches:
        np.testing.assert_array_equal(batch.labels[:2], batch.labels[2:])
        assert not np.array_equal(batch.views[0][:2], batch.views[0][2:])


def test_evaluation_sees_each_image_once_and_then_again(dataset):
    batches = _take(dataset.test, StreamConfig((CROP,), 4), 8)
    labels = np.concatenate([batch.labels for batch in batches[:4]])
    np.testing.assert_array_equal(labels, [0] * 7 + [1] * 7 + [-1] * 2)
    _assert_same(batches[:4], batches[4:])
    expected = np.zeros(CROP.shape, np.uint8)
    CROP(EncodedImage(dataset.test.read(9)[0]), None, expected)
    np.testing.assert_array_equal(batches[2].views[0][1], expected)


def test_what_no_stream_can_be_is_said(dataset, monkeypatch):
    with pytest.raises(InputError, match="batch_size 6: expected a positive multiple of 2 processes times 2 repeats"):
        StreamConfig((VIEW,), 6, process_count=2, repeats=2)
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(InputError, match="workers 2: worker processes need Linux; 0 decodes in threads"):
        ImageStream(dataset.train, StreamConfig((VIEW,), 4), workers=2)


def test_a_writer_ends_when_nobody_reads_any_more():
    ring = Ring(1, [((2,), np.uint8)])
    ring.fill(0)
    ring.end()
    with pytest.raises(EOFError, match="nobody reads"):
        ring.wait_until_free(0)
    ring.close()


class _Damaged:
    """Images of which some are cut off."""

    def __init__(self, source, broken):
        self._source, self._broken = source, broken

    def __len__(self):
        return len(self._source)

    def name(self, index):
        return f"image {index}"

    def read(self, index):
        data, label = self._source.read(index)
        return (data[:-40] if index in self._broken else data), label


def test_broken_images_are_replaced_by_the_next_and_reported_once(dataset):
    reports = []
    config = StreamConfig((VIEW,), 7, seed=1)
    damaged = _Damaged(dataset.train, {3, 4})
    batches = _take(damaged, config, 4, report=lambda *report: reports.append(report))
    assert sorted(path for path, _ in reports) == ["image 3", "image 4"]
    assert all("JPEG" in reason for _, reason in reports)
    whole = _take(dataset.train, config, 4)
    same = [np.array_equal(a, b) for one, two in zip(batches, whole, strict=True)
            for a, b in zip(one.views[0], two.views[0], strict=True)]  # fmt: skip
    assert same.count(False) == 4  # two images in each of two epochs


def test_broken_images_end_a_stream_or_are_left_out_of_evaluation(dataset):
    damaged = _Damaged(dataset.test, {5})
    with pytest.raises(InputError, match="image 5: broken image"):
        _take(damaged, StreamConfig((VIEW,), 7, seed=1, skip_broken=False), 2)
    reports = []
    (batch,) = _take(damaged, StreamConfig((CROP,), 7), 1, report=lambda *report: reports.append(report))
    assert batch.labels.tolist() == [0] * 5 + [-1, 0] and len(reports) == 1
    with pytest.raises(InputError, match="and so is every other"):
        _take(_Damaged(dataset.test, set(range(14))), StreamConfig((VIEW,), 7, seed=1), 1)


_SCRIPT = """
import multiprocessing, sys
from resjax.data.images import ImageStream, RandomResizedCrop, StreamConfig, open_folder
if __name__ == "__main__":
    source = open_folder(sys.argv[1]).train
    with ImageStream(source, StreamConfig((RandomResizedCrop(16),), 4, seed=0), workers=1) as stream:
        next(stream)
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        while True:
            next(stream)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="worker processes need Linux")
def test_a_killed_reader_leaves_neither_processes_nor_shared_memory(tmp_path):
    folder = write_folder(tmp_path / "photos", 4)
    script = tmp_path / "read.py"
    script.write_text(_SCRIPT)
    before = set(os.listdir("/dev/shm"))
    command = [sys.executable, str(script), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        mine = set(os.listdir("/dev/shm")) - before
        process.send_signal(signal.SIGKILL)
    assert workers
    deadline = time.monotonic() + 60
    while any(_lives(pid) for pid in workers) or mine & set(os.listdir("/dev/shm")):
        assert time.monotonic() < deadline, "a worker or shared memory outlived its reader"
        time.sleep(0.1)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
