"""The download road. There is no network in tests: only the fetching of files is replaced, by files made here."""

import dataclasses
import http.server
import shutil
import socket
import sys
import tempfile
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from resjax.data import dataset_info, load_dataset
from resjax.data.arrays import prepare
from resjax.errors import InputError


def test_any_tfds_program_reads_what_was_prepared(prepared_cifar10, make_synthetic):
    source = tfds.data_source("cifar10", split="test", data_dir=prepared_cifar10)
    expected = make_synthetic("cifar10", "test")
    assert len(source) == 10_000
    assert source.dataset_info.features["label"].names == list(dataset_info("cifar10").class_names)
    for example in (source[index] for index in range(0, 10_000, 997)):
        index = int(example["id"].decode().removeprefix("test_"))
        np.testing.assert_array_equal(example["image"], expected.images[index])
        assert example["label"] == expected.labels[index]


def test_prepared_directory_is_complete_and_alone(prepared_cifar10):
    assert [path.name for path in (prepared_cifar10 / "cifar10").iterdir()] == ["3.0.2"]


def image_and_label(image, label):
    return image.tobytes(), int(label)


def stored_labels(name, data_dir):
    return [example["label"] for example in tfds.data_source(name, split="test", data_dir=data_dir)]


def test_a_load_without_a_network_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(prepare, "why_unreachable", lambda url: "no network")
    with pytest.raises(InputError, match="cannot be reached"):
        load_dataset("cifar10", "test", tmp_path / "data")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_mnist_is_downloaded_prepared_and_loaded(tmp_path, published, make_synthetic, offline_download):
    for split in ("train", "test"):
        published.idx(tmp_path / "downloaded", split, make_synthetic("mnist", split))
    offline_download({path.name: path for path in (tmp_path / "downloaded").iterdir()})
    dataset = load_dataset("mnist", "test", tmp_path / "data")
    expected = make_synthetic("mnist", "test")
    # MNIST has no ids, so the order is the stored one, TFDS's; no image is lost and none has another's label.
    assert sorted(map(image_and_label, *dataset)) == sorted(map(image_and_label, *expected))
    np.testing.assert_array_equal(dataset.labels, stored_labels("mnist", tmp_path / "data"))


def test_cifar100_keeps_its_coarse_labels(tmp_path, published, make_synthetic):
    files = {
        file: data
        for split in ("train", "test")
        for file, data in published.files("cifar100", "binary", split, make_synthetic("cifar100", split)).items()
    }
    coarse_names = [f"superclass_{number}" for number in range(20)]
    files["coarse_label_names.txt"] = ("\n".join(coarse_names) + "\n\n").encode()
    archive = published.write(tmp_path, "cifar100", "binary", files, "archive")
    builder = tfds.builder("cifar100", data_dir=tmp_path)
    splits = prepare._split_generators(dataset_info("cifar100"), builder, {"cifar-100-binary.tar.gz": archive})
    expected = make_synthetic("cifar100", "test")
    for label, (key, example) in zip(expected.labels[:300], splits["test"], strict=False):
        assert example["label"] == label and example["coarse_label"] == label // 5
        assert key < 10_000 and example["id"] == f"test_{key:05d}"
    assert builder.info.features["coarse_label"].names == coarse_names
    assert builder.info.features.encode_example(example)["coarse_label"] == label // 5


def test_another_process_that_was_faster_is_welcome(tmp_path, prepared_cifar10, make_synthetic, monkeypatch):
    def fetch(manager, urls):
        shutil.copytree(prepared_cifar10 / "cifar10", tmp_path / "cifar10", dirs_exist_ok=True)
        return {name: prepared_cifar10.parent / "downloaded" / "cifar-10-binary.tar.gz" for name in urls}

    monkeypatch.setattr(prepare, "why_unreachable", lambda url: "")
    monkeypatch.setattr(prepare, "fetch", fetch)
    monkeypatch.setattr(prepare, "_png", lambda image: b"PNG")  # what the slower one writes is thrown away
    dataset = load_dataset("cifar10", "test", tmp_path)
    np.testing.assert_array_equal(dataset.images, make_synthetic("cifar10", "test").images)
    assert [path.name for path in (tmp_path / "cifar10").iterdir()] == ["3.0.2"]


def test_without_tfds_or_a_builder_of_it_the_other_ways_are_said(tmp_path, monkeypatch):
    unknown = dataclasses.replace(dataset_info("cifar10"), name="no_such_dataset")
    with pytest.raises(
        InputError, match=r"no_such_dataset not found, and TFDS cannot build it \(.*\): looked. Put the"
    ):
        prepare.download_and_prepare(unknown, tmp_path, "looked")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match="cifar10 not found: looked. .* Downloading needs .*: pip install tensorflow"):
        prepare.download_and_prepare(dataset_info("cifar10"), tmp_path, "looked")


def test_damaged_download_leaves_nothing_prepared(tmp_path, published, make_synthetic, offline_download):
    files = published.files("cifar10", "binary", "test", make_synthetic("cifar10", "test"))
    archive = published.write(tmp_path / "downloaded", "cifar10", "binary", files, "archive")
    offline_download({"cifar-10-binary.tar.gz": archive})
    with pytest.raises(InputError, match="no cifar-10-batches-bin/data_batch_1.bin inside"):
        load_dataset("cifar10", "train", tmp_path / "data")
    assert list((tmp_path / "data").rglob("*3.0.2*")) == []


def test_full_disk_while_writing_leaves_nothing_prepared(
    tmp_path, published, make_synthetic, offline_download, monkeypatch
):
    for split in ("train", "test"):
        published.idx(tmp_path / "downloaded", split, make_synthetic("mnist", split))
    offline_download({path.name: path for path in (tmp_path / "downloaded").iterdir()})

    def full(image):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare, "_png", full)
    with pytest.raises(InputError, match="mnist: download or preparation .* failed .*No space left.*--data_dir"):
        load_dataset("mnist", "test", tmp_path / "data")
    assert list((tmp_path / "data").rglob("*3.0.1*")) == []


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist", "svhn_cropped"])
def test_no_data_and_no_network_is_one_error_within_seconds(tmp_path, monkeypatch, name):
    # A proxy at a closed port of this machine: no answer from outside, wherever the test runs.
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        load_dataset(name, "train", tmp_path / "data")
    assert time.perf_counter() - start < 10
    message = str(caught.value)
    for part in (name, "cannot be reached", "refused", str(tmp_path / "data"), "--data_dir DIR", "with a network"):
        assert part in message
    assert not (tmp_path / "data").exists()


def test_an_address_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(prepare, "_TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.perf_counter()
        assert prepare.why_unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}/file") != ""
        assert time.perf_counter() - start < 3


def test_a_name_that_never_resolves_is_given_up(monkeypatch):
    monkeypatch.setattr(prepare, "_TIMEOUT_SECONDS", 0.1)
    released = threading.Event()

    def resolve(*args, **kwargs):
        released.wait(30)
        raise socket.gaierror("released")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    start = time.perf_counter()
    try:
        assert prepare.why_unreachable("http://name.invalid/file") == "no answer in 0.1 s"
    finally:
        released.set()
    assert time.perf_counter() - start < 10


def test_an_address_that_answers_is_reachable():
    class Answering(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert prepare.why_unreachable(f"http://127.0.0.1:{server.server_port}/file") == ""
        server.shutdown()
