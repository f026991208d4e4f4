"""Files that say what cannot be: refused in one line before code, memory or time is spent. None of them does harm."""

import gzip
import json
import os
import pickle
import random
import resource
import sys
import tarfile

import numpy as np
import pytest
import scipy.io

from resjax.data import load_dataset, load_masks
from resjax.data.arrays import embedded
from resjax.data.formats import cifar_archives, tfds_directory
from resjax.data.formats.mat_files import read_mat_file
from resjax.data.formats.restricted_pickle import load_batch
from resjax.data.images import BrokenImage, CentreCrop, EncodedImage, ImageStream, StreamConfig, open_folder
from resjax.data.masks import read_image
from resjax.errors import InputError
from tests.fuzz import files
from tests.helpers.voc_folder import encoded, write_voc


@pytest.fixture
def prepared(tmp_path):
    """A TFDS directory of CIFAR-10 whose shard holds no record."""
    version = files.described(tmp_path, "cifar10", "3.0.2", "tfrecord", {"test": 1}, 10)
    (version / "cifar10-test.tfrecord-00000-of-00001").write_bytes(files.framed([b"x"]))
    return version


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
@pytest.mark.parametrize("place", ["top", "label", "other"])
def test_no_module_that_a_data_folder_names_is_imported(prepared, tmp_path, monkeypatch, key, place):
    (tmp_path / "named_by_data.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    content = json.loads((prepared / "features.json").read_text())
    features = content["featuresDict"]["features"]
    features["other"] = {}
    part = {"top": content, "label": features["label"], "other": features["other"]}[place]
    part[key] = "named_by_data.Thing"
    (prepared / "features.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="names the class 'named_by_data.Thing', which is none of TFDS's features"):
        load_dataset("cifar10", "test", tmp_path)
    assert "named_by_data" not in sys.modules


def test_the_features_that_are_read_are_those_of_tfds():
    from tensorflow_datasets.core.features import feature

    registered = {name for name in feature.FeatureConnector._registered_features if not name.startswith("tests")}
    assert tfds_directory._FEATURES - registered == set()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"name": None}, "not a readable TFDS directory|says no name"),
        ({"splits": [{"name": "test", "shardLengths": [str(2**62)]}]}, "records, which do not fit into it"),
        ({"splits": [{"name": "test", "shardLengths": ["-1"]}]}, "records, which do not fit into it"),
        ({"splits": [{"name": "test", "shardLengths": ["20000"]}]}, "records, which do not fit into it"),
        ({"splits": [{"name": "test", "shardLengths": ["0"]}]}, "the split 'test' is empty"),
        ({"fileFormat": "a\nb"}, r"file format 'a\\\\x0ab'"),
    ],
)
def test_a_description_that_cannot_be_is_refused(prepared, edit, message):
    content = json.loads((prepared / "dataset_info.json").read_text()) | edit
    (prepared / "dataset_info.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_dataset("cifar10", "test", prepared)


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json", "label.labels.txt"])
def test_a_pipe_among_the_files_is_not_waited_for(prepared, tmp_path, file):
    (prepared / file).unlink()
    os.mkfifo(prepared / file)
    with pytest.raises(InputError):
        load_dataset("cifar10", "test", tmp_path)


def test_a_pipe_among_images_is_not_waited_for(tmp_path):
    root = write_voc(tmp_path, {"im0.png": b""}, {"im0.png": b""}, {"train": "im0\n"})
    (root / "JPEGImages" / "im0.png").unlink()
    os.mkfifo(root / "JPEGImages" / "im0.png")
    with pytest.raises(InputError, match="im0.png: no regular file"):
        load_masks("voc", "train", root)


def _nested(levels: int) -> list:
    inner: list = []
    for _ in range(levels):
        inner = [inner] * 9
    return inner


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps({"data": np.zeros(3, "O")}, 2), "holds an array of 'O8', not of 'u1'"),
        (pickle.dumps({"data": np.zeros(3, [("a", "u1")])}, 2), "holds an array of 'V1', not of 'u1'"),
        (b"}cnumpy\nndarray\n)R.", "tried to call numpy.ndarray"),
        (b"}]NNNb.", "tried to restore a NoneType"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", None),  # a place of the memory that Python's own would make room for
        (pickle.dumps({"data": (_nested(40),)}, 2), None),
        (b"c_codecs\nencode\n(X\x01\0\0\0a]\x86R.", "damaged pickle"),
        (b"X\x09\0\0\0aaaaaaaaaq\x00" + 9 * b"c_codecs\nencode\nh\x00X\6\0\0\0latin1\x86R", "damaged pickle"),
        (b"(" * 1000 + b"l" * 1000 + b".", "a CIFAR batch is a dictionary"),
        (b"}q\0h\0h\0s.", "damaged pickle"),
    ],
)
def test_a_batch_gives_bytes_numbers_and_lists_alone(data, message):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if message is None:
        load_batch(data, "batch")
    else:
        with pytest.raises(InputError, match=message):
            load_batch(data, "batch")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # in KiB


def test_copies_of_a_string_are_no_more_than_the_file():
    text = b"X\x10\x27\0\0" + b"a" * 10_000 + b"q\0"
    copy = b"c_codecs\nencode\nh\0X\6\0\0\0latin1\x86R"
    with pytest.raises(InputError, match="it copies its strings"):
        load_batch(b"]" + text + 50 * copy + b".", "batch")


@pytest.fixture
def small_archive(tmp_path, monkeypatch):
    """Writes a member in front of what an archive of ten images has."""
    layout = cifar_archives._LAYOUTS["cifar10"][0]._replace(batch_size={"train": 10, "test": 10})
    monkeypatch.setitem(cifar_archives._LAYOUTS, "cifar10", (layout,))
    whole = gzip.decompress(files.archive({"cifar-10-batches-bin/test_batch.bin": bytes(30_730)}))

    def write(member: bytes, behind: bytes = b"") -> None:
        (tmp_path / layout.archive).write_bytes(gzip.compress(member + whole, 1) + behind)
        with pytest.raises(InputError, match=f"{layout.archive}: (truncated or damaged|has .* more than)"):
            load_dataset("cifar10", "test", tmp_path)

    return write


@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"S"])
@pytest.mark.parametrize("size", [2**33, 2**62, 2**80])
def test_a_member_of_an_impossible_size_is_refused(small_archive, kind, size):
    member = tarfile.TarInfo("readme.html")
    member.type, member.size = kind, size
    small_archive(member.tobuf(tarfile.GNU_FORMAT))


def test_an_archive_that_unpacks_to_gigabytes_is_refused(small_archive):
    small_archive(b"", behind=files.gzip_of_zeros())


def test_zeros_behind_an_archive_are_not_read_one_by_one(small_archive, tmp_path):
    os.truncate(_sparse(tmp_path / "zeros"), 1 << 36)
    with pytest.raises(InputError):
        load_dataset("cifar10", "test", tmp_path)


def _sparse(path):
    path = path.with_name("cifar-10-binary.tar.gz")
    path.write_bytes(files.archive({"cifar-10-batches-bin/test_batch.bin": bytes(30_730)}))
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_are_read_as_scipy_reads_them(tmp_path, compressed):
    content = {
        "X": np.moveaxis(files.pixels(3, 4, 5, 2), 0, 3),
        "y": np.array([[1.0], [-2.5e300]]),
        "i": np.array([[2**40, -1]]),
        "t": "a text",
        "z": np.zeros((0, 3)),
        "s": {"a": np.float32(1.5), "b": "c"},
        "complex": np.array([1j]),
    }
    scipy.io.savemat(tmp_path / "a.mat", content, do_compression=compressed)
    found = read_mat_file(tmp_path / "a.mat", 1 << 20)
    expected = scipy.io.loadmat(tmp_path / "a.mat")
    for name in "Xyiz":
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].shape == expected[name].shape
    assert found["t"] == expected["t"][0] and found["complex"] is None
    (one,) = found["s"]
    assert one["a"].item() == 1.5 and one["b"] == "c"


def test_a_matlab_file_that_unpacks_to_more_than_it_may_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"X": np.zeros(1 << 22, np.uint8)}, do_compression=True)
    with pytest.raises(ValueError, match="larger than such a file unpacks to"):
        read_mat_file(tmp_path / "a.mat", 1 << 20)


@pytest.mark.parametrize(("width", "height"), [(2**31 - 1, 70_000), (20_000, 20_000), (10_000, 9000)])
def test_a_header_of_more_pixels_than_pillow_takes_is_refused(width, height):
    data = files.png(random.Random(0), width, height)
    with pytest.raises(BrokenImage, match="pixels|exceeds limit"), pytest.warns() if width < 15_000 else _nothing():
        EncodedImage(data)
    with pytest.raises(InputError, match="photo: "), pytest.warns() if width < 15_000 else _nothing():
        read_image(data, "photo")


class _nothing:
    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


def test_a_canvas_for_a_long_and_a_high_image_is_refused(tmp_path):
    shapes = {"im0.png": (30_000, 2), "im1.png": (2, 30_000)}
    images = {name: encoded(np.zeros(shape, np.uint8)) for name, shape in shapes.items()}
    root = write_voc(tmp_path, images, images, {"train": "im0\nim1\n"})
    with pytest.raises(InputError, match="2 images, each on a canvas of 30000 x 30000 pixels.*--longer_side"):
        load_masks("voc", "train", root)
    assert load_masks("voc", "train", root, longer_side=50).images.shape == (2, 50, 50, 3)


def test_small_files_that_unpack_to_gigabytes_are_refused_at_the_first(tmp_path):
    image = {"im0.png": encoded(np.zeros((4000, 4000), np.uint8))}
    root = write_voc(tmp_path, image, image, {"train": "im0\n" * 2000})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="files unpack to|2000 images, each on a canvas of 4000 x 4000"):
        load_masks("voc", "train", root)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 << 20  # in KiB


def test_a_split_with_a_name_too_long_is_not_found(tmp_path):
    with pytest.raises(InputError, match="not found"):
        load_masks("voc", "x" * 300, write_voc(tmp_path, {}, {}))
    root = write_voc(tmp_path, {}, {}, {"train": "y" * 300 + "/z\n", "latin1": b"\xe9\n"})
    with pytest.raises(InputError, match="line 1: the image is missing"):
        load_masks("voc", "train", root)
    with pytest.raises(InputError, match="latin1.txt: cannot be read as text"):
        load_masks("voc", "latin1", root)


def test_embedded_images_keep_their_labels_and_places(tmp_path):
    source = os.path.join(os.path.dirname(embedded.__file__), embedded.NAME)
    (tmp_path / embedded.NAME).mkdir()
    for name in os.listdir(source):
        os.symlink(os.path.join(source, name), tmp_path / embedded.NAME / name)
    assert len(load_dataset(embedded.NAME, "test", tmp_path).labels) == 1000
    sheets = json.loads((tmp_path / embedded.NAME / "sheets.json").read_text())
    cat, dog = sheets["test_cat.webp"], sheets["test_dog.webp"]
    cat["positions"], dog["positions"] = dog["positions"], cat["positions"]
    (tmp_path / embedded.NAME / "sheets.json").unlink()
    (tmp_path / embedded.NAME / "sheets.json").write_text(json.dumps(sheets))
    with pytest.raises(InputError, match="sheets.json: damaged: it is not that of cifar10_mini"):
        load_dataset(embedded.NAME, "test", tmp_path)


@pytest.fixture
def broken_folder(tmp_path):
    for name in ("a/0", "a/1", "b/0", "b/1"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(files.pixels(40, 40 + int(name[-1]), 3))[:200])
    return open_folder(tmp_path)


@pytest.mark.parametrize(
    ("seed", "batch_size", "message"),
    [
        (0, 2, "and so is every other"),
        (None, 2, "and so is every other"),
        (0, 4, "2 images to read: expected 4 or more"),
    ],
)
def test_a_stream_of_broken_images_says_so(broken_folder, seed, batch_size, message):
    config = StreamConfig((CentreCrop(32, 32),), batch_size, seed)
    with pytest.raises(InputError, match=message), ImageStream(broken_folder.train, config) as stream:
        for _ in range(3):
            next(stream)


def test_an_error_is_one_line_whatever_is_in_it():
    assert str(InputError("a\nb\x1b[31m")) == "a\\x0ab\\x1b[31m"


def test_a_list_of_labels_with_numbers_and_fields_without_end(tmp_path):
    for name in ("train/a/0.png", "train/b/0.png", "val/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(files.pixels(8, 8, 3)))
    for text in (f"0.png {'9' * 5000}", f"file,label\n0.png,{'9' * 200_000}"):
        (tmp_path / "val.txt").write_text(text)
        with pytest.raises(InputError, match=r"val.txt"):
            open_folder(tmp_path)
