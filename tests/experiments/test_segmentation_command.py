"""Training, resuming and using a segmentation network from the command line."""

import dataclasses
import functools
import json
import random
import re

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import evaluate, segmentation
from experiments.configs.programs import SEGMENTATION
from experiments.configs.segmentation import CONFIGS
from experiments.evaluation import overlays
from experiments.evaluation.overlays import class_colours, draw_overlay
from experiments.inputs import masks
from experiments.training.engine import Engine
from experiments.training.optimizer import build_optimizer
from experiments.training.workdir import SEGMENTATION_KEYS, read_saved_run
from resjax import InputError, from_pretrained, preprocessing, pretrained_info
from resjax.data import MaskDataset, mask_dataset_info
from resjax.data.augment.masks import IGNORED
from resjax.data.masks import shapes
from resjax.models import parameter_count
from resjax.train import read_variables
from tests.experiments.training.test_engine import _stop_at
from tests.fuzz.files import png
from tests.helpers.command import outcome

SHORT = "--config quickstart --model.name resnet_8 --model.head_width 8 --epochs 2 --batch_size 8 --eval_batch_size 8"


_main = functools.partial(outcome, segmentation.main)


@pytest.fixture(scope="module", autouse=True)
def few_images():
    """The first of the drawn images alone, so that an epoch is seconds."""
    drawn = [shapes.draw(np.random.default_rng(i)) for i in range(28)]
    parts = {"train": drawn[:16], "test": drawn[16:]}
    patch = pytest.MonkeyPatch()

    def load(name, split, data_dir=None, longer_side=0, mask_values=None):
        images, masks = map(np.stack, zip(*parts[split], strict=True))
        return MaskDataset(images[:, ::2, ::2], masks[:, ::2, ::2], np.full((len(images), 2), 32, np.int32))

    patch.setattr("experiments.inputs.masks.load_masks", load)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """A finished run of two epochs of 32x32 pixels."""
    workdir = tmp_path_factory.mktemp("segmentation") / "run"
    assert segmentation.main([*SHORT.split(), "--augmentation.crop", "32", "--workdir", str(workdir)]) == 0
    return workdir


def test_files_of_a_run(short_run):
    records = [json.loads(line) for line in (short_run / "metrics.jsonl").read_text().splitlines()]
    assert [set(record) for record in records] == [set(SEGMENTATION_KEYS)] * 2
    summary = json.loads((short_run / "summary.json").read_text())
    assert summary["final_test_mean_iou"] == records[-1]["test_mean_iou"]
    assert summary["best_test_mean_iou"] == max(record["test_mean_iou"] for record in records)
    assert list(summary["class_iou"]) == list(shapes.CLASS_NAMES)
    ious = [iou for iou in summary["class_iou"].values() if iou is not None]
    assert summary["final_test_mean_iou"] == pytest.approx(np.mean(ious))
    assert (short_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    best = max(records, key=lambda record: record["test_mean_iou"])
    assert [path.name for path in (short_run / "checkpoints" / "best").iterdir()] == [str(best["step"])]


@pytest.mark.parametrize("checkpoint", ["latest", "best"])
def test_the_command_that_evaluates_any_run_gives_its_mean_iou(capsys, short_run, checkpoint):
    records = [json.loads(line) for line in (short_run / "metrics.jsonl").read_text().splitlines()]
    expected = records[-1] if checkpoint == "latest" else max(records, key=lambda record: record["test_mean_iou"])
    code, out, err = outcome(evaluate.main, capsys, short_run, "--checkpoint", checkpoint, "--report")
    assert code == 0 and "12 test images" in out, err
    assert f"mean IoU {expected['test_mean_iou']:.2f}%, {100 * expected['test_accuracy']:.2f}% of the pixels" in out
    for name, iou in zip(shapes.CLASS_NAMES, expected["test_class_iou"], strict=True):
        assert f"{name} {'-' if iou is None else f'{iou:.2f}%'}" in out
    report = json.loads((short_run / "evaluation" / "evaluation.json").read_text())
    assert [row["iou"] for row in report["class_table"]] == pytest.approx(expected["test_class_iou"])
    assert np.sum(report["confusion"]) == sum(row["pixels"] for row in report["class_table"])
    assert "![Confusion of the classes](confusion.png)" in (short_run / "evaluation" / "README.md").read_text()
    code, _, err = outcome(evaluate.main, capsys, short_run, "--corruptions", "--ood", "mnist")
    assert code == 2 and "--corruptions, --ood: only for classifiers" in err and err.count("\n") == 1


def test_a_run_becomes_a_folder_of_weights_with_its_input_classes_and_card(capsys, tmp_path, short_run):
    folder = tmp_path / "shapes"
    code, _, err = outcome(evaluate.main, capsys, short_run, "--save", folder)
    assert code == 0, err
    model, variables = from_pretrained(folder)
    assert model == read_saved_run(short_run).config.create_model(len(shapes.CLASS_NAMES))
    about, kept = pretrained_info(folder), read_variables(short_run / "checkpoints")[0]
    assert about["class_names"] == list(shapes.CLASS_NAMES)
    assert jax.tree.structure(kept) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, kept, variables)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    sizes = np.full((1, 2), 32, np.int32)
    np.testing.assert_allclose(preprocessing(folder)(pixels), masks.normalize(pixels, sizes), atol=1e-5)
    card = (folder / "README.md").read_text()
    assert str(short_run) not in card + (folder / "config.json").read_text()
    assert (
        f"| mean IoU | {about['test_mean_iou']:.2f} % (12 images) |" in card
        and f"[N, H, W, {len(shapes.CLASS_NAMES)}]" in card
    )
    with pytest.raises(InputError, match="holds a segmentation network, whose head cannot be left out"):
        from_pretrained(folder, num_classes=0)


def test_images_of_one_name_get_an_overlay_each(capsys, tmp_path, short_run):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        Image.new("RGB", (32, 32), "red" if folder == "a" else "blue").save(tmp_path / folder / "1.png")
    images = [tmp_path / folder / "1.png" for folder in "ab"]
    arguments = ("predict", short_run, "--images", *images, "--output", tmp_path / "drawn")
    assert _main(capsys, *arguments)[0] == 0
    files = sorted((tmp_path / "drawn").iterdir())
    assert [file.name for file in files] == ["1.png", "1_2.png"] and files[0].read_bytes() != files[1].read_bytes()


def test_stopped_and_resumed_ends_with_the_same_bits(capsys, tmp_path, short_run, monkeypatch):
    original = Engine.__init__

    def stopping(self, *args, **kwargs):
        original(self, *args, **kwargs)
        _stop_at(self, 2)

    arguments = (*SHORT.split(), "--augmentation.crop", "32", "--workdir", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "__init__", stopping)
        assert _main(capsys, *arguments)[0] == 143
    code, out, _ = _main(capsys, *arguments)
    assert code == 0 and "resuming at step 1" in out
    lasting = lambda path: [  # noqa: E731
        {k: v for k, v in json.loads(line).items() if "second" not in k}
        for line in (path / "metrics.jsonl").read_text().splitlines()
    ]
    assert lasting(tmp_path / "run") == lasting(short_run)


def test_predict_draws_test_images_and_files_with_a_legend(capsys, tmp_path, short_run):
    code, out, err = _main(capsys, "predict", short_run, "--count", 1, "--output", tmp_path)
    assert code == 0 and "1 overlays" in out, err
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 24, 3)).astype(np.uint8))
    (tmp_path / "other").mkdir()
    photos = tmp_path / "photo.jpg", tmp_path / "other" / "photo.jpg"
    for photo in photos:
        image.save(photo)
    output = tmp_path / "drawn"
    arguments = ("--images", *photos, "--output", output, "--eval_flip", "--eval_scales", 1, 1.5, "--eval_window", 20)
    assert _main(capsys, "predict", short_run, *arguments)[0] == 0
    # Neither is drawn over the other.
    assert sorted(path.name for path in output.iterdir()) == ["photo.png", "photo_2.png"]


def test_predict_reads_photographs_as_training_does(tmp_path):
    config = CONFIGS["quickstart"].config
    pixels, exif = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8), Image.Exif()
    exif[0x0112] = 6
    deep = pixels[..., 0].astype(np.uint16) << 8
    alpha = np.concatenate([pixels, pixels[..., :1]], -1)
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    names = ("turned", "deep", "alpha")
    options = overlays.Prediction("run", images=tuple(str(tmp_path / f"{name}.png") for name in names))
    read = {name: image for name, image, _ in overlays._read_images(options, config)}
    np.testing.assert_array_equal(read["turned"], np.rot90(pixels, -1))
    np.testing.assert_array_equal(read["deep"], np.repeat(pixels[..., :1], 3, -1))
    np.testing.assert_array_equal(read["alpha"], pixels)
    with pytest.raises(InputError, match="--count: expected a positive integer, got 0"):
        next(overlays._read_images(overlays.Prediction("run", count=0), config))
    (tmp_path / "no.png").write_bytes(b"")
    (tmp_path / "large.png").write_bytes(png(random.Random(0), 20_000, 20_000))
    for name, message in (("no", "damaged or no image"), ("gone", "No such file or directory"), ("large", ".*pixels")):
        path = tmp_path / f"{name}.png"
        with pytest.raises(InputError, match=f"--images {path}: {message}"):
            list(overlays._read_images(overlays.Prediction("run", images=(str(path),)), config))


def test_predict_names_the_classes_of_the_run(capsys, tmp_path, short_run, monkeypatch):
    info = dataclasses.replace(mask_dataset_info("shapes"), class_names=("no", "yes"))
    monkeypatch.setattr(overlays, "mask_dataset_info", lambda *arguments: info)
    code, _, err = _main(capsys, "predict", short_run, "--output", tmp_path / "drawn")
    assert code == 2 and "trained on the classes background, disk, " in err and "; shapes names no, yes. Give" in err
    assert not (tmp_path / "drawn").exists()
    # Photographs need no data beside them.
    saved = read_saved_run(short_run, SEGMENTATION)
    named = overlays._class_names(overlays.Prediction(str(short_run), images=("a.jpg",)), saved)
    assert named == shapes.CLASS_NAMES


def test_a_run_on_repaired_masks_is_another_run(capsys, tmp_path, short_run, monkeypatch):
    load = masks.load_masks

    def repaired(*arguments, **options):
        data = load(*arguments, **options)
        return data._replace(masks=np.where(np.indices(data.masks.shape).sum(0) == 0, 1, data.masks).astype(np.uint8))

    monkeypatch.setattr(masks, "load_masks", repaired)
    code, _, err = _main(capsys, *SHORT.split(), "--augmentation.crop", "32", "--workdir", short_run)
    assert code == 2 and "holds a run on other data (train: as many images there and here, 16, but not the same" in err


def test_an_overlay_shows_each_class_in_the_colour_of_its_legend(tmp_path):
    predicted, truth = np.zeros((20, 30), int), np.full((20, 30), IGNORED)
    predicted[:, 10:20], truth[:, :15] = 1, 2
    image = np.zeros((20, 30, 3), np.uint8)
    (tmp_path / "a.png").write_bytes(draw_overlay(image, predicted, ("none", "cat", "dog"), truth))
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"), np.int16).reshape(-1, 3)
    colours = class_colours(3)
    assert colours.max(1).min() > 150  # none is dark: black would hide the image
    apart = np.abs(np.int16(class_colours(21))[:, None] - class_colours(21)).max(-1) + 255 * np.eye(21, dtype=int)
    assert apart.min() > 20
    for colour in colours[1:]:
        for shown in (colour, 0.65 * colour):  # legend, and over the black image
            assert (np.abs(pixels - shown.astype(np.int16)).max(1) <= 1).sum() > 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "quickstar"], "did you mean 'quickstart'"),
        (["--config", "quickstart", "--ohem_threshold", "1.5"], r"--ohem_threshold: expected a number in \[0, 1\)"),
        (["--config", "quickstart", "--eval_scales", "0"], "--eval_scales: expected positive"),
        (["--config", "quickstart", "--dataset", "vok"], "did you mean 'voc'"),
        (["--config", "quickstart", "--model.output_stride", "3"], "output_stride: expected one of 1, 2, 4, got 3"),
        (["--config", "quickstart", "--batch_size", "24"], "shapes has 16 training images"),
        (["--config", "quickstart", "--frozen_statistics"], "--pretrained is missing"),
        (["--config", "quickstart", "--weights_key", "ema"], "--weights_key ema: is of a file of --pretrained"),
        (["predict", "/nowhere"], "/nowhere: no such folder; give the workdir of a run"),
    ],
)
def test_a_mistake_is_named_in_one_line_and_exits_with_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = _main(capsys, *arguments)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_with_the_count_beside_it(name):
    config = CONFIGS[name].config
    classes = mask_dataset_info(config.dataset).num_classes
    assert parameter_count(config.create_model(classes), (64, 64, 3)) == CONFIGS[name].parameters


def test_recipes_train_and_test_on_what_their_authors_do():
    """The commands of github.com/itijyou/ademxapp: --test-flipping, VOC with SBD's images, --test-scales 500."""
    recipes = {name: named.config for name, named in CONFIGS.items() if name.startswith("resnet_38")}
    assert all(config.eval_flip for config in recipes.values())
    assert recipes["resnet_38_a1_voc"].train_split == "trainaug"
    assert {name for name, config in recipes.items() if config.longer_side == 500} == {
        "resnet_38_a1_ade20k",
        "resnet_38_a2_ade20k",
    }
    for name, config in recipes.items():
        assert config.model.name == f"wider_{'_'.join(name.split('_')[:3])}"


def test_the_longer_side_is_that_of_every_image_which_the_network_sees(capsys, monkeypatch, tmp_path):
    given = []

    def load(name, split, data_dir, longer_side, mask_values):
        given.append((split, longer_side))
        images = np.zeros((16, 48, 48, 3), np.uint8)
        return MaskDataset(images, np.indices(images.shape[:3])[1].astype(np.uint8) % 6, np.full((16, 2), 48, np.int32))

    monkeypatch.setattr("experiments.inputs.masks.load_masks", load)
    assert _main(capsys, *"--config quickstart --longer_side 48 --augmentation.crop 32 --dry_run".split())[0] == 0
    assert given == [("train", 48), ("test", 48)]
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "photo.png")
    config = dataclasses.replace(CONFIGS["quickstart"].config, longer_side=48)
    options = overlays.Prediction("run", images=(str(tmp_path / "photo.png"),))
    ((name, image, mask),) = overlays._read_images(options, config)
    assert (name, image.shape, mask) == ("photo", (32, 48, 3), None)


def test_cityscapes_stays_for_140_epochs_and_falls_from_half_for_64():
    named = CONFIGS["resnet_38_a1_cityscapes"]
    images, steps = 2975, 2975 // 16
    rate = build_optimizer(named.config, images)[1]
    assert named.config.epochs == 204 and not any("own choice" in text for text in named.deviations)
    np.testing.assert_allclose([rate(0), rate(140 * steps - 1)], 0.0016, rtol=1e-6)
    left = np.array([1, 0.5, 1 / (64 * steps)])
    falling = [rate(round(204 * steps - share * 64 * steps)) for share in left]
    np.testing.assert_allclose(falling, 0.0008 * left, rtol=1e-3)
    for name in ("resnet_38_a1_voc", "resnet_38_a1_ade20k"):
        assert any(f"{CONFIGS[name].config.epochs} epochs" in text for text in CONFIGS[name].deviations)
