"""Folders as people and archives lay them out: right splits, classes and labels, or a line that says what is wrong."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from resjax.data.images import open_evaluation, open_folder, open_images
from resjax.data.images.layout import sorted_classes, split_role
from resjax.errors import InputError


def _picture(kind="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, kind)
    return buffer.getvalue()


PICTURE = _picture()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def _plant(folder, *places, count=3, suffix=".jpg"):
    """`count` images in each place."""
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (folder / place / f"{number}{suffix}").write_bytes(PICTURE)
    return folder


def _labels(source, names):
    """{file: name of its class}."""
    return {source.name(i).rsplit("/", 1)[-1]: names[source.read(i)[1]] for i in range(len(source))}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "val"), ("Train", "Test"), ("TRAIN", "VAL"), ("Training", "Testing"), ("training_set", "test_set"),
        ("train", "valid"), ("train_images", "validation_images"), ("TrainingSet", "TestSet"), ("trainset", "testset"),
        ("seg_train/seg_train", "seg_test/seg_test"), ("training_set/training_set", "test_set/test_set"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"), ("train2017", "val2017"), ("train-data", "Validation data"),
    ],
)  # fmt: skip
def test_splits_are_splits_by_any_of_their_names(photos, train, test):
    _plant(photos, f"{train}/cat", f"{train}/dog", count=4)
    _plant(photos, f"{test}/cat", f"{test}/dog", count=2)
    (photos / "annotations").mkdir()
    found = open_folder(photos)
    assert found.class_names == ("cat", "dog") and (len(found.train), len(found.test)) == (8, 4)
    assert found.test_split in ("val", "test") and any("annotations" in note for note in found.notes)
    evaluated = open_evaluation("folder", photos)
    assert len(evaluated.images) == 4 and evaluated.identity()["splits"]["test"] == found.identity()["splits"]["test"]


def test_names_that_are_no_splits_are_classes(photos):
    assert [split_role(name) for name in ("trainer", "steam_train", "tested", "cat", "images", "2017", "")] == [
        None
    ] * 7
    assert [split_role(name) for name in ("My-Train", "val_train", "train_extra")] == [None] * 3
    assert open_folder(_plant(photos, "train", "bus", "tram")).class_names == ("bus", "train", "tram")


def test_validation_is_tested_on_where_a_test_folder_lies_beside_it(photos):
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        _plant(photos, f"{split}/a", f"{split}/b", count=count)
    found = open_folder(photos)
    assert (
        len(found.test) == 4 and found.test_split == "val" and any("test is not read" in note for note in found.notes)
    )
    sizes = {split: len(open_evaluation("folder", photos, split).images) for split in (None, "val", "test", "train")}
    assert sizes == {None: 4, "val": 4, "test": 2, "train": 8}


REFUSED = {
    "a flat val": (("train/a", "train/b", "val"), r"val: holds 3 images and nothing says their classes"),
    "a flat VAL": (("train/a", "train/b", "VAL"), r"VAL: holds 3 images and nothing says their classes"),
    "flat splits only": (("train", "test"), r"train: holds 3 images and no class folders"),
    "flat splits beside others": (("train", "test", "samples"), "name of a split"),
    "a flat test among classes": (("cat", "dog", "test"), "test: holds images, as the class folders"),
    "a split without training": (("val/a", "val/b"), "no folder `train`"),
    "one folder around classes": (("photos/cat", "photos/dog"), r"give --data_dir .*/photos"),
    "one folder around splits": (("d/train/a", "d/train/b", "d/val/a"), r"give --data_dir .*/d"),
    "two folders around classes": (("x/y/cat", "x/y/dog"), r"give --data_dir .*/x"),
    "classes that hold folders": (("2019/cat", "2019/dog", "2020/cat", "2020/dog"), "only the folders cat, dog"),
    "one class that holds folders": (("cat", "dog/old", "dog/young"), "dog: holds no image of its own"),
    "splits in classes": (("cat/train", "cat/val", "dog/train", "dog/val"), "only the folders train, val"),
    "a single class": (("cat",), "one class folder, cat"),
    "a single class of a split": (("train/cat", "val/cat"), "one class folder, cat"),
    "two training folders": (("train/a", "train/b", "Training/a"), "both look like its train split"),
    "classes of a split that others lack": (("train/a", "train/b", "val/a", "val/c"), "has classes that .* has not: c"),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_what_is_not_understood_is_said_and_not_trained_on(photos, layout):
    places, said = REFUSED[layout]
    with pytest.raises(InputError, match=said) as raised:
        open_folder(_plant(photos, *places))
    assert str(photos) in str(raised.value)
    assert not any(word in str(raised.value) for word in ("delete", "remove"))


def test_an_empty_split_and_an_empty_class_are_said(photos):
    _plant(photos, "train/a", "train/b")
    (photos / "val").mkdir()
    with pytest.raises(InputError, match="val: is empty"):
        open_folder(photos)
    _plant(photos, "val/a")
    (photos / "train" / "c").mkdir()
    (photos / "train" / "c" / "x.xcf").write_bytes(b"gimp")
    with pytest.raises(InputError, match="no image in c"):
        open_folder(photos)


def test_classes_that_the_test_images_lack_are_said_and_labels_are_those_of_training(photos):
    found = open_folder(_plant(photos, "train/a", "train/b", "train/c", "val/c", "val/b", count=2))
    assert [found.test.read(index)[1] for index in range(4)] == [1, 1, 2, 2]
    assert any("no image of 1 classes: a" in note for note in found.notes)
    evaluated = open_evaluation("folder", photos)
    assert evaluated.class_names == ("b", "c") and [evaluated.images.read(i)[1] for i in range(4)] == [0, 0, 1, 1]


def test_a_test_folder_without_labels_is_said_and_not_read(photos):
    _plant(photos, "train/a", "train/b", count=10)
    _plant(photos, "test")
    found = open_folder(photos)
    assert len(found.test) == 2 and found.test_split == "held_out"
    assert any("nothing says their classes" in note and "it is not read" in note for note in found.notes)
    with pytest.raises(InputError, match="nothing says their classes"):
        open_evaluation("folder", photos, "test")
    held_out = open_evaluation("folder", photos, "held_out")
    assert held_out.identity()["splits"]["test"] == found.identity()["splits"]["test"]


def test_system_folders_and_other_files_are_no_images_and_the_latter_are_counted(photos):
    _plant(photos, "cat", "dog", count=4)
    _plant(photos, "@eaDir", ".thumbnails", "__MACOSX/cat", ".ipynb_checkpoints", "cat/@eaDir/0.jpg", "#recycle")
    for name in ("Thumbs.db", ".DS_Store", "._0.jpg", "desktop.ini"):
        (photos / "cat" / name).write_bytes(b"\0")
    for name in ("a.HEIC", "b.heic", "c.xml", ".d.jpg", "README"):
        (photos / "dog" / name).write_bytes(b"\0")
    (photos / "dog" / "photo without a suffix").write_bytes(PICTURE)
    found = open_folder(photos)
    assert found.class_names == ("cat", "dog") and len(found.train) + len(found.test) == 9 and not found.broken
    (said,) = (note for note in found.notes if "passed over" in note)
    assert all(part in said for part in ("2 .heic", "1 .xml", "1 with a leading dot", "1 without a suffix"))
    assert ".db" not in said and ".ini" not in said


def test_every_suffix_and_wrong_suffixes_are_read(photos):
    kinds = {
        ".bmp": "BMP",
        ".tif": "TIFF",
        ".gif": "GIF",
        ".ppm": "PPM",
        ".jfif": "JPEG",
        ".png": "JPEG",
        ".jpg": "PNG",
    }
    for name in ("one", "two"):
        (photos / name).mkdir()
        for suffix, kind in kinds.items():
            (photos / name / f"x{suffix.upper()}").write_bytes(_picture(kind))
    found = open_evaluation("folder", photos)
    assert len(found.images) == 14 and not found.broken and not found.notes
    assert found.identity()["splits"]["test"]["per_class"] == {"one": 7, "two": 7}


def test_links_are_followed_but_not_in_circles(photos):
    elsewhere = _plant(photos / "elsewhere", "more", count=2)
    folder = _plant(photos / "here", "cat", "dog")
    (folder / "cat" / "more").symlink_to(elsewhere / "more")
    (folder / "cat" / "circle").symlink_to(folder)
    (folder / "dog" / "gone.jpg").symlink_to(photos / "nowhere")
    found = open_evaluation("folder", folder)
    assert found.identity()["splits"]["test"]["per_class"]["cat"] == 5 and "gone.jpg" in found.broken[0][0]


def test_numbered_classes_are_sorted_as_numbers(photos):
    assert sorted_classes(["10", "9", "1"]) == ["1", "9", "10"] and sorted_classes(["10", "9", "a"]) == ["10", "9", "a"]
    found = open_evaluation("folder", _plant(photos, *map(str, range(12)), count=1))
    assert found.class_names == tuple(map(str, range(12)))
    assert all(found.images.name(i).split("/")[-2] == str(found.images.read(i)[1]) for i in range(12))


WNIDS = ("n01440764", "n02102040", "n03000684")


def _flat_imagenet(folder, split="val", count=6):
    """A training folder of three classes, and `count` validation images as the archive unpacks them."""
    _plant(folder, *(f"train/{wnid}" for wnid in WNIDS))
    (folder / split).mkdir(parents=True)
    for number in range(1, count + 1):
        (folder / split / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(PICTURE)
    return [WNIDS[number * 2 % 3] for number in range(count)]


def _write_devkit(folder, classes):
    """A meta.mat whose numbers are in another order than the sorted classes, with a synset that is no class."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(1, WNIDS[2]), (2, WNIDS[0]), (3, WNIDS[1]), (4, "n00000000")]
    synsets = np.zeros((4, 1), [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")])
    for row, (number, wnid) in enumerate(rows):
        synsets[row, 0] = (np.float64(number), wnid, "words", np.float64(number == 4))
    savemat(folder / "meta.mat", {"synsets": synsets})
    numbers = {wnid: number for number, wnid in rows}
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{numbers[c]}\n" for c in classes))


def _lists(folder, classes):
    names = [f"ILSVRC2012_val_{number:08d}" for number in range(1, len(classes) + 1)]
    positions = [WNIDS.index(wnid) for wnid in classes]
    pairs = list(zip(names, classes, positions, strict=True))
    return {
        "the devkit beside it": lambda: _write_devkit(folder / "ILSVRC2012_devkit_t12" / "data", classes),
        "the devkit's files in it": lambda: _write_devkit(folder / "val", classes),
        "Kaggle's solution": lambda: (folder / "LOC_val_solution.csv").write_text(
            "ImageId,PredictionString\n" + "".join(f"{n},{c} 1 2 3 4 {c} 5 6 7 8\n" for n, c, _ in reversed(pairs))
        ),
        "Caffe's val.txt": lambda: (folder / "val.txt").write_text("".join(f"{n}.JPEG {p}\n" for n, _, p in pairs)),
        "val.txt of another order": lambda: (
            (folder / "synsets.txt").write_text("\n".join(WNIDS[::-1])),
            (folder / "val.txt").write_text("".join(f"val/{n}.JPEG\t{2 - p}\r\n" for n, _, p in pairs)),
        ),
        "a class for each image": lambda: (folder / "imagenet_2012_validation_synset_labels.txt").write_text(
            "\n".join(classes)
        ),
        "a table": lambda: (folder / "val_labels.csv").write_text(
            "\ufefffilename,row,label\n" + "".join(f"{n}.JPEG,1,{c}\n" for n, c, _ in pairs), encoding="utf-8"
        ),
    }


@pytest.mark.parametrize("form", _lists(None, []))
def test_a_flat_validation_folder_is_labelled_by_its_list(photos, form):
    classes = _flat_imagenet(photos)
    _lists(photos, classes)[form]()
    expected = {f"ILSVRC2012_val_{number:08d}.JPEG": wnid for number, wnid in enumerate(classes, 1)}
    found = open_folder(photos)
    assert found.class_names == WNIDS and len(found.train) == 9 and found.test_split == "val"
    assert _labels(found.test, found.class_names) == expected
    assert any("labels of its 6 images from" in note for note in found.notes)
    evaluated = open_evaluation("folder", photos)
    assert _labels(evaluated.images, evaluated.class_names) == expected
    assert evaluated.identity()["splits"]["test"]["per_class"] == {wnid: 2 for wnid in WNIDS}
    if form != "Caffe's val.txt":  # without training folders nothing names its positions
        (photos / "train").rename(photos / "elsewhere")
        alone = open_evaluation("folder", photos)
        assert alone.class_names == WNIDS and _labels(alone.images, alone.class_names) == expected


def test_a_part_of_the_validation_images_keeps_its_labels(photos):
    classes = _flat_imagenet(photos)
    _write_devkit(photos, classes)
    (photos / "val" / "ILSVRC2012_val_00000001.JPEG").unlink()
    found = open_folder(photos)
    assert _labels(found.test, WNIDS)["ILSVRC2012_val_00000006.JPEG"] == classes[5] and len(found.test) == 5
    assert not any("1 images that" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("val.txt", "ILSVRC2012_val_00000001.JPEG 0\n", "no label for 5 images"),
        ("val.txt", "".join(f"ILSVRC2012_val_{n:08d}.JPEG {n % 3 + 1}\n" for n in range(1, 7)), "numbers from 1 to 3"),
        ("val.txt", "".join(f"ILSVRC2012_val_{n:08d}.JPEG {n}\n" for n in range(1, 7)), "line 3: expected a number"),
        ("val.csv", "".join(f"ILSVRC2012_val_{n:08d}.JPEG,cat\n" for n in range(1, 7)), "line 1: 'cat' is none of"),
        ("val.txt", "ILSVRC2012_val_00000001.JPEG\n", "line 1: expected a file and its class"),
        ("ILSVRC2012_validation_ground_truth.txt", "1\n" * 6, "copy it from"),
        ("ILSVRC2012_validation_ground_truth.txt", "cat\n" * 6, "expected a number on each line"),
        ("val.txt", "", "no label for 6 images"),
        ("val.txt", "caf\udce9", "cannot be read as text .*save it as UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used_is_said_with_its_line(photos, name, text, said):
    _flat_imagenet(photos)
    (photos / name).write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=said) as raised:
        open_folder(photos)
    assert str(photos / name) in str(raised.value)


def test_labels_by_position_for_another_number_of_images_are_refused(photos):
    _plant(photos, "train/a", "train/b")
    _plant(photos, "val", count=2)
    (photos / "imagenet_2012_validation_synset_labels.txt").write_text("a\nb\na\n")
    with pytest.raises(InputError, match="synset_labels.txt: has 3 labels for 2 images"):
        open_folder(photos)


def test_a_list_of_gigabytes_is_refused_unread(photos):
    _flat_imagenet(photos)
    with (photos / "val.txt").open("wb") as file:
        file.truncate(2**40)  # sparse: nothing is written
    with pytest.raises(InputError, match="val.txt: has 1,099,511,627,776 bytes, too long"):
        open_folder(photos)


def test_a_number_of_no_class_of_the_devkit_is_said(photos):
    _write_devkit(photos, _flat_imagenet(photos))
    (photos / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n4\n1\n2\n3\n")
    with pytest.raises(InputError, match="line 3: expected a number from 1 to 3, got 4"):
        open_folder(photos)


def test_a_devkit_that_is_none_is_said(photos):
    _flat_imagenet(photos)
    (photos / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n" * 6)
    for content in (b"", b"\x80\x04N.", PICTURE):
        (photos / "meta.mat").write_bytes(content)
        with pytest.raises(InputError, match=r"meta\.mat: cannot be read as the devkit's"):
            open_folder(photos)


def test_imagenet2012_is_never_split_at_random(photos):
    _flat_imagenet(photos)
    with pytest.raises(InputError, match="nothing says their classes"):
        open_images("imagenet2012", photos)
    kaggle = photos / "ILSVRC" / "Data" / "CLS-LOC"
    kaggle.mkdir(parents=True)
    for split in ("train", "val"):
        (photos / split).rename(kaggle / split)
    with pytest.raises(InputError, match="nothing says their classes"):
        open_images("imagenet2012", photos)
    rows = "".join(f"ILSVRC2012_val_{n:08d},{WNIDS[n % 3]} 1 2 3 4\n" for n in range(1, 7))
    (photos / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + rows)
    with pytest.raises(InputError, match="has images of 3 classes, imagenet2012 has 1000"):
        open_images("imagenet2012", photos)
    assert len(open_folder(kaggle).test) == 6


def test_tiny_imagenet_is_read_as_its_archive_unpacks(photos):
    for wnid in WNIDS:
        _plant(photos, f"train/{wnid}/images", suffix=".JPEG")
        (photos / "train" / wnid / f"{wnid}_boxes.txt").write_text("0.JPEG 0 0 1 1\n")
    _plant(photos, "val/images", "test/images", suffix=".JPEG")
    rows = "".join(f"{number}.JPEG\t{WNIDS[2 - number]}\t0\t0\t62\t62\n" for number in range(3))
    (photos / "val" / "val_annotations.txt").write_text(rows)
    for name in ("words.txt", "wnids.txt"):
        (photos / name).write_text("\n".join(WNIDS))
    found = open_folder(photos)
    assert found.class_names == WNIDS and len(found.train) == 9 and found.test_split == "val"
    assert _labels(found.test, WNIDS) == {f"{number}.JPEG": WNIDS[2 - number] for number in range(3)}
    with pytest.raises(InputError, match="nothing says their classes"):
        open_evaluation("folder", photos, "test")


def test_evaluation_needs_no_training_images(photos):
    _plant(photos / "both", "val/a", "val/b")
    for folder in (photos / "both", photos / "both" / "val"):
        found = open_evaluation("folder", folder)
        assert found.class_names == ("a", "b") and len(found.images) == 6
    some = open_evaluation("folder", _plant(photos / "imagenet-r", *WNIDS[:2], count=1))
    assert some.split == "all" and some.class_names == WNIDS[:2] and some.num_classes == 2
    assert len(open_evaluation("folder", _plant(photos / "one", "cat")).images) == 3


def test_an_evaluation_that_cannot_be_is_said(photos):
    _plant(photos / "trained", "train/a", "train/b", count=4)
    for folder, split, said in (
        ("trained", None, "neither val nor test; it has train .*--split held_out"),
        ("trained", "val", "has no split 'val'"),
        ("trained", "held-out", "unknown split 'held-out'"),
        ("trained/train", "val", "has no folder `val`"),
    ):
        with pytest.raises(InputError, match=said):
            open_evaluation("folder", photos / folder, split)
    assert len(open_evaluation("folder", photos / "trained", "held_out").images) == 2
    _plant(photos / "trained", "val/a")
    with pytest.raises(InputError, match="no images are held out"):
        open_evaluation("folder", photos / "trained", "held_out")


def test_a_list_that_names_files_of_several_folders_gives_each_its_own_label(photos):
    _plant(photos, "train/a", "train/b")
    _plant(photos, "val", count=2)
    (photos / "val.txt").write_text("a/0.jpg a\nb/0.jpg b\nb/1.jpg b\n")
    with pytest.raises(InputError, match=r"val.txt, line 2: 0.jpg is 'b', in line 1 'a'; expected one class for each"):
        open_folder(photos)
    (photos / "val.txt").write_text("test/0.jpg a\nval/0.jpg b\nval/1.jpg b\ntest/9.jpg a\nval/9.jpg b\n")
    found = open_folder(photos)
    assert _labels(found.test, found.class_names) == {"0.jpg": "b", "1.jpg": "b"}
