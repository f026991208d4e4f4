"""The authors' own files: archives, their unpacked folders and loose files; damaged ones are named, not half-read."""

import gzip
import pickle
import tarfile
import time

import numpy as np
import pytest
from scipy.io import savemat

from resjax.data import load_dataset
from resjax.data.formats.restricted_pickle import load_batch
from resjax.errors import InputError


def assert_same(dataset, expected):
    assert dataset.images.flags.c_contiguous and dataset.labels.dtype == np.int32
    np.testing.assert_array_equal(dataset.images, expected.images)
    np.testing.assert_array_equal(dataset.labels, expected.labels)


@pytest.mark.parametrize("place", ["archive", "folder", "loose"])
@pytest.mark.parametrize("form", ["binary", "python", "python3"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_every_published_form_of_cifar(tmp_path, published, make_synthetic, name, form, place):
    expected = make_synthetic(name, "test")
    published.write(tmp_path, name, form, published.files(name, form, "test", expected), place)
    assert_same(load_dataset(name, "test", tmp_path), expected)


@pytest.mark.parametrize("form", ["binary", "python"])
def test_five_training_batches_in_order(tmp_path, published, make_synthetic, form):
    expected = make_synthetic("cifar10", "train")
    published.write(tmp_path, "cifar10", form, published.files("cifar10", form, "train", expected), "folder")
    assert_same(load_dataset("cifar10", "train", tmp_path), expected)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        load_dataset("cifar10", "train", tmp_path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0  # from the cache; the best of three, for other programs may be running


@pytest.fixture
def binary_test_batch(published, make_synthetic):
    return published.files("cifar10", "binary", "test", make_synthetic("cifar10", "test"))


@pytest.mark.parametrize("size", [-1, +1, -3073])
@pytest.mark.parametrize("place", ["archive", "folder"])
def test_wrong_size_is_named(tmp_path, published, binary_test_batch, place, size):
    data = binary_test_batch["test_batch.bin"]
    files = {"test_batch.bin": data[:size] if size < 0 else data + b"\0" * size}
    published.write(tmp_path, "cifar10", "binary", files, place)
    with pytest.raises(InputError, match=f"test_batch.bin: expected 30730000 bytes, found {30730000 + size}"):
        load_dataset("cifar10", "test", tmp_path)


def test_label_out_of_range_is_named(tmp_path, published, binary_test_batch):
    data = bytearray(binary_test_batch["test_batch.bin"])
    data[3073 * 17] = 10
    published.write(tmp_path, "cifar10", "binary", {"test_batch.bin": bytes(data)}, "folder")
    with pytest.raises(InputError, match="labels of cifar10 are 0 to 9, found 0 to 10"):
        load_dataset("cifar10", "test", tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "end", "flipped", "text"])
def test_damaged_archive_is_named(tmp_path, published, binary_test_batch, damage):
    archive = published.write(tmp_path, "cifar10", "binary", binary_test_batch, "archive")
    data = bytearray(archive.read_bytes())
    if damage == "flipped":
        data[-6] ^= 0x40  # within the checksum at the end of the gzip stream
    archive.write_bytes({"truncated": data[: len(data) // 2], "end": data[:-4], "text": b"<html>"}.get(damage, data))
    with pytest.raises(InputError, match="cifar-10-binary.tar.gz: truncated or damaged archive.*again"):
        load_dataset("cifar10", "test", tmp_path)


def test_archive_without_the_member_is_named(tmp_path, published, binary_test_batch):
    files = {"../test_batch.bin": binary_test_batch["test_batch.bin"]}
    published.write(tmp_path, "cifar10", "binary", files, "archive")
    with pytest.raises(InputError, match="no cifar-10-batches-bin/test_batch.bin inside"):
        load_dataset("cifar10", "test", tmp_path)
    assert [path.name for path in tmp_path.rglob("*batch*")] == []  # nothing was extracted


def test_a_member_that_is_too_large_is_refused_unread(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        member.size = 10**12
        tar.addfile(member)
    with pytest.raises(InputError, match="test_batch.bin says it has 1000000000000 bytes"):
        load_dataset("cifar10", "test", tmp_path)


def test_incomplete_folder_names_the_missing_file(tmp_path, published, make_synthetic):
    files = published.files("cifar10", "binary", "train", make_synthetic("cifar10", "train"))
    del files["data_batch_4.bin"]
    published.write(tmp_path, "cifar10", "binary", files, "folder")
    with pytest.raises(InputError, match="data_batch_4.bin: missing"):
        load_dataset("cifar10", "train", tmp_path)


class _Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_malicious_pickle_is_refused_and_does_not_run(tmp_path, protocol):
    marker = tmp_path / "ran"
    data = pickle.dumps({"data": _Malicious(exec, f"open({str(marker)!r}, 'w').close()"), "labels": []}, protocol)
    pickle.loads(data)
    assert marker.exists()  # it is malicious
    marker.unlink()
    (tmp_path / "test_batch").write_bytes(data)
    with pytest.raises(InputError, match=r"test_batch: refused: this pickle tried to load \w+\.exec"):
        load_dataset("cifar10", "test", tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os.system", "numpy.load", "numpy.core.multiarray.scalar", "builtins.getattr"])
def test_only_what_arrays_need_can_be_loaded(name):
    module, attribute = name.rsplit(".", 1)
    with pytest.raises(InputError, match=f"tried to load {name}"):
        load_batch(f"c{module}\n{attribute}\n.".encode(), "batch")


def test_only_the_latin1_codec_can_be_called():
    with pytest.raises(InputError, match="_codecs.encode with 'rot13'"):
        load_batch(b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", "batch")


def batch(**changes) -> bytes:
    content = {"data": np.zeros((10_000, 3072), np.uint8), "labels": [0] * 10_000} | changes
    return pickle.dumps({key: value for key, value in content.items() if value is not None}, protocol=2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (batch(data=np.zeros((10_000, 3071), np.uint8)), r"expected uint8 data \[10000, 3072\]"),
        (batch(data=np.zeros((10_000, 3072), np.int8)), "refused: this pickle holds an array of 'i1', not of 'u1'"),
        (batch(data=[0]), "expected uint8 data"),
        (batch(labels=[0] * 9_999), "expected a list of 10000 integers"),
        (batch(labels=[0.5] * 10_000), "expected a list of 10000 integers"),
        (batch(labels=[-1] * 10_000), "labels of cifar10 are 0 to 9, found -1"),
        (batch(labels=[2**40] * 10_000), "expected a list of 10000 integers"),
        (batch(labels=[2**99] * 10_000), "expected a list of 10000 integers"),
        (batch(labels=7), "expected a list of 10000 integers"),
        (batch(labels=None), "no 'labels' in this batch"),
        (pickle.dumps([1], protocol=2), "a CIFAR batch is a dictionary"),
        (batch()[:1000], "damaged pickle"),
        (b"", "damaged pickle"),
    ],
)
def test_python_batch_of_the_wrong_content_is_named(tmp_path, data, message):
    (tmp_path / "test_batch").write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_dataset("cifar10", "test", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_of_both_mnists_in_one_data_dir(tmp_path, published, make_synthetic, name):
    expected = {one: make_synthetic(one, "test") for one in ("mnist", "fashion_mnist")}
    expected["mnist"] = expected["mnist"]._replace(images=255 - expected["mnist"].images)  # so that the two differ
    for one in expected:
        published.idx(tmp_path / one, "test", expected[one])
    dataset = load_dataset(name, "test", tmp_path)
    assert dataset.images.shape == (10_000, 28, 28, 1)
    assert_same(dataset, expected[name])


def test_damaged_idx_file_is_named(tmp_path, published, make_synthetic):
    published.idx(tmp_path / "mnist", "test", make_synthetic("mnist", "test"))
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for data, said in (
        (whole[:1000], "truncated or damaged"),
        (gzip.compress(gzip.decompress(whole)[:-1]), "truncated or damaged"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x63" + bytes(99)), r"expected uint8 of rank 3, found uint8 \[99\]"),
        (gzip.compress(b"<html>"), "not an IDX file"),
        (gzip.compress(b"\0\0\x08\x03\0\0"), "truncated in its header"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=f"t10k-images-idx3-ubyte.gz: {said}"):
            load_dataset("mnist", "test", tmp_path)


def test_another_number_of_labels_than_of_images_is_named(tmp_path, published, make_synthetic):
    whole = make_synthetic("mnist", "test")
    published.idx(tmp_path / "mnist", "test", whole._replace(labels=whole.labels[:9_999]))
    with pytest.raises(InputError, match=r"mnist test has integer labels \[10000\], found .*\[9999\]; copy or prepare"):
        load_dataset("mnist", "test", tmp_path)


def test_svhn_mat_file_stores_zero_as_ten(tmp_path, make_synthetic):
    expected = make_synthetic("svhn_cropped", "test")
    stored = np.where(expected.labels == 0, 10, expected.labels).astype(np.uint8)[:, None]
    savemat(tmp_path / "test_32x32.mat", {"X": np.moveaxis(expected.images, 0, 3), "y": stored})
    assert_same(load_dataset("svhn_cropped", "test", tmp_path), expected)


def test_damaged_svhn_file_is_named(tmp_path):
    path = tmp_path / "test_32x32.mat"
    for content, said in (
        (b"<html>", "not a readable SVHN file .*again"),
        ({"X": np.zeros((32, 32, 2), np.uint8), "y": np.ones((2, 1))}, r"expected X uint8 \[32, 32, 3, N\] and y"),
        (
            {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((2, 1))},
            r"is uint8 images \[26032, 32, 32, 3\], found",
        ),
    ):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            savemat(path, content)
        with pytest.raises(InputError, match=f"test_32x32.mat: .*{said}|{said}"):
            load_dataset("svhn_cropped", "test", tmp_path)


def test_svhn_label_out_of_range_is_named(tmp_path):
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [11]])})
    with pytest.raises(InputError, match="test_32x32.mat: labels are 1 to 10, found 1 to 11"):
        load_dataset("svhn_cropped", "test", tmp_path)
