"""Arrays of other people's making, in the layouts in which they are published: read right, or refused in one line."""

import contextlib
import gzip
import json
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest

from resjax.data import Dataset, dataset_info, identity, load_dataset
from resjax.data.arrays.files import open_arrays
from resjax.errors import InputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 10, 12, 3), np.uint8)
LABELS = RNG.permutation(np.arange(60) % 5)
TRAIN, TEST = slice(0, 40), slice(40, 60)
KERAS = {"x_train": IMAGES[TRAIN], "y_train": LABELS[TRAIN], "x_test": IMAGES[TEST], "y_test": LABELS[TEST]}


def own(split, path) -> Dataset:
    return load_dataset("arrays", split, path)


def npz(folder: Path, name="own.npz", **arrays) -> Path:
    np.savez(folder / name, **arrays)
    return folder / name


def assert_same(dataset, images, labels):
    assert dataset.images.dtype == np.uint8 and dataset.images.flags.c_contiguous and dataset.labels.dtype == np.int32
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),  # Keras
        ("train_images", "train_labels", "test_images", "test_labels"),  # MedMNIST
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("trainImages", "trainLabels", "testImages", "testLabels"),
        ("xtrain", "ytrain", "xtest", "ytest"),
        ("training/data", "training/targets", "testing/data", "testing/targets"),
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_usual_names_in_an_npz(tmp_path, names, save):
    arrays = dict(zip(names, KERAS.values(), strict=True)) | {"ids": np.arange(7)}
    save(tmp_path / "own.npz", **arrays)
    info = dataset_info("arrays", tmp_path / "own.npz")
    assert dict(info.split_sizes) == {"train": 40, "test": 20}
    assert (info.num_classes, info.image_shape, info.class_names) == (5, (10, 12, 3), tuple("01234"))
    np.testing.assert_allclose(info.mean, IMAGES[TRAIN].mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(info.std, IMAGES[TRAIN].std((0, 1, 2)), rtol=1e-12)
    assert "not read: ids" in info.description
    assert_same(own("train", tmp_path / "own.npz"), IMAGES[TRAIN], LABELS[TRAIN])
    assert_same(own("test", tmp_path), IMAGES[TEST], LABELS[TEST])


def test_medmnist_gray_with_a_column_of_labels_and_a_validation_split(tmp_path):
    gray, column = IMAGES[..., 0], LABELS[:, None].astype(np.uint8)
    bounds = {"train": slice(0, 30), "val": slice(30, 40), "test": slice(40, 60)}
    arrays = {f"{name}_images": gray[part] for name, part in bounds.items()}
    path = npz(tmp_path, **arrays, **{f"{name}_labels": column[part] for name, part in bounds.items()})
    info = dataset_info("arrays", path)
    assert dict(info.split_sizes) == {"train": 30, "validation": 10, "test": 20} and info.image_shape == (10, 12, 1)
    np.testing.assert_allclose(info.mean, [gray[:30].mean()])
    for split, part in zip(("train", "validation", "test"), bounds.values(), strict=True):
        assert_same(own(split, path), gray[part, ..., None], LABELS[part])


def test_chest_mnist_with_several_labels_an_image_is_refused(tmp_path):
    labels = RNG.integers(0, 2, (60, 14))
    path = npz(tmp_path, train_images=IMAGES, train_labels=labels)
    with pytest.raises(InputError, match=r"own.npz: train_labels: .*\[60, 14\]: several labels an image.*choose one"):
        own("train", path)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, bool])
def test_one_hot_labels_are_their_classes(tmp_path, dtype):
    one_hot = np.eye(6, dtype=dtype)[LABELS]  # the sixth class has no image
    path = npz(tmp_path, x_train=IMAGES, y_train=one_hot)
    assert dataset_info("arrays", path).num_classes == 6
    assert_same(own("train", path), IMAGES, LABELS)


def test_cifar_10_c(tmp_path):
    """Five severities of each corruption in a file, the labels once for all of them."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    labels = np.tile(LABELS[:12], 5).astype(np.uint8)
    corruptions = {"fog": IMAGES, "gaussian_noise": 255 - IMAGES, "contrast": IMAGES // 2}
    for name, images in corruptions.items():
        np.save(folder / f"{name}.npy", images)
    np.save(folder / "labels.npy", labels)
    assert dict(dataset_info("arrays", folder).split_sizes) == dict.fromkeys(sorted(corruptions), 60)
    for name, images in corruptions.items():
        assert_same(own(name, tmp_path), images, labels)
        assert_same(own("test", folder / f"{name}.npy"), images, labels)
    with pytest.raises(InputError, match="unknown split of arrays 'test'.*fog"):
        own("test", folder)


def test_cifar_10_1(tmp_path):
    """Two versions in one folder, as the repository has them; one alone is "all", and what to test on."""
    parts = {"v4": slice(0, 21), "v6": slice(21, 60)}
    for version, part in parts.items():
        np.save(tmp_path / f"cifar10.1_{version}_data.npy", IMAGES[part])
        np.save(tmp_path / f"cifar10.1_{version}_labels.npy", LABELS[part].astype(np.int32))
    assert dict(dataset_info("arrays", tmp_path).split_sizes) == {"cifar10_1_v4": 21, "cifar10_1_v6": 39}
    assert_same(own("cifar10_1_v6", tmp_path), IMAGES[parts["v6"]], LABELS[parts["v6"]])
    assert_same(own("all", tmp_path / "cifar10.1_v4_data.npy"), IMAGES[parts["v4"]], LABELS[parts["v4"]])
    for file in tmp_path.glob("*v4*"):
        file.unlink()
    assert_same(own("test", tmp_path), IMAGES[parts["v6"]], LABELS[parts["v6"]])


def test_train_and_test_in_files_of_their_own(tmp_path):
    for split, part in (("train", TRAIN), ("test", TEST)):
        npz(tmp_path, f"{split}.npz", images=IMAGES[part], labels=LABELS[part])
    assert_same(own("train", tmp_path), IMAGES[TRAIN], LABELS[TRAIN])
    assert_same(own("test", tmp_path), IMAGES[TEST], LABELS[TEST])


def test_arrays_without_names_are_told_by_their_shape(tmp_path):
    np.savez(tmp_path / "own.npz", IMAGES, LABELS)
    assert_same(own("all", tmp_path / "own.npz"), IMAGES, LABELS)


def _stl10(folder: Path, split: str, images: np.ndarray, labels: np.ndarray):
    folder.mkdir(exist_ok=True)
    # Byte by byte as the authors say: red, green, blue, each column by column.
    stored = b"".join(
        bytes([image[row, column, channel]])
        for image in images
        for channel in range(3)
        for column in range(96)
        for row in range(96)
    )
    (folder / f"{split}_X.bin").write_bytes(stored)
    (folder / f"{split}_y.bin").write_bytes(bytes((labels + 1).tolist()))


def test_stl10(tmp_path):
    images, labels = RNG.integers(0, 256, (4, 96, 96, 3), np.uint8), np.array([9, 0, 3, 4])
    folder = tmp_path / "stl10_binary"
    _stl10(folder, "train", images[:3], labels[:3])
    _stl10(folder, "test", images[3:], labels[3:])
    (folder / "unlabeled_X.bin").write_bytes(b"")
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    assert dataset_info("arrays", tmp_path).class_names == tuple(names)
    assert_same(own("train", tmp_path), images[:3], labels[:3])
    assert_same(own("test", folder), images[3:], labels[3:])
    (folder / "train_y.bin").write_bytes(b"\0\1\2")
    with pytest.raises(InputError, match=r"train_y.bin: STL-10's labels are 1 to 10, found 0 to 2"):
        own("train", folder)
    (folder / "train_y.bin").write_bytes(b"\1\2")
    with pytest.raises(InputError, match=r"train_y.bin: expected 3 bytes, one for each image"):
        own("train", folder)
    (folder / "train_X.bin").write_bytes(b"\1" * 27_649)
    with pytest.raises(InputError, match=r"train_X.bin: truncated .*multiple of 27,648 bytes"):
        own("train", folder)
    (folder / "train_X.bin").unlink()
    with pytest.raises(InputError, match=r"train_X.bin: missing beside train_y.bin"):
        own("train", folder)


def _idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("stem", ["", "emnist-letters-"])
def test_idx_files_of_any_size(tmp_path, packed, stem):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, part in (("train", TRAIN), ("t10k" if not stem else "test", TEST)):
        for kind, array in (("images-idx3", IMAGES[part, ..., 0]), ("labels-idx1", LABELS[part])):
            path = raw / f"{stem}{split}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(_idx(array)) if packed else _idx(array))
    assert_same(own("train", tmp_path), IMAGES[TRAIN, ..., :1], LABELS[TRAIN])
    assert_same(own("test", raw), IMAGES[TEST, ..., :1], LABELS[TEST])
    with pytest.raises(InputError, match="an IDX file; give the folder"):
        own("test", path)


@pytest.mark.parametrize("where", ["{0}/raw", "{0}", "{1}", "{1}/raw"])
@pytest.mark.parametrize("packed", ["-ubyte", "-ubyte.gz", "dot"])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_where_torchvision_and_debian_put_it(tmp_path, make_synthetic, monkeypatch, name, packed, where):
    folders = {"mnist": ("MNIST", "mnist"), "fashion_mnist": ("FashionMNIST", "fashion-mnist")}
    other = {"mnist": "FashionMNIST", "fashion_mnist": "MNIST"}[name]
    expected = make_synthetic(name, "test")
    for folder, images in (
        (tmp_path / where.format(*folders[name]), expected.images),
        (tmp_path / other / "raw", 255 - expected.images),
    ):
        folder.mkdir(parents=True)
        for stem, array in (("t10k-images-idx3", images[..., 0]), ("t10k-labels-idx1", expected.labels)):
            file = f"{stem.replace('-idx', '.idx')}-ubyte" if packed == "dot" else stem + packed
            (folder / file).write_bytes(gzip.compress(_idx(array), 1) if file.endswith("gz") else _idx(array))
    for data_dir in (tmp_path, tmp_path / where.format(*folders[name])):
        assert_same(load_dataset(name, "test", data_dir), expected.images, expected.labels)
    (lost,) = (tmp_path / where.format(*folders[name])).glob("t10k-labels*")
    lost.unlink()
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte.gz: missing"):
        load_dataset(name, "test", tmp_path)


WRONG = {
    "channels first": (
        {"x": IMAGES.transpose(0, 3, 1, 2)},
        r"\[60, 3, 10, 12\], which has the channels first; .*transp",
    ),
    "0 to 1": ({"x": IMAGES / np.float32(255)}, r"found float32 \[60, 10, 12, 3\].*\(255 \* images\)"),
    "int64 pixels": ({"x": IMAGES.astype(np.int64)}, r"found int64 \[60, 10, 12, 3\]; save values from 0 to 255"),
    "flat": ({"x": IMAGES.reshape(60, -1)}, r"found uint8 \[60, 360\]; save images.reshape"),
    "no images": ({"x": IMAGES[:0], "y": LABELS[:0]}, "there are no images in it"),
    "one colour": ({"x": np.full_like(IMAGES, 7)}, "every pixel of every image is the same"),
    "objects": ({"x": np.array([IMAGES[0], IMAGES[1, 1:]], object)}, "x: holds Python objects.*never loaded"),
    "object labels": ({"y": LABELS.astype(object)}, "y: holds Python objects.*never loaded"),
    "too few labels": ({"y": LABELS[1:]}, "y: 59 labels for the 60 images of x"),
    "float labels": ({"y": LABELS + 0.5}, r"found float64 \[60\]; save whole numbers"),
    "NaN": ({"y": np.where(LABELS == 1, np.nan, LABELS)}, r"found float64 \[60\], 12 of them NaN"),
    "negative": ({"y": LABELS - 1}, r"y: label -1 of image \d+; expected labels from 0"),
    "huge": ({"y": LABELS.astype(np.uint64) + np.uint64(2**63)}, r"y: label 92233720368547758\d\d; expected labels"),
    "strings": ({"y": LABELS.astype(str)}, r"found <U21 \[60\]; save .*return_inverse"),
    "no one-hot": ({"y": np.eye(5)[LABELS] / 2}, "whose rows are not one-hot"),
    "pairs": ({"y": np.stack([LABELS, LABELS], 1)}, "whose rows are not one-hot"),
    "cube": ({"y": np.zeros((60, 1, 1), int)}, r"found int64 \[60, 1, 1\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_an_array_is_one_line(tmp_path, case):
    changes, message = WRONG[case]
    path = npz(tmp_path, **({"x": IMAGES, "y": LABELS} | changes))
    with pytest.raises(InputError, match=message) as caught:
        own("all", path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


WRONG_SETS = {
    "from one": (
        {"y_train": LABELS[TRAIN] + 1, "y_test": LABELS[TEST] + 1},
        r"labels are 1 to 5, none is 0.*labels - 1",
    ),
    "255 is no label": ({"y_train": np.where(LABELS[TRAIN] == 4, 255, LABELS[TRAIN])}, "5 different labels, up to 255"),
    "one class": ({"y_train": np.zeros(40, int), "y_test": np.zeros(20, int)}, "all training images have the label 0"),
    "two sizes": ({"x_test": IMAGES[TEST, :9]}, r"different sizes: x_train \[10, 12, 3\], x_test \[9, 12, 3\]"),
    "two widths": ({"y_train": np.eye(5)[LABELS[TRAIN]], "y_test": np.eye(6)[LABELS[TEST]]}, "train 5, test 6"),
    "beyond the names": ({"class_names": np.array(["a", "b", "c"])}, "label 4 of image .*expected 0 to 2.*3 classes"),
    "a name twice": ({"class_names": np.array(list("abcda"))}, "'a' twice"),
    "two of training": ({"train_images": IMAGES[TRAIN]}, "x_train and train_images are both images of 'train'"),
    "two labels": (
        {"y_fine_train": LABELS[TRAIN], "y_coarse_train": LABELS[TRAIN], "y_train": None},
        "several arrays of",
    ),
    "a third": ({"images": IMAGES, "labels": LABELS}, "of which split is images"),
}


@pytest.mark.parametrize("case", WRONG_SETS)
def test_what_is_wrong_with_a_data_set_is_one_line(tmp_path, case):
    changes, message = WRONG_SETS[case]
    path = npz(tmp_path, **{name: array for name, array in (KERAS | changes).items() if array is not None})
    with pytest.raises(InputError, match=message) as caught:
        dataset_info("arrays", path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_classes_without_an_image_are_said(tmp_path, caplog):
    labels = np.where(LABELS == 3, 2, LABELS)
    path = npz(tmp_path, **KERAS | {"y_train": labels[TRAIN]}, class_names=np.array(["a", "b", "c", "d", "e"]))
    assert dataset_info("arrays", path).class_names == tuple("abcde")
    assert "no training image of 1 of 5 classes: d" in caplog.text
    with caplog.at_level(logging.WARNING):
        assert dataset_info("arrays", npz(tmp_path, "eval.npz", images=IMAGES, labels=LABELS + 1)).num_classes == 6
    assert "labels 1 to 5, none is 0; if they count from 1" in caplog.text


def test_a_channel_of_one_value_does_not_divide_by_zero(tmp_path):
    alpha = np.concatenate([IMAGES, np.full((60, 10, 12, 1), 255, np.uint8)], -1)
    info = dataset_info("arrays", npz(tmp_path, x_train=alpha, y_train=LABELS))
    assert info.image_shape == (10, 12, 4) and info.mean[3] == info.std[3] == 255


def test_statistics_are_exact_on_extreme_pixels(tmp_path):
    """Sums of white images are the largest that float32 must hold without rounding."""
    white = np.full((700, 3, 3), 255, np.uint8)
    white[0, 0, 0] = 0
    info = dataset_info("arrays", npz(tmp_path, x_train=white, y_train=np.arange(700) % 2))
    np.testing.assert_allclose([*info.mean, *info.std], [white.mean(), white.std()], rtol=1e-10)


def test_files_that_are_no_arrays_are_said(tmp_path):
    for name, data, said in (
        ("a.npz", b"", "found an empty file"),
        ("b.npz", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("c.npz", b"<!DOCTYPE html>", "a web page"),
        ("d.pkl", b"\x80\x04K\x01.", "a pickle, which is never loaded"),
        ("e.h5", b"\x89HDF\r\n", "an HDF5 file"),
        ("f.txt", b"hello", "another kind of file"),
        ("g.npz", b"PK\x03\x04 and no more", "g.npz: no NumPy file, or a truncated"),
        ("h.npy", b"\x93NUMPY\x01\x00", "h.npy: no NumPy file, or a truncated"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=said):
            own("train", tmp_path / name)
    for missing, said in ((tmp_path / "none", "not found"), (None, "say with --data_dir")):
        with pytest.raises(InputError, match=said):
            own("train", missing)
    with pytest.raises(InputError, match=".npz files and .npy files; give the one"):
        own("train", tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no arrays there; expected .*found nothing"):
        own("train", empty)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_or_flipped_npz_is_named(tmp_path, save):
    save(tmp_path / "own.npz", **KERAS)
    whole = (tmp_path / "own.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[400] ^= 1
    for data in (whole[: len(whole) // 2], whole[:-30], bytes(flipped)):
        (tmp_path / "own.npz").write_bytes(data)
        with pytest.raises(InputError, match="own.npz: .*truncated or damaged"):
            own("train", tmp_path / "own.npz")


def _header(shape, dtype="|u1") -> bytes:
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "shape", [(10**9, 32, 32, 3), (2**62, 4, 4, 3), (60, 10, 12, 4), (60, 10, 12, 2), (-60, 10, 12, 3)]
)
@pytest.mark.parametrize("form", ["npy", "npz"])
def test_a_header_that_lies_about_its_size_is_refused_before_anything_is_allocated(tmp_path, form, shape):
    data = _header(shape) + IMAGES.tobytes()
    np.save(tmp_path / "labels.npy", LABELS)
    if form == "npy":
        (tmp_path / "images.npy").write_bytes(data)
        path = tmp_path / "images.npy"
    else:
        path = tmp_path / "own.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", data)
            archive.write(tmp_path / "labels.npy", "labels.npy")
    with pytest.raises(InputError, match="images.*: .*damaged.*its header says"):
        own("all", path)


def _with_flags(path: Path, flags: int) -> None:
    """Sets bits of each member's flags in an archive's directory."""
    data, place = bytearray(path.read_bytes()), -1
    while (place := data.find(b"PK\x01\x02", place + 1)) >= 0:
        data[place + 8] |= flags
    path.write_bytes(data)


def test_an_array_whose_name_is_damaged_in_the_list_of_an_npz_is_not_passed_over(tmp_path):
    path = npz(tmp_path, **KERAS, class_names=np.array(list("abcd")))
    place = (data := bytearray(path.read_bytes())).rindex(b"class_names.npy")
    data[place + len("class_names.np")] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="own.npz: no NumPy file, or a truncated or damaged one"):
        own("train", path)


def test_an_encrypted_npz_a_name_that_occurs_twice_and_another_version_are_refused(tmp_path):
    path = npz(tmp_path, **KERAS)
    _with_flags(path, 1)
    with pytest.raises(InputError, match="own.npz: x_train: encrypted; save it again without"):
        own("train", path)
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for _ in range(2):
            archive.writestr("images.npy", _header((1, 2, 2, 3)) + bytes(12))
    with pytest.raises(InputError, match="own.npz: holds 'images.npy' twice"):
        own("train", path)
    with (tmp_path / "images.npy").open("wb") as file:
        np.lib.format.write_array(file, IMAGES, version=(3, 0))
    with pytest.raises(InputError, match=r"images.npy: version \(3, 0\) of the .npy format"):
        own("all", tmp_path / "images.npy")


def test_a_member_without_a_name_is_refused_or_passed_over(tmp_path):
    path = npz(tmp_path, **KERAS)
    member = zipfile.ZipInfo("x")
    member.filename = ""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, b"x")
    with contextlib.suppress(InputError):  # Python before 3.12 cannot say whether such a member is a folder
        np.testing.assert_array_equal(own("train", path).images, KERAS["x_train"])


def test_a_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as file:
            file.write(_header((100_000, 32, 32, 3)))
            for _ in range(100):
                file.write(bytes(3_072_000))
        archive.writestr("labels.npy", _header((100_000,)) + bytes(100_000))
    assert (tmp_path / "own.npz").stat().st_size < 400_000
    with pytest.raises(InputError, match="own.npz: images: refused: .* bytes say they unpack to 307,200,128"):
        own("all", tmp_path / "own.npz")


def test_an_array_larger_than_memory_is_refused(tmp_path):
    with (tmp_path / "images.npy").open("wb") as file:  # sparse: nothing is written
        file.write(_header((10**9, 32, 32, 3)))
        file.truncate(128 + 3072 * 10**9)
    np.save(tmp_path / "labels.npy", LABELS)
    with pytest.raises(InputError, match=r"images.npy: uint8 \[1000000000, 32, 32, 3\] takes .* of memory"):
        own("all", tmp_path)


def test_a_pickle_in_an_array_never_runs(tmp_path):
    marker = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return exec, (f"open({str(marker)!r}, 'w').close()",)

    stored = np.empty(1, object)
    stored[0] = Malicious()
    np.save(tmp_path / "images.npy", stored)
    np.save(tmp_path / "labels.npy", LABELS)
    with pytest.raises(InputError, match="images.npy: .*Python objects"):
        own("all", tmp_path)
    assert not marker.exists()
    np.load(tmp_path / "images.npy", allow_pickle=True)
    assert marker.exists()  # it is malicious


def test_images_that_change_between_description_and_reading_are_refused(tmp_path):
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "images.npy", IMAGES)
    found = open_arrays(tmp_path)
    np.save(tmp_path / "images.npy", IMAGES[:, 1:])
    with pytest.raises(InputError, match="images.npy: changed while it was read; start again"):
        found.load("test")


def test_a_folder_and_class_names_that_cannot_be_read_are_said(tmp_path, monkeypatch):
    path = npz(tmp_path, **KERAS)
    (tmp_path / "class_names.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match="class_names.txt: cannot be read as text"):
        own("train", path)

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=f"data_dir {tmp_path}: cannot be read .*Permission denied.*check the path"):
        own("train", tmp_path)


def test_arrays_of_neither_images_nor_labels_are_listed(tmp_path):
    with pytest.raises(InputError, match="no images with labels; expected arrays with names .*ids.*int64"):
        own("train", npz(tmp_path, ids=np.arange(7), weights=np.ones(7)))


def test_a_file_that_has_changed_is_described_anew(tmp_path):
    path = npz(tmp_path, **KERAS)
    before = dataset_info("arrays", path)
    assert dataset_info("arrays", path) is before  # the training images are read once
    npz(tmp_path, **KERAS | {"y_test": LABELS[TEST] + 1})
    assert (before.num_classes, dataset_info("arrays", path).num_classes) == (5, 6)


def test_identity_tells_every_pixel_and_label_and_not_where_they_lie(tmp_path):
    info, data = dataset_info("arrays", npz(tmp_path, **KERAS)), Dataset(IMAGES[TRAIN], LABELS[TRAIN])
    recorded = identity(info, {"train": data})
    assert json.loads(json.dumps(recorded)) == recorded
    assert recorded["class_names"] == list("01234") and recorded["splits"]["train"]["images"] == 40
    (tmp_path / "elsewhere").mkdir()
    there = npz(tmp_path / "elsewhere", train_images=IMAGES[TRAIN], train_labels=np.eye(5)[LABELS[TRAIN]])
    assert identity(dataset_info("arrays", there), {"train": own("train", there)}) == recorded
    labels, pixels = LABELS[TRAIN].copy(), IMAGES[TRAIN].copy()
    labels[[3, 4]] = (labels[[3, 4]] + 1) % 5
    pixels[39, 9, 11, 2] ^= 1
    others = (
        Dataset(IMAGES[TRAIN], labels),
        Dataset(pixels, LABELS[TRAIN]),
        Dataset(IMAGES[TRAIN].reshape(40, 12, 10, 3), LABELS[TRAIN]),
        Dataset(IMAGES[:41], LABELS[:41]),
    )
    fingerprints = {identity(info, {"train": other})["splits"]["train"]["fingerprint"] for other in (data, *others)}
    assert len(fingerprints) == 5


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("own.npz", "holds own.npz, but no mnist.*--dataset arrays"),
        ("cats/a.jpg", "holds cats/, but no mnist; looked for"),
    ],
)
def test_a_folder_that_is_not_understood_is_said_and_nothing_is_downloaded_into_it(tmp_path, monkeypatch, file, said):
    from resjax.data.arrays import loading

    monkeypatch.setattr(loading, "download_and_prepare", lambda *_, **__: pytest.fail("a download"))
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(InputError, match=said):
        load_dataset("mnist", "train", tmp_path)
    half = tmp_path / "data" / "mnist"
    half.mkdir(parents=True)
    (half / "notes.txt").write_text("")
    (tmp_path / "data" / "downloads").mkdir()
    with pytest.raises(InputError, match="found .*mnist, but no mnist in it: it holds notes.txt"):
        load_dataset("mnist", "train", tmp_path / "data")
    with pytest.raises(InputError, match="expected a folder, found a file"):
        load_dataset("mnist", "train", half / "notes.txt")
    with pytest.raises(InputError, match="has no cifar10_mini/; leave --data_dir out"):
        load_dataset("cifar10_mini", "train", tmp_path)


def test_a_data_directory_of_other_data_sets_is_downloaded_into(tmp_path, monkeypatch):
    from resjax.data.arrays import loading

    def download(info, root, looked_for):
        raise InputError(f"downloads {info.name} into {root}")

    monkeypatch.setattr(loading, "download_and_prepare", download)
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    (tmp_path / "cifar10" / "3.0.2" / "dataset_info.json").write_text("{}")
    (tmp_path / "mnist" / "3.0.1.incompleteABCDEF_mnist").mkdir(parents=True)
    with pytest.raises(InputError, match="downloads mnist into"):
        load_dataset("mnist", "train", tmp_path)


def test_a_download_that_leaves_nothing_behind_is_said(tmp_path, monkeypatch):
    from resjax.data.arrays import loading

    monkeypatch.setattr(loading, "download_and_prepare", lambda *_, **__: None)
    with pytest.raises(InputError, match="has no mnist in it after its download; looked for mnist/VERSION"):
        load_dataset("mnist", "train", tmp_path / "new")
