"""The command line: what it accepts, what it says, and how it leaves."""

import functools
import json
import re

import numpy as np
import pytest

from experiments import cifar
from experiments.configs.programs import CIFAR
from experiments.evaluation.trained import load_run
from experiments.inputs.splits import load_splits
from experiments.training.workdir import read_saved_run
from resjax.data.normalization import patch_whitening
from tests.helpers.command import outcome
from tests.helpers.few_images import few_images

_main = functools.partial(outcome, cifar.main)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config NAME is missing"),
        (["--config"], "--config needs a name"),
        (["--config", "wrn_28_1O"], "did you mean .*'wrn_28_10'"),
        (["--config", "resnet_20", "--config=resnet_32"], "choose one"),
        (["--config", "resnet_20", "--dataset", "cifar-10"], "unknown dataset 'cifar-10'; did you mean 'cifar10'"),
        (["--config", "resnet_20", "--model.name", "resnet_21"], "nearest are 20 and 26"),
        (["--config", "resnet_20", "--model.dropout_rate", "0.3"], "resnet_20 takes no 'dropout_rate'"),
        (["--config", "wrn_28_10", "--model.block_type", "3", "5"], "block_type: expected one of"),
        (["--config", "resnet_20", "--batch_size", "0"], "--batch_size: expected a positive integer, got 0"),
        (["--config", "resnet_20", "--batch_size", "60000"], "cifar10 has 50,000 training images"),
        (
            ["--config", "resnet_20", "--batch_size", "100"],
            r"--batch_size 100 cannot .* 8 devices; nearest are 96 and 104",
        ),
        (["--config", "resnet_20", "--eval_batch_size", "9"], "--eval_batch_size 9 cannot be split"),
        (["--config", "resnet_20", "--epochs", "0"], "--epochs: expected a positive integer"),
        (["--config", "resnet_20", "--seed", "-1"], "--seed: expected a number >= 0, got -1"),
        (["--config", "resnet_20", "--label_smoothing", "1"], r"--label_smoothing: expected a number in \[0, 1\)"),
        (["--config", "resnet_20", "--optimizer.learning_rate", "nan"], "--optimizer.learning_rate: expected a number"),
        (["--config", "resnet_20", "--optimizer.weight_decay", "-1"], "--optimizer.weight_decay: expected"),
        (["--config", "resnet_20", "--schedule.boundaries", "60", "30"], "boundaries: expected ascending"),
        (["--config", "resnet_20", "--validation_images", "50000"], "--validation_images: expected a number from 0"),
        (["--config", "resnet_20", "--extra"], "extra"),
        (["--config", "resnet_20", "--schedule.warmup_until_error", "80"], "warmup_until_error: .* a constant warm-up"),
        (
            ["--config", "resnet_20", "--model.stochastic_depth.decay", "linear"]
            + ["--model.stochastic_depth.active_blocks", "3"],
            "--model.stochastic_depth.decay and --model.stochastic_depth.active_blocks: choose one",
        ),
        (
            ["--config", "resnet_20", "--model.stochastic_depth.survival_probability", "2"],
            r"survival_probability: expected a number in \(0, 1\], got 2",
        ),
    ],
)
def test_a_mistake_is_named_in_one_line_and_exits_with_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = _main(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert re.search(message, err), err
    assert list(tmp_path.iterdir()) == []  # before any work


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["--batchsize", "32"], "--batch_size"),
        (["--optimizer.lr", "0.1"], "--optimizer"),
        (["--epochs", "three"], "--epochs: expected INT"),
        (["--schedule.kind", "cosin"], "'cosine'"),
        (["--dtype", "float16"], "'bfloat16'"),
        (["--augmentation.cutout", "-4"], "cutout: expected a value >= 0, got -4"),
    ],
)
def test_a_wrong_flag_or_value_names_the_right_ones(capsys, arguments, nearest):
    code, out, err = _main(capsys, "--config", "resnet_20", *arguments)
    assert code == 2 and nearest in out + err


def test_no_data_and_no_network_is_one_error_that_names_both_ways(capsys, tmp_path, monkeypatch):
    from resjax.data.arrays import prepare

    monkeypatch.setattr(prepare, "why_unreachable", lambda url: "no network in this test")
    arguments = ("--config", "resnet_20", "--data_dir", tmp_path / "data", "--workdir", tmp_path / "run")
    code, _, err = _main(capsys, *map(str, arguments))
    assert code == 2 and err.count("\n") == 1
    assert "--data_dir DIR" in err and "machine with a network" in err
    assert not (tmp_path / "run").exists()


SHORT = ("--config", "quickstart", "--model.name", "resnet_8", "--model.widths", "4", "4", "8")
SHORT += ("--epochs", "2", "--batch_size", "32")


@pytest.fixture(scope="module")
def images():
    """800 training and 200 test images."""
    with few_images(800, 200):
        yield


@pytest.fixture(scope="module")
def short_run(tmp_path_factory, images):
    """A finished run of two epochs on the embedded images."""
    workdir = tmp_path_factory.mktemp("short") / "run"
    assert cifar.main([*SHORT, "--workdir", str(workdir)]) == 0
    return workdir


def test_summary_holds_errors_beside_what_was_changed_and_where_it_ran(short_run):
    summary = json.loads((short_run / "summary.json").read_text())
    records = [json.loads(line) for line in (short_run / "metrics.jsonl").read_text().splitlines()]
    assert summary["final_test_error"] == records[-1]["test_error"]
    assert summary["best_test_error"] == min(record["test_error"] for record in records)
    assert (summary["train_images"], summary["test_images"], summary["steps"]) == (800, 200, 2 * (800 // 32))
    assert summary["published"] is None and "not CIFAR-10 errors" in summary["dataset_description"]
    changed = {"model.name": "resnet_8", "model.widths": [4, 4, 8], "batch_size": 32, "epochs": 2}
    assert summary["changed_from_named_config"] == changed
    said = ["model.name resnet_8 (recipe: resnet_20)", "model.widths 4 4 8 (recipe: 16 32 64)"]
    said += ["epochs 2 (recipe: 20)", "batch_size 32 (recipe: 64)"]
    assert summary["not_the_recipe"] == said
    assert summary["command"] == f"{CIFAR} {' '.join(SHORT)}"
    assert summary["hours"] * 3600 == pytest.approx(sum(r["train_seconds"] + r["test_seconds"] for r in records))
    assert summary["hardware"].startswith("8 x cpu (")
    blocks = ((4, 4), (4, 4), (4, 8))  # two convolutions each with their BN, behind 3x3 of three colours
    counts = [(before + width) * width * 9 + 4 * width for before, width in blocks]
    assert summary["parameters"] == 3 * 4 * 9 + 2 * 4 + sum(counts) + 9 * 10
    assert {"python", "jax", "jaxlib", "flax", "orbax-checkpoint"} <= summary["versions"].keys()
    assert summary["final_test_error"] < 90  # better than chance


def test_the_fast_recipe_whitens_by_its_images_and_trains_neither_stem_nor_scales(tmp_path):
    """And learns from 1,500 images in a single epoch."""
    command = ("--config", "speedrun", "--dataset", "cifar10_mini", "--epochs", "1", "--batch_size", "32")
    command += ("--validation_images", "200", "--average_decay", "0.5", "--model.widths", "8", "32", "32")
    rate = ("--optimizer.learning_rate", "0.1", "--schedule.warmup_epochs", "0.3")
    run = tmp_path / "run"
    with few_images(1700, 200):
        assert cifar.main([*command, *rate, "--workdir", str(run)]) == 0
        network = load_run(str(run), "latest", 0, None)
        images = load_splits(read_saved_run(run, CIFAR).config).train.images
    params, stem = network.variables["params"], network.variables["batch_stats"]["stem"]["kernel"]
    np.testing.assert_allclose(stem, patch_whitening(np.asarray(network.normalize(images))), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(params["stage_2"]["block_1"]["norm_1"]["scale"], np.ones(32))
    assert np.abs(params["stage_2"]["norm_1"]["bias"]).max() > 0
    assert json.loads((run / "summary.json").read_text())["final_test_error"] < 80


def test_a_workdir_of_another_config_is_refused_and_left_alone(capsys, short_run):
    before = {path: path.stat().st_mtime_ns for path in short_run.rglob("*")}
    code, _, err = _main(capsys, *SHORT, "--seed", "1", "--workdir", str(short_run))
    assert code == 2 and "seed: 0 there, 1 here" in err
    assert {path: path.stat().st_mtime_ns for path in short_run.rglob("*")} == before


def test_the_checkpoint_itself_knows_its_config(capsys, short_run):
    config = (short_run / "config.json").rename(short_run / "kept.json")
    try:
        code, _, err = _main(capsys, *SHORT, "--seed", "1", "--workdir", str(short_run))
        assert code == 2 and "seed: 0 there, 1 here" in err
        assert not (short_run / "config.json").exists()
    finally:
        config.rename(short_run / "config.json")


def test_resume_must_needs_a_checkpoint(capsys, tmp_path):
    code, _, err = _main(capsys, *SHORT, "--workdir", str(tmp_path / "run"), "--resume", "must")
    assert code == 2 and "holds no checkpoint" in err
    assert not (tmp_path / "run").exists()


def test_resume_never_moves_the_earlier_run_aside(capsys, short_run):
    kept = (short_run / "metrics.jsonl").read_bytes()
    code, out, _ = _main(capsys, *SHORT, "--workdir", str(short_run), "--resume", "never")
    assert code == 0 and "moved to" in out
    assert (short_run.with_name("run.1") / "metrics.jsonl").read_bytes() == kept
    fresh = [json.loads(line) for line in (short_run / "metrics.jsonl").read_text().splitlines()]
    assert [record["train_loss"] for record in fresh] == [json.loads(line)["train_loss"] for line in kept.splitlines()]


def test_a_diverging_run_says_at_which_step_and_exits_with_1(capsys, tmp_path, images):
    workdir = tmp_path / "run"
    code, _, err = _main(capsys, *SHORT, "--workdir", str(workdir), "--optimizer.learning_rate", "1e6")
    assert code == 1 and re.search(r"not finite at step \d+ \(epoch 1\)", err) and "Traceback" not in err
    assert "--optimizer.learning_rate" in err


@pytest.mark.quick
def test_dry_run_prints_recipe_cost_and_time_in_80_columns_and_trains_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = _main(capsys, "wrn_28_10", "--dry-run", "--epochs", "130", "--optimizer.weight_decay", "0.001")
    assert code == 0 and list(tmp_path.iterdir()) == [] and max(map(len, out.splitlines())) <= 80
    rates = re.findall(r"step ([\d,]+) to ([\d,]+) +([\d.]+)", out)
    assert rates == [("0", "23,009", "0.1"), ("23,010", "46,409", "0.02"), ("46,410", "50,699", "0.004")]
    text = re.sub(r"\s+", " ", out)
    for said in (
        "36,479,194",
        "10,486,657,536 forward",
        "50,700 = 130 epochs of 390 (batch 128)",
        "published 4.00 % (median of 5, mean/std)",
        "optimizer sgd, learning_rate 0.1, momentum 0.9, nesterov",
        "weight_decay 0.001",
        "augmentation crop_padding 4, padding_mode reflect, flip",
        "optimizer.weight_decay 0.001 (recipe: 0.0005)",
        "the last epoch is reported",
        "50,000 training images",
    ):
        assert said in text, said
    days, rate = re.search(
        r"time, about (\S+(?: d \d+ h)?) with evaluations, on .* the ([\d,]+) GFLOP/s", text
    ).groups()
    assert days != "0:00" and float(rate.replace(",", "")) > 0
