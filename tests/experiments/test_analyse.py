"""The analyse command: what it reads, writes and says, and how it leaves."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest

from experiments import analyse
from experiments.analysis_page import Section, page
from experiments.configs.base import Config, ModelConfig
from experiments.figures import render, to_json
from experiments.studies import STUDIES
from experiments.subject import load_run
from experiments.workdir import METRIC_KEYS, Workdir
from resjax import InputError, StochasticDepth, create_model, save_pretrained, train
from resjax.train import Checkpoints, Totals
from tests.experiments.command import outcome

_main = functools.partial(outcome, analyse.main)


def _write_run(path, config, errors=(50.0, 40.0)):
    """A workdir as experiments.cifar leaves it, of a network at its initialisation; returns the variables."""
    model = create_model(config.model.name, **config.model_options())
    optimizer = train.sgd(0.1)
    state = jax.jit(lambda: train.create_state(model, optimizer, config.seed, (32, 32, 3)))()
    workdir = Workdir(path)
    workdir.start(config.resolved("test"))
    for epoch, error in enumerate(errors, start=1):
        values = {"epoch": epoch, "step": 10 * epoch, "test_error": error, "train_accuracy": 1 - error / 200}
        workdir.append_metrics(dict.fromkeys(METRIC_KEYS, 0.25) | values)
    with Checkpoints(workdir.checkpoints) as checkpoints:
        checkpoints.save(state, Totals.zero(), {})
    return state.variables


CONFIG = Config(ModelConfig("preresnet_8"), dataset="cifar10_mini")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, variables) of a network of three blocks."""
    path = tmp_path_factory.mktemp("run")
    return path, _write_run(path, CONFIG)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of several depths, plain and residual, and one with stochastic depth."""
    paths = []
    for name, options, error in (
        ("plain_8", {}, 30.0),
        ("plain_14", {}, 35.0),
        ("resnet_8", {}, 28.0),
        ("resnet_14", {}, 24.0),
        ("resnet_8", {"survival_probability": 0.5}, 26.0),
    ):
        config = Config(ModelConfig(name, **options), dataset="cifar10_mini")
        workdir = Workdir(tmp_path_factory.mktemp(name))
        workdir.start(config.resolved(name))
        gradient = 0.5 if options else 0.25
        values = {"epoch": 1, "step": 10, "test_error": error, "train_accuracy": 0.8, "first_layer_gradient": gradient}
        workdir.append_metrics(dict.fromkeys(METRIC_KEYS, 0.0) | values)
        paths.append(str(workdir.path))
    return paths


SMALL = ("--images", "24", "--batch_size", "16", "--path_images", "16", "--path_draws", "1", "--draws", "2")


def test_a_run_is_loaded_as_it_was_trained(run):
    """Its variables bit for bit, and its test images as its training normalised them."""
    path, variables = run
    subject = load_run(str(path), "latest", 24, None)
    jax.tree.map(np.testing.assert_array_equal, subject.variables, dict(variables))
    assert subject.images.shape == (24, 32, 32, 3) and subject.labels.shape == (24,)
    assert subject.model.num_blocks == 3 and subject.name == "preresnet_8 on cifar10_mini, step 0"
    assert abs(subject.images.mean()) < 0.5 and 0.7 < subject.images.std() < 1.4
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    load_run(str(path), "latest", 24, None)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


@pytest.mark.quick
def test_a_config_is_read_back_from_what_it_wrote():
    config = dataclasses.replace(CONFIG, model=ModelConfig("wrn_16_1", block_type=(3, 1), survival_probability=0.8))
    written = json.loads(json.dumps(config.identity()))
    assert Config.from_identity(written) == config
    assert config.model_options()["stochastic_depth"] == StochasticDepth(0.8)
    assert Config.from_identity({"model.name": "resnet_20"}) == Config(ModelConfig("resnet_20"))
    with pytest.raises(InputError, match="Config: has no field 'modle'"):
        Config.from_identity(written | {"modle": 1})
    with pytest.raises(InputError, match="choose one"):
        ModelConfig("resnet_20", survival_probability=0.5, active_blocks=3).overrides()


def test_paths_are_drawn_and_their_numbers_written(capsys, run):
    """Of three blocks all eight paths are followed too."""
    path, _ = run
    code, out, err = _main(capsys, "paths", "--run", str(path), *SMALL)
    assert (code, err) == (0, "")
    assert (path / "analysis" / "paths.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((path / "analysis" / "paths.json").read_text())
    result = written["result"]
    assert result["share_of_paths"] == [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    assert len(result["gradient_norm"]) == len(result["exact_gradient_norm"]) == 4
    # One path past all blocks, one through all: what is drawn is what is enumerated, but for the images.
    assert result["exact_gradient_norm"][0] == pytest.approx(result["gradient_norm"][0], rel=0.5)
    assert f"{result['decay_rate']:.2f} to the power" in re.sub(r"\s+", " ", out)
    assert written["shows"] and written["source"].startswith("Veit et al.")


def test_runs_are_compared(capsys, runs, tmp_path):
    for study, message in (
        ("degradation", r"the plain training error changes by \+0.0 points"),
        ("stochastic_depth", "resnet_8: leaving out blocks makes the first layer's gradient 2.00 times as large"),
    ):
        code, out, err = _main(capsys, study, "--runs", *runs, "--output", str(tmp_path))
        assert (code, err) == (0, "") and re.search(message, re.sub(r"\s+", " ", out)), out
        assert (tmp_path / f"{study}.png").exists()
    rows = json.loads((tmp_path / "degradation.json").read_text())["result"]["runs"]
    assert [(row["kind"], row["depth"], row["test_error"]) for row in rows] == [
        ("plain", 8, 30.0),
        ("plain", 14, 35.0),
        ("residual", 8, 28.0),
        ("residual", 14, 24.0),
    ]
    depths = json.loads((tmp_path / "stochastic_depth.json").read_text())["result"]["runs"]
    assert [run["expected_depth"] for run in depths] == [3, 6, pytest.approx((3 * 3 - 1) / 4)]


@pytest.mark.quick
def test_the_report_stands_alone_and_says_what_is_missing():
    study = STUDIES["reorder"]
    result = to_json(
        {"name": "<net>", "swaps": np.arange(4), "kendall_tau": np.array([1, 0.9, 0.5, 0.4]), "error": np.arange(4) / 8}
    )
    png = render(study, result)
    text = page(
        "A title",
        {"network": "<net>"},
        [Section(study, png, tuple(study.shows(result))), Section(study, missing="no <run>")],
    )
    assert text.count("data:image/png;base64,") == 1 and 'src="http' not in text and "<net>" not in text
    assert "&lt;net&gt;: error 0.0 % in order; 12.5 % in the mean" in text
    assert "Not drawn: no &lt;run&gt;." in text
    assert to_json({"a": np.float32(np.nan), 1: (np.int32(3),)}) == {"a": None, "1": [3]}


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the name of a study comes first: lesion, .*, all"),
        (["lesions"], "unknown study 'lesions'; did you mean 'lesion'"),
        (["lesion"], "give a trained network: --run WORKDIR, or --model NAME --weights FILE"),
        (["lesion", "--run", "nowhere"], "nowhere: holds no config.json"),
        (["lesion", "--run", "a", "--model", "resnet_20"], "--run and --weights, .*: choose one"),
        (["lesion", "--model", "resnet_20"], "--model: give the --weights, too"),
        (["lesion", "--mean", "1", "1", "1"], "--mean: give the --weights, too"),
        (["lesion", "--run", "a", "--dataset", "cifar10"], "--run and --weights, .*: choose one"),
        (["lesion", "--weights", "w.pth"], "w.pth: say with --model"),
        (["degradation"], "give --runs with the workdirs"),
        (["stochastic_depth"], "give --runs with workdirs"),
        (["lesion", "--draws", "0"], "--draws: expected a positive integer, got 0"),
        (["lesion", "--images", "-1"], "--images: expected an integer >= 0, got -1"),
        (["shattered", "--networks", "1"], "--networks: expected at least 2"),
        (["lesion", "--batch_size", "9"], "--batch_size: expected a multiple of 8"),
    ],
)
def test_a_mistake_is_named_in_one_line_and_exits_with_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = _main(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert re.search(message, err), err


def test_runs_that_cannot_be_used_are_named(capsys, run, runs, tmp_path):
    path, _ = run
    save_pretrained(tmp_path / "five", create_model("resnet_8", num_classes=5), _five_classes())
    for arguments, message in (
        (["lesion", "--run", runs[0]], "holds no checkpoint"),
        (["lesion", "--run", str(path), "--plain", str(path)], "has residual blocks; it belongs in --run"),
        (["reorder", "--run", str(path), *SMALL], "no stage has two blocks"),
        (["lesion", "--weights", str(tmp_path / "five")], "a network of 5 classes; cifar10 has 10"),
        (["paths", "--run", str(path), "--images", "8", "--path_images", "16"], "--path_images: expected at most"),
    ):
        code, _, err = _main(capsys, *arguments, "--output", str(tmp_path / "out"))
        assert code == 2 and re.search(message, err), err


def _five_classes():
    model = create_model("resnet_8", num_classes=5)
    return jax.jit(lambda: model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)))()
