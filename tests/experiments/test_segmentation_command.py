"""Training, resuming and using a segmentation network from the command line."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from experiments import overlays, segmentation
from experiments.configs.segmentation import CONFIGS
from experiments.engine import Engine
from experiments.overlays import class_colours, draw_overlay
from experiments.recipe import build_optimizer
from experiments.workdir import SEGMENTATION_KEYS
from resjax import create_model, save_pretrained
from resjax.data import MaskDataset, shapes
from resjax.data.augment_masks import IGNORED
from resjax.models import parameter_count
from tests.experiments.command import outcome
from tests.experiments.test_engine import _stop_at

SHORT = "--config quickstart --model.name resnet_8 --model.head_width 8 --epochs 2 --batch_size 8 --eval_batch_size 8"


_main = functools.partial(outcome, segmentation.main)


@pytest.fixture(scope="module", autouse=True)
def few_images():
    """The first of the drawn images alone, so that an epoch is seconds."""
    drawn = [shapes.draw(np.random.default_rng(i)) for i in range(28)]
    parts = {"train": drawn[:16], "test": drawn[16:]}
    patch = pytest.MonkeyPatch()

    def load(name, split, data_dir=None, longer_side=0):
        images, masks = map(np.stack, zip(*parts[split], strict=True))
        return MaskDataset(images[:, ::2, ::2], masks[:, ::2, ::2], np.full((len(images), 2), 32, np.int32))

    patch.setattr(segmentation, "load_masks", load)
    patch.setattr("experiments.overlays.load_masks", load)
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
    code, out, err = _main(capsys, "predict", "--workdir", short_run, "--count", 1, "--output", tmp_path)
    assert code == 0 and "1 overlays" in out, err
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 24, 3)).astype(np.uint8))
    image.save(tmp_path / "photo.jpg")
    output = tmp_path / "drawn"
    arguments = ("--images", tmp_path / "photo.jpg", "--output", output, "--flip", "--scales", 1, 1.5, "--window", 20)
    assert _main(capsys, "predict", "--workdir", short_run, *arguments)[0] == 0
    assert [path.name for path in output.iterdir()] == ["photo.png"]


def test_an_overlay_shows_each_class_in_the_colour_of_its_legend(tmp_path):
    predicted, truth = np.zeros((20, 30), int), np.full((20, 30), IGNORED)
    predicted[:, 10:20], truth[:, :15] = 1, 2
    draw_overlay(tmp_path / "a.png", np.zeros((20, 30, 3), np.uint8), predicted, ("none", "cat", "dog"), truth)
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"), np.int16).reshape(-1, 3)
    colours = class_colours(3)
    assert colours.tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
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
        (["predict", "--workdir", "/nowhere"], "holds no checkpoints"),
    ],
)
def test_a_mistake_is_named_in_one_line_and_exits_with_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = _main(capsys, *arguments)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_config_with_its_parameters_and_published_result(capsys):
    code, out, _ = _main(capsys, "--help")
    assert code == 0 and "--ohem_threshold" in out and "--model.output_stride" in out
    for name, named in CONFIGS.items():
        row = next(line for line in out.splitlines() if re.match(rf"{name} ", line))
        assert f"{named.parameters:,}" in row and (named.published is None or f"{named.published:.2f}" in row)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_with_the_count_beside_it(name):
    config = CONFIGS[name].config
    classes = segmentation.mask_dataset_info(config.dataset).num_classes
    assert parameter_count(segmentation.build(config, classes), (64, 64, 3)) == CONFIGS[name].parameters


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

    def load(name, split, data_dir, longer_side):
        given.append((split, longer_side))
        images = np.zeros((16, 48, 48, 3), np.uint8)
        return MaskDataset(images, images[..., 0], np.full((16, 2), 48, np.int32))

    monkeypatch.setattr(segmentation, "load_masks", load)
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


def test_pretrained_weights_are_where_training_starts(tmp_path, capsys):
    """With a learning rate of nothing, the trunk of the checkpoint is the classifier's."""
    classifier = create_model("resnet_8")
    weights = jax.jit(classifier.init)(jax.random.key(7), np.zeros((1, 32, 32, 3), np.float32))
    save_pretrained(tmp_path / "weights", classifier, weights, {"mean": [125.0, 123.0, 114.0]})
    config = segmentation.SegmentationConfig(
        segmentation.CONFIGS["quickstart"].config.model, pretrained=str(tmp_path / "weights")
    )
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, name="resnet_8"))
    model = segmentation.build(config, 6)
    started = segmentation.start_variables(config, model, (32, 32, 3), Console())
    assert "normalised otherwise" in capsys.readouterr().out.replace("\n", " ")
    trunk = {key: value for key, value in weights["params"].items() if key != "head"}
    jax.tree.map(np.testing.assert_array_equal, started["params"]["trunk"], trunk)
