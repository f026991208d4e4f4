"""The catalog, the embedded subset, and the known facts of the real CIFAR-10."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from resjax.data import dataset_info, list_datasets, load_dataset
from resjax.data.arrays import embedded
from resjax.errors import InputError


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cifar10_mini", "fashion_mnist", "mnist", "svhn_cropped"])
def test_catalog_entries_are_consistent(name):
    info = dataset_info(name)
    assert name in list_datasets() and info.name == name
    assert len(info.class_names) == len(set(info.class_names)) == info.num_classes
    assert len(info.mean) == len(info.std) == info.image_shape[2]
    assert all(0 <= mean < 255 for mean in info.mean) and all(0 < std <= 255 for std in info.std)
    with pytest.raises(TypeError):
        info.split_sizes["train"] = 1


def test_cifar100_classes_are_in_alphabetical_order():
    names = dataset_info("cifar100").class_names
    assert list(names) == sorted(names)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist", "svhn_cropped"])
def test_catalog_agrees_with_tfds(name, tmp_path):
    import tensorflow_datasets as tfds

    info, features = dataset_info(name), tfds.builder(name, data_dir=tmp_path).info.features
    assert features["image"].shape == info.image_shape
    assert features["label"].num_classes == info.num_classes


def test_names_of_classes_are_in_label_order(real_data_dir):
    labels = (real_data_dir / "cifar10" / "3.0.2" / "label.labels.txt").read_text().split()
    assert dataset_info("cifar10").class_names == dataset_info("cifar10_mini").class_names == tuple(labels)


@pytest.mark.parametrize(
    ("name", "split", "nearest"),
    [("cifar11", "train", "'cifar10'"), ("fashion-mnist", "train", "'fashion_mnist'"), ("cifar10", "tets", "'test'")],
)
def test_unknown_name_or_split_names_the_nearest(name, split, nearest):
    with pytest.raises(InputError, match=f"did you mean .*{nearest}"):
        load_dataset(name, split)


def test_data_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match="expected a folder, found a file"):
        load_dataset("cifar10", "test", tmp_path / "cifar-10-binary.tar.gz")


def test_data_dir_that_cannot_be_searched_is_an_input_error():
    with pytest.raises(InputError, match="^data_dir x.*check the path and its permissions$"):
        load_dataset("cifar10", "test", "x" * 5000)


@pytest.mark.parametrize("split", ["train", "test"])
def test_mini_is_balanced_and_not_sorted_by_class(split):
    images, labels = load_dataset("cifar10_mini", split)
    assert images.shape == (len(labels), 32, 32, 3) and images.dtype == np.uint8 and labels.dtype == np.int32
    assert np.bincount(labels).tolist() == [{"train": 500, "test": 100}[split]] * 10
    # Independent draws from ten classes differ from their neighbour nine times in ten.
    assert 0.85 < np.mean(labels[1:] != labels[:-1]) < 0.95


@pytest.mark.parametrize("split", ["train", "test"])
def test_mini_is_the_first_images_of_each_class(real_data_dir, real_train, split):
    real = real_train if split == "train" else load_dataset("cifar10", split, real_data_dir)
    mini = load_dataset("cifar10_mini", split)
    per_class = {"train": 500, "test": 100}[split]
    first = np.sort(np.concatenate([np.flatnonzero(real.labels == label)[:per_class] for label in range(10)]))
    np.testing.assert_array_equal(mini.images, real.images[first])
    np.testing.assert_array_equal(mini.labels, real.labels[first])
    sheets = json.loads((Path(embedded.__file__).parent / "cifar10_mini" / "sheets.json").read_text())
    listed = [sheet["positions"] for file, sheet in sheets.items() if file.startswith(split)]
    np.testing.assert_array_equal(np.sort(np.concatenate(listed)), first)


def test_mini_says_what_it_is():
    assert "subset" in dataset_info("cifar10_mini").description
    assert "not CIFAR-10 errors" in dataset_info("cifar10_mini").description


def test_files_of_mini_are_small():
    sizes = [path.stat().st_size for path in (Path(embedded.__file__).parent / "cifar10_mini").iterdir()]
    assert len(sizes) == 21 and max(sizes) < 2_000_000 and sum(sizes) < 10_500_000


@pytest.fixture
def mini_copy(tmp_path):
    shutil.copytree(Path(embedded.__file__).parent / "cifar10_mini", tmp_path / "cifar10_mini")
    return tmp_path


def test_mini_from_a_data_dir_that_has_it(mini_copy, monkeypatch, tmp_path):
    expected = load_dataset("cifar10_mini", "test")
    monkeypatch.setattr(embedded, "__file__", str(tmp_path / "site-packages" / "embedded.py"))  # a wheel has no images
    np.testing.assert_array_equal(load_dataset("cifar10_mini", "test", mini_copy).images, expected.images)
    with pytest.raises(InputError, match="clone the repository.*--data_dir"):
        load_dataset("cifar10_mini", "test")


@pytest.mark.parametrize("damage", ["truncated", "missing", "swapped"])
def test_damaged_sheet_of_mini_is_named(mini_copy, damage):
    sheet = mini_copy / "cifar10_mini" / "test_cat.webp"
    if damage == "truncated":
        sheet.write_bytes(sheet.read_bytes()[:5000])
    elif damage == "missing":
        sheet.unlink()
    else:
        shutil.copy(sheet.with_name("test_dog.webp"), sheet)
    with pytest.raises(InputError, match="test_cat.webp: .*damaged.*restore it from the repository"):
        load_dataset("cifar10_mini", "test", mini_copy)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: text[:-3], ".*damaged; restore the folder"),
        (lambda text: text.replace("test_cat.webp", "test_lion.webp"), "damaged: it is not that of cifar10_mini"),
        (lambda text: json.dumps(json.loads(text) | {"test_cat.webp": {**json.loads(text)["test_cat.webp"],
                                                                       "positions": [1]}}),
         "damaged: it is not that of cifar10_mini"),
    ],
)  # fmt: skip
def test_a_damaged_list_of_the_sheets_of_mini_is_named(mini_copy, edit, said):
    sheets = mini_copy / "cifar10_mini" / "sheets.json"
    sheets.write_text(edit(sheets.read_text()))
    with pytest.raises(InputError, match=f"sheets.json: {said}"):
        load_dataset("cifar10_mini", "test", mini_copy)


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(InputError, match="dataset name: expected a string, got 10 .*cifar10"):
        dataset_info(10)


def test_facts_of_cifar10_train(real_train):
    images, labels = real_train
    assert labels[:5].tolist() == [6, 9, 9, 4, 1]  # the labels of data_batch_1
    assert np.bincount(labels).tolist() == [5000] * 10
    info = dataset_info("cifar10")
    counts = np.stack([np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(3)])
    mean = counts @ np.arange(256) / counts.sum(1)
    np.testing.assert_allclose(mean, info.mean, atol=0.1)
    np.testing.assert_allclose(np.sqrt(counts @ np.arange(256) ** 2 / counts.sum(1) - mean**2), info.std, atol=0.1)


def test_facts_of_cifar10_test(real_data_dir):
    labels = load_dataset("cifar10", "test", real_data_dir).labels
    assert labels[:5].tolist() == [3, 8, 8, 0, 6]  # the labels of test_batch
    assert np.bincount(labels).tolist() == [1000] * 10


def test_official_order_is_the_order_of_ids(real_data_dir):
    import tensorflow_datasets as tfds

    images, labels = load_dataset("cifar10", "test", real_data_dir)
    source = tfds.builder_from_directory(real_data_dir / "cifar10" / "3.0.2").as_data_source("test")
    for example in (source[stored] for stored in range(0, 10_000, 501)):
        position = int(example["id"].decode().removeprefix("test_"))
        np.testing.assert_array_equal(images[position], example["image"])
        assert labels[position] == example["label"]
