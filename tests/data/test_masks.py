"""Images with masks: a VOC-style folder, prepared TFDS directories, drawn shapes; every mistake is named."""

import re

import numpy as np
import pytest
from PIL import Image

from resjax import InputError
from resjax.data import load_masks, mask_dataset_info
from resjax.data.augment.masks import IGNORED
from resjax.data.masks import shapes
from tests.helpers.voc_folder import SIZES, encoded, random_image, write_voc

RNG = np.random.default_rng(0)


@pytest.fixture
def voc(tmp_path):
    """A folder of three images, as PASCAL VOC has them; the images are PNG, so that pixels can be compared."""
    masks = {}
    for i, size in enumerate(SIZES):
        mask = RNG.integers(0, 21, size).astype(np.uint8)
        mask[0, 0] = IGNORED
        masks[f"im{i}.png"] = encoded(mask, palette=True)
    images = {f"im{i}.png": encoded(random_image(*size)) for i, size in enumerate(SIZES)}
    return write_voc(tmp_path, images, masks)


def test_a_folder_like_voc_is_read_in_the_order_of_its_list(voc):
    data = load_masks("voc", "train", voc)
    assert data.images.shape == (2, 7, 9, 3) and data.masks.shape == (2, 7, 9)
    np.testing.assert_array_equal(data.sizes, [SIZES[2], SIZES[0]])
    for i, (name, (height, width)) in enumerate((("im2", SIZES[2]), ("im0", SIZES[0]))):
        image = np.asarray(Image.open(voc / "JPEGImages" / f"{name}.png"))
        mask = np.asarray(Image.open(voc / "SegmentationClass" / f"{name}.png"))
        np.testing.assert_array_equal(data.images[i, :height, :width], image)
        np.testing.assert_array_equal(data.masks[i, :height, :width], mask)
        assert (data.masks[i, height:] == IGNORED).all() and (data.masks[i, :, width:] == IGNORED).all()


def test_own_classes_replace_those_of_voc(voc):
    (voc / "classes.txt").write_text("sky\nground\n")
    assert mask_dataset_info("voc", voc).class_names == ("sky", "ground")
    with pytest.raises(InputError, match=r"im2.png: label \d+ at row .* expected 0 to 1, 255"):
        load_masks("voc", "train", voc)


def test_pascal_context_has_folders_and_classes_of_its_own(voc):
    (voc / "SegmentationClass").rename(voc / "SegmentationClassContext")
    (voc / "ImageSets" / "Segmentation").rename(voc / "ImageSets" / "SegmentationContext")
    (voc / "classes.txt").write_text("of VOC's folder\n")
    info = mask_dataset_info("pascal_context", voc)
    assert info.num_classes == 60 and list(info.class_names[1:]) == sorted(info.class_names[1:])
    data = load_masks("pascal_context", "val", voc)
    mask = np.asarray(Image.open(voc / "SegmentationClassContext" / "im1.png"))
    np.testing.assert_array_equal(data.masks[0], mask)
    with pytest.raises(InputError, match=r"ImageSets/Segmentation/val.txt: not found"):
        load_masks("voc", "val", voc)


def test_the_longer_side_of_every_image_is_resized(voc):
    plain, data = load_masks("voc", "train", voc), load_masks("voc", "train", voc, longer_side=18)
    assert (data.sizes.max(1) == 18).all()
    for (height, width), (old_height, old_width), mask, old in zip(
        data.sizes, plain.sizes, data.masks, plain.masks, strict=True
    ):
        assert abs(height / width - old_height / old_width) < 0.5 / 18 * 2
        rows, columns = ((np.arange(n) + 0.5) * m // n for n, m in ((height, old_height), (width, old_width)))
        expected = old[np.ix_(rows.astype(int), columns.astype(int))]
        np.testing.assert_array_equal(mask[:height, :width], expected)
    image = Image.fromarray(plain.images[0][: plain.sizes[0][0], : plain.sizes[0][1]])
    height, width = data.sizes[0]
    expected = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(data.images[0, :height, :width], expected)


def _break(voc, what):
    masks, lists = voc / "SegmentationClass", voc / "ImageSets" / "Segmentation"
    match what:
        case "label":
            mask = np.zeros(SIZES[2], np.uint8)
            mask[3, 4] = 21
            (masks / "im2.png").write_bytes(encoded(mask, palette=True))
        case "size":
            (masks / "im0.png").write_bytes(encoded(np.zeros((9, 6), np.uint8)))
        case "mask":
            (masks / "im0.png").unlink()
        case "image":
            (voc / "JPEGImages" / "im0.png").unlink()
        case "colour":
            (masks / "im2.png").write_bytes(encoded(random_image(*SIZES[2])))
        case "damaged":
            (masks / "im2.png").write_bytes(b"\x89PNG no more")
        case "empty":
            (lists / "train.txt").write_text("\n")
        case "split":
            (lists / "train.txt").rename(lists / "trainaug.txt")


MISTAKES = {
    "label": r"SegmentationClass/im2.png: label 21 at row 3, column 4; expected 0 to 20, 255",
    "size": r"im0.png: the mask has 6 x 9 pixels, its image .*JPEGImages/im0.png 9 x 6",
    "mask": r"train.txt, line 2: the mask is missing: no im0 in .*SegmentationClass \(.png, .*for the image .*im0.png",
    "image": r"train.txt, line 2: the image is missing: no im0 in .*JPEGImages \(.jpg, ",
    "colour": r"im2.png: the mask codes 49 colours \(\(.*\), ..\); expected an indexed or gray image.* label of each",
    "damaged": r"im2.png: damaged or no image",
    "empty": r"train.txt: the split is empty",
    "split": r"train.txt: not found; there are trainaug, val",
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_in_a_folder_are_named(voc, what):
    _break(voc, what)
    with pytest.raises(InputError, match=MISTAKES[what]):
        load_masks("voc", "train", voc)


@pytest.mark.parametrize("what", ["label", "size", "mask", "empty"])
def test_a_run_says_so_before_it_starts(voc, capsys, tmp_path, what):
    from experiments import segmentation

    _break(voc, what)
    workdir = tmp_path / "run"
    arguments = ("--config", "resnet_38_a1_voc", "--data_dir", str(voc), "--workdir", str(workdir))
    assert segmentation.main([*arguments, "--no_frozen_statistics", "--train_split", "train"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and not workdir.exists()
    assert re.search(MISTAKES[what], error), error


def _prepare(root, name, features, examples, config=""):
    """A TFDS data directory with one split, as TFDS itself writes it."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    version = root / name / config / "1.0.0"
    version.mkdir(parents=True)
    specs = tfds.features.FeaturesDict({key: tfds.features.Image(shape=(None, None, None)) for key in features})
    records = []
    for values in examples:
        example = tf_example_pb2.Example()
        for key, value in zip(features, values, strict=True):
            example.features.feature[key].bytes_list.value.append(value)
        records.append(example.SerializeToString())
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(version / f"{name}-train.array_record-00000-of-00001"), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name=name, version="1.0.0", data_dir=str(version), module_name="", config_name=config or None
        ),
        features=specs,
    )
    info.set_file_format("array_record")
    template = tfds.core.ShardedFileTemplate(
        dataset_name=name, data_dir=version, filetype_suffix="array_record", split="train"
    )
    split = tfds.core.SplitInfo(name="train", shard_lengths=[len(records)], num_bytes=1, filename_template=template)
    info.set_splits(tfds.core.splits.SplitDict([split]))
    info.write_to_directory(version)
    return root


# TFDS's names of image and mask, stored values, their labels.
PREPARED = {
    "oxford_iiit_pet": (("image", "segmentation_mask"), "", [1, 2, 3], [0, 1, 2]),
    "scene_parse150": (("image", "annotation"), "", [0, 1, 150], [IGNORED, 0, 149]),
    "cityscapes": (
        ("image_left", "segmentation_label"),
        "semantic_segmentation",
        [0, 7, 33, 9],
        [IGNORED, 0, 18, IGNORED],
    ),
}


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_directories_are_read_without_tensorflow(tmp_path, name):
    features, config, stored, labels = PREPARED[name]
    images = [random_image(4, len(stored)), random_image(3, len(stored))]
    masks = [np.tile(np.array(stored, np.uint8), (len(image), 1)) for image in images]
    if name == "scene_parse150":  # stored as three equal channels
        files = [encoded(np.repeat(mask[..., None], 3, -1)) for mask in masks]
    else:
        files = [encoded(mask) for mask in masks]
    _prepare(tmp_path, name, features, [(encoded(i), m) for i, m in zip(images, files, strict=True)], config)
    data = load_masks(name, "train", tmp_path)
    np.testing.assert_array_equal(data.sizes, [image.shape[:2] for image in images])
    np.testing.assert_array_equal(data.images[0], images[0])
    np.testing.assert_array_equal(data.masks[0], np.tile(labels, (4, 1)))
    assert (data.masks[1, 3:] == IGNORED).all()
    assert mask_dataset_info(name).num_classes == {"oxford_iiit_pet": 3, "scene_parse150": 150, "cityscapes": 19}[name]


def test_a_stored_label_outside_the_classes_is_named_with_its_example(tmp_path):
    mask = np.array([[1, 2], [3, 4]], np.uint8)
    _prepare(
        tmp_path, "oxford_iiit_pet", ("image", "segmentation_mask"), [(encoded(random_image(2, 2)), encoded(mask))]
    )
    with pytest.raises(InputError, match=r"mask of example 0: label 4 at row 1, column 1; expected 1 to 3"):
        load_masks("oxford_iiit_pet", "train", tmp_path)


def _example(**features):
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    for name, value in features.items():
        example.features.feature[name].bytes_list.value.append(value)
    return example.SerializeToString()


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([b"\xff\xff\xff"], "example 0 is damaged .*; prepare or copy it again"),
        ([_example(image=b"")], "example 0 of train has no 'segmentation_mask': prepare oxford_iiit_pet again"),
        ([_example(image=b"GIF8", segmentation_mask=b"")], "image of example 0: damaged or no image"),
    ],
)
def test_a_prepared_directory_without_what_it_should_have_is_said(tmp_path, monkeypatch, records, message):
    _prepare(tmp_path, "oxford_iiit_pet", ("image", "segmentation_mask"), [(b"", b"")])
    there = len(records), ((tmp_path / "shard", record) for record in records)
    monkeypatch.setattr("resjax.data.masks.loading.open_split", lambda *arguments: there)
    with pytest.raises(InputError, match=message):
        load_masks("oxford_iiit_pet", "train", tmp_path)


def test_an_image_that_is_a_folder_or_is_cut_is_said(voc):
    image = voc / "JPEGImages" / "im2.png"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"im2.png: damaged or no image \(.*\); get it again"):
        load_masks("voc", "train", voc)
    image.unlink()
    image.mkdir()
    with pytest.raises(InputError, match=r"im2.png: no regular file"):
        load_masks("voc", "train", voc)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vocc", "train"), "unknown dataset with masks 'vocc'; did you mean 'voc'"),
        (("shapes", "val"), "unknown split of shapes 'val'"),
        (("voc", "train"), "give the folder"),
        (("cityscapes", "train", "/nowhere"), "cityscapes not found: looked for .*tfds build cityscapes"),
    ],
)
def test_what_is_not_there_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        load_masks(*arguments)


def test_shapes_are_the_same_everywhere_and_their_masks_exact():
    draws = [shapes.draw(np.random.default_rng((5, i))) for i in range(12)]
    again = [shapes.draw(np.random.default_rng((5, i))) for i in range(12)]
    for (image, mask), (image_again, mask_again) in zip(draws, again, strict=True):
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(mask, mask_again)
    images, masks = (np.stack(arrays) for arrays in zip(*draws, strict=True))
    assert images.shape == (12, 64, 64, 3) and images.dtype == masks.dtype == np.uint8
    assert set(np.unique(masks)) == set(range(len(shapes.CLASS_NAMES)))
    # Without its noise an image is smooth but at the outlines of the mask.
    steps = np.abs(np.diff(images.astype(float), axis=2)).mean(-1)
    edges = np.diff(masks, axis=2) != 0
    assert steps[edges].mean() > 3 * steps[~edges].mean()


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("disk", (0, 0), (0.7, 0.7)),
        ("ring", (0, 0.75), (0, 0)),
        ("square", (0.7, 0.7), (0, 0.9)),
        ("triangle", (0, 1), (0, -0.7)),
        ("cross", (0.9, 0), (0.5, 0.5)),
    ],
)
def test_outlines(name, inside, outside):
    outline = shapes._OUTLINES[name]
    assert outline(*map(np.float64, inside)) and not outline(*map(np.float64, outside))
