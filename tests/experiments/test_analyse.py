"""The analyse command: what it reads, writes and says, and how it leaves."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest

from experiments import analyse
from experiments.configs import imagenet, segmentation
from experiments.configs.base import Config, ModelConfig, OptimizerConfig
from experiments.configs.imagenet.fields import ImagenetConfig
from experiments.evaluation.trained import load_run
from experiments.runtime.files import to_json
from experiments.studies import STUDIES, Measurements, Options
from experiments.studies.figures import render
from experiments.studies.page import Section, page
from experiments.training.workdir import METRIC_KEYS, Workdir
from resjax import ConstantScaling, InputError, StochasticDepth, create_model, save_pretrained, train
from resjax.train import Checkpoints, Totals
from tests.conftest import ROOT
from tests.helpers.browser import browser
from tests.helpers.command import outcome
from tests.helpers.documents import blocks

_main = functools.partial(outcome, analyse.main)


def _write_run(path, config, errors=(50.0, 40.0), kept=1):
    """A workdir as experiments.cifar leaves it, of a network at its initialisation; returns the variables.

    It has `kept` checkpoints, of which each but the first is a step of training behind the one before.
    """
    model = create_model(config.model.name, **config.model_options())
    optimizer = train.sgd(0.1)
    state = jax.jit(lambda: train.create_state(model, optimizer, config.seed, (32, 32, 3)))()
    workdir = Workdir(path)
    workdir.start(config.resolved("test"))
    for epoch, error in enumerate(errors, start=1):
        values = {"epoch": epoch, "step": 10 * epoch, "test_error": error, "train_accuracy": 1 - error / 200}
        workdir.append_metrics(dict.fromkeys(METRIC_KEYS, 0.25) | values)
    with Checkpoints(workdir.checkpoints, keep_period=1) as checkpoints:
        for _ in range(kept):
            checkpoints.save(state, Totals.zero(), {})
            variables = state.variables
            scaled = jax.tree.map(lambda leaf: 0.5 * leaf, state.params)
            state = state.replace(step=state.step + 10, params=scaled)
    return variables


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
        ("resnet_8", {"stochastic_depth": StochasticDepth(0.5)}, 26.0),
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
    network = load_run(str(path), "latest", 24, None)
    jax.tree.map(np.testing.assert_array_equal, network.variables, dict(variables))
    assert network.images.shape == (24, 32, 32, 3) and network.labels.shape == (24,)
    assert network.model.num_blocks == 3 and network.name == "preresnet_8 on cifar10_mini, step 0"
    assert abs(network.images.mean()) < 0.5 and 0.7 < network.images.std() < 1.4
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    load_run(str(path), "latest", 24, None)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


@pytest.mark.quick
def test_a_config_is_read_back_from_what_it_wrote():
    config = dataclasses.replace(
        CONFIG, model=ModelConfig("wrn_16_1", block_type=(3, 1), stochastic_depth=StochasticDepth(0.8))
    )
    written = json.loads(json.dumps(config.identity()))
    assert Config.from_identity(written) == config
    assert config.model_options()["stochastic_depth"] == StochasticDepth(0.8)
    assert Config.from_identity({"model.name": "resnet_20"}) == Config(ModelConfig("resnet_20"))
    with pytest.raises(InputError, match="Config: has no field 'modle'"):
        Config.from_identity(written | {"modle": 1})
    with pytest.raises(InputError, match="choose one"):
        ModelConfig(
            "resnet_20", **{"stochastic_depth.decay": "constant", "stochastic_depth.active_blocks": 3}
        ).checked()


def test_paths_are_drawn_and_their_numbers_written(capsys, run):
    """Of three blocks all eight paths are followed too."""
    path, _ = run
    code, out, err = _main(capsys, "paths", str(path), *SMALL)
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
        code, out, err = _main(capsys, study, *runs, "--output", str(tmp_path))
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


def test_learning_rates_are_transferred_over_depth_and_width(capsys, tmp_path):
    """The minimum of each depth, averaged over seeds; a run without all its epochs diverged; others are refused."""
    paths = []

    def add(name, rate, loss, seed=0, epochs=1, **options):
        optimizer = OptimizerConfig(learning_rate=rate)
        config = Config(ModelConfig(name, **options), "cifar10_mini", epochs, optimizer=optimizer, seed=seed)
        workdir = Workdir(tmp_path / f"run_{len(paths)}")
        workdir.start(config.resolved("own"))
        if loss is not None:
            values = {"epoch": 1, "step": 10, "train_loss": loss}
            workdir.append_metrics(dict.fromkeys(METRIC_KEYS, 0.0) | values)
        paths.append(str(workdir.path))

    for name, options, losses in (
        ("preresnet_8", {}, (2.0, 1.0, 2.0)),
        ("preresnet_20", {}, (1.0, 2.0, None)),
        ("preresnet_8", {"widths": (32, 64, 128)}, (3.0, 1.0, 3.0)),
        ("preresnet_8", {"shortcut_variant.exponent": 0.5}, (2.0, 1.0, 2.0)),
        ("preresnet_20", {"shortcut_variant.exponent": 0.5}, (2.0, 1.0, 2.0)),
    ):
        for rate, loss in zip((0.1, 0.2, 0.4), losses, strict=True):
            add(name, rate, loss, **options)
    add("preresnet_8", 0.2, 0.5, seed=1)
    code, out, err = _main(capsys, "depth_scaling", *paths, "--output", str(tmp_path))
    text = re.sub(r"\s+", " ", out)
    assert (code, err) == (0, "")
    assert (
        "preresnet, width 64: the best learning rate is 0.2 at 8 layers, 0.1 (at the end of those tried) at 20 layers."
        " It moves by a factor of 2.00, as depth to the power -0.76, as far as the rates tried show. 1 of 7"
        " runs did not end and count as diverged."
    ) in text
    assert "preresnet, 8 layers: the best learning rate is 0.2 at 64 channels, 0.2 at 128 channels." in text
    assert "exponent 0.5, width 64: the best learning rate is 0.2 at 8 layers, 0.2 at 20 layers. It moves by a" in text
    assert (tmp_path / "depth_scaling.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "depth_scaling.json").read_text())
    assert written["verdict"] == "agrees" and "factor of 1.00 at most where branches are scaled, of 2.00" in text
    result = written["result"]
    assert result["transfer"][0]["values"] == pytest.approx([0.75, 1.0]) and result["metric"] == "train_loss"
    code, _, err = _main(capsys, "depth_scaling", paths[0], "--output", str(tmp_path))
    assert code == 2 and "name the workdirs of networks of several depths at several learning rates" in err
    add("preresnet_8", 0.1, 1.0, epochs=2)
    code, _, err = _main(capsys, "depth_scaling", *paths, "--output", str(tmp_path))
    assert code == 2 and "differ in dataset, epochs, batch size or kind of optimizer" in err


def test_a_run_is_followed_through_its_checkpoints_and_compared_with_another(capsys, tmp_path):
    """The last checkpoint is the network itself; the line to a run of another seed ends at that one."""
    config = dataclasses.replace(CONFIG, model=ModelConfig("preresnet_8", widths=(2, 2, 2)))
    one, other = tmp_path / "one", tmp_path / "other"
    _write_run(one, config, kept=3)
    _write_run(other, dataclasses.replace(config, seed=1))
    few = ("--curvature.images", "8", "--curvature.steps", "3", "--images", "8", "--path_images", "8")
    code, out, err = _main(capsys, "curvature", str(one), *few, "--batch_size", "8")
    assert (code, err) == (0, "") and "Along training, the largest was" in out
    found = json.loads((one / "analysis" / "curvature.json").read_text())["result"]["network"]
    assert found["along"]["epochs"] == [0, 1, 2]
    assert found["along"]["top"][-1] == found["top"] and found["along"]["top"][0] != found["top"]
    line = ("--connectivity.other", str(other), "--connectivity.images", "8", "--connectivity.points", "3")
    ends = []
    for run, flags in ((one, line), (other, ("--connectivity.images", "8", "--connectivity.points", "3"))):
        code, _, err = _main(capsys, "connectivity", str(run), *flags, "--images", "8", *few[-2:], "--batch_size", "8")
        assert (code, err) == (0, "")
        written = json.loads((run / "analysis" / "connectivity.json").read_text())["result"]["network"]
        ends.append([curve["loss"] for curve in written["curves"].values()])
    assert "copy" in written["other"]
    for loss, own in zip(*ends, strict=True):
        assert loss[-1] == pytest.approx(own[0], rel=1e-5) and loss[0] != pytest.approx(own[0], rel=1e-3)


def test_depth_and_kind_are_those_of_the_network_and_not_of_its_name(capsys, tmp_path):
    """A residual network without shortcuts is plain, other stage sizes are another depth, and photographs count too."""
    resolved = [
        Config(ModelConfig("resnet_20", shortcut="none"), dataset="cifar10_mini").resolved("a"),
        Config(ModelConfig("resnet_8", stage_sizes=(2, 2, 2)), dataset="cifar10_mini").resolved("b"),
        Config(ModelConfig("densenet_22_4"), dataset="cifar10_mini").resolved("c"),
        Config(
            ModelConfig("preresnet_8", order="original", shortcut_variant=ConstantScaling(0.0, 1.0)), dataset="cifar10"
        ).resolved("d"),
        ImagenetConfig(ModelConfig("resnet_14"), image_size=32).resolved("e"),
    ]
    for i, content in enumerate(resolved):
        workdir = Workdir(tmp_path / str(i))
        workdir.start(content)
        values = {"epoch": 1, "step": 10, "test_error": 10.0 + i, "train_accuracy": 0.8}
        workdir.append_metrics(dict.fromkeys(METRIC_KEYS, 0.0) | values)
    folders = [tmp_path / str(i) for i in range(5)]
    code, out, err = _main(capsys, "degradation", "--runs", *map(str, folders), "--output", str(tmp_path / "out"))
    assert (code, err) == (0, "")
    rows = json.loads((tmp_path / "out" / "degradation.json").read_text())["result"]["runs"]
    assert [(row["kind"], row["depth"], row["test_error"]) for row in rows] == [
        ("plain", 8, 13.0),
        ("plain", 20, 10.0),
        ("residual", 14, 11.0),
        ("residual", 14, 14.0),
        ("residual", 22, 12.0),
    ]
    assert "resnet_20, shortcut none" in re.sub(r"\s+", " ", out)


def test_gradients_are_compared_between_runs_of_one_network_alone(capsys, tmp_path):
    """Two networks of one name, of which one has stochastic depth, say nothing about it."""
    paths = []
    for i, options in enumerate(({}, {"stage_sizes": (2, 2, 2), "stochastic_depth": StochasticDepth(0.5)})):
        workdir = Workdir(tmp_path / str(i))
        workdir.start(Config(ModelConfig("resnet_8", **options), dataset="cifar10_mini").resolved("x"))
        values = {"epoch": 1, "step": 10, "first_layer_gradient": 0.25 + i}
        workdir.append_metrics(dict.fromkeys(METRIC_KEYS, 0.0) | values)
        paths.append(str(workdir.path))
    code, out, err = _main(capsys, "stochastic_depth", "--runs", *paths, "--output", str(tmp_path / "out"))
    assert (code, err) == (0, "") and "times as large" not in out


def test_networks_of_one_name_are_measured_each(run):
    """Nothing that is shown is a key: the lesions of a plain network are not those of the residual one before it."""
    path, _ = run
    first = load_run(str(path), "latest", 16, None)
    model = create_model("resnet_8", shortcut="none")
    second = dataclasses.replace(first, model=model, variables=_initial(model, 1))
    third = dataclasses.replace(first, variables=_initial(first.model, 2))
    assert first.name == second.name == third.name
    measurements = Measurements(Options(draws=1, batch_size=16), first, second)
    found = [measurements.lesions(network) for network in (first, second, third)]
    assert [lesions["single"].shape for lesions in found] == [(3, 16), (4, 16), (3, 16)]
    assert "skip" in found[0] and "skip" not in found[1]
    assert (found[0]["base"] != found[2]["base"]).any()
    assert measurements.lesions(first) is found[0]


@pytest.mark.quick
def test_what_does_not_depend_on_the_network_is_measured_once(tmp_path, monkeypatch):
    """Other inputs are measured again, and so is a copy that is damaged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measurements, calls = Measurements(Options(), None, None), []

    def kept(inputs):
        return measurements.kept(
            "shattered", {"inputs": inputs}, lambda: {"calls": np.array([calls.append(1), len(calls)])[1]}
        )

    first, second = np.arange(3), np.arange(3) + 1
    assert [kept(first)["calls"], kept(first)["calls"], kept(second)["calls"]] == [1, 1, 2]
    for file in tmp_path.rglob("shattered-*.json"):
        file.write_text("{")
    assert kept(first)["calls"] == 3


def _initial(model, seed):
    return jax.jit(model.init)(jax.random.key(seed), np.zeros((1, 32, 32, 3), np.float32))


@pytest.fixture(scope="module")
def report():
    """The page of a study that is drawn and of one that is not, with names that would be markup."""
    study = STUDIES["reorder"]
    errors = {"swaps": np.arange(4), "kendall_tau": np.array([1, 0.9, 0.5, 0.4]), "error": np.arange(4) / 8}
    result = to_json({"network": {"name": "<net>", **errors}})
    png, numbers = render(study, result, "<net>")
    sections = [
        Section("reorder", study, png, numbers, tuple(study.shows(result)), study.judge(result)),
        Section("paths", STUDIES["paths"], missing="no <run>"),
    ]
    return page("A <title>", {"network": "<net>"}, sections)


@pytest.mark.quick
def test_the_report_stands_alone_and_says_what_is_missing(report):
    assert report.count("data:image/png;base64,") == 1 and 'src="http' not in report and "<net>" not in report
    assert "&lt;net&gt;: error 0.0 % in the trained order." in report and "and more is 12.5 %, of the other" in report
    assert "Not drawn: no &lt;run&gt;." in report and "2 studies: agrees 1, not drawn 1." in report
    assert re.search(
        r"<title>&lt;net&gt;\nKendall tau with the trained order: 0.9\ntest error \(%\): 12.5</title>", report
    )
    assert to_json({"a": np.float32(np.nan), 1: (np.int32(3),)}) == {"a": None, "1": [3]}


@pytest.mark.browser
def test_a_browser_finds_the_numbers_on_the_marks_of_a_figure(report, tmp_path):
    """Marks are over the picture, each says its numbers, and the links of the contents lead to sections."""
    probe = """<script>addEventListener("load", () => {
      const picture = document.querySelector(".figure img").getBoundingClientRect();
      const marks = [...document.querySelectorAll(".figure svg rect")];
      const over = marks.filter((mark) => {
        const box = mark.getBoundingClientRect(), x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
        scrollTo(0, y + scrollY - 100);
        const now = mark.getBoundingClientRect();
        const hit = document.elementFromPoint((now.left + now.right) / 2, (now.top + now.bottom) / 2);
        return hit.querySelector("title") && now.width > 4 && box.left >= picture.left && box.right <= picture.right;
      });
      const links = [...document.querySelectorAll("td a")].filter((a) => document.querySelector(a.hash));
      document.title = ["marks", marks.length, over.length, "links", links.length].join(" ");
    });</script>"""
    file = tmp_path / "analysis.html"
    file.write_text(report + probe)
    shown = browser(file, tmp_path)
    assert re.search(r"<title>marks 4 4 links 2</title>", shown), re.findall("<title>(marks.*?)</title>", shown)
    assert "<h1>A &lt;title&gt;</h1>" in shown


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the name of a study comes first: lesion, .*, all"),
        (["lesions"], "unknown study 'lesions'; did you mean 'lesion'"),
        (["lesion"], "name a trained network: RUN, NAME, or FILE --model NAME"),
        (["lesion", "nowhere"], "nowhere"),
        (["lesion", ".", "--model", "resnet_20"], "--model: . is a run, which has its own"),
        (["lesion", "--model", "resnet_20"], "--model: name the file of weights, too: .* lesion FILE"),
        (["lesion", "--mean", "1", "1", "1"], "--mean: name the file of weights, too"),
        (["lesion", "a", "b"], "lesion: takes one network, got 2"),
        (["lesion", "w.pth"], "w.pth: say with --model"),
        (["degradation"], "name the workdirs of plain and residual networks"),
        (["stochastic_depth"], "name the workdirs of networks with and without"),
        (["stochastic_depth", "resnet_20-cifar10"], "name the workdirs of networks with and without"),
        (["lesion", "--draws", "0"], "--draws: expected a positive integer, got 0"),
        (["lesion", "--images", "-1"], "--images: expected a number >= 0, got -1"),
        (["shattered", "--points", "31"], "--points: expected at least 32, got 31"),
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
    photographs, masks, dense = tmp_path / "photographs", tmp_path / "masks", tmp_path / "dense"
    _write_run(dense, Config(ModelConfig("densenet_40_12", stage_sizes=(1, 1), growth_rate=2), dataset="cifar10_mini"))
    Workdir(photographs).start(imagenet.CONFIGS["quickstart"].config.resolved("quickstart"))
    Workdir(masks).start(segmentation.CONFIGS["quickstart"].config.resolved("quickstart"))
    for arguments, message in (
        (["lesion", runs[0]], "holds no checkpoint"),
        (["lesion", str(path), "--plain", str(path)], "has residual blocks; name it first, without --plain"),
        (["lesion", str(path), "--plain", str(dense)], "densenet_40_12, .* has skips; give a network without"),
        (["degradation", runs[0], runs[-1]], "fewer than two of these runs trained all of their blocks"),
        (["stochastic_depth", runs[0], runs[1]], "none of these networks has residual blocks"),
        (["reorder", str(path), *SMALL], "no stage has two blocks"),
        (["lesion", str(tmp_path / "five")], "a network of 5 classes; cifar10 has 10"),
        (["lesion", str(photographs)], r"a run of `python -m experiments.imagenet`; .* read by `.*evaluate"),
        (
            ["degradation", str(masks), str(path)],
            r"a run of `python -m experiments.segmentation`; .* predict",
        ),
        (["paths", str(path), "--images", "8", "--path_images", "16"], "--path_images: expected at most"),
    ):
        code, _, err = _main(capsys, *arguments, "--output", str(tmp_path / "out"))
        assert code == 2 and re.search(message, err), err
    others = _write_arrays_run(tmp_path)
    code, _, err = _main(capsys, "lesion", str(path), "--plain", str(others), "--output", str(tmp_path / "out"))
    assert code == 2 and re.search("is tested on other images than preresnet_8.*; give networks of the same data", err)
    (tmp_path / "file").write_text("")
    code, _, err = _main(capsys, "stochastic_depth", "--runs", *runs, "--output", str(tmp_path / "file" / "out"))
    assert code == 2 and "--output" in err and "cannot be made" in err


def _write_arrays_run(folder):
    """A run of a plain network on arrays of its own."""
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3)).astype(np.uint8)
    parts = {"train": slice(40), "test": slice(40, 60)}
    arrays = {f"{name}_images": images[part] for name, part in parts.items()}
    labels = {f"{name}_labels": np.arange(60)[part] % 10 for name, part in parts.items()}
    np.savez(folder / "data.npz", **arrays, **labels)
    config = Config(ModelConfig("plain_8", widths=(2, 2, 2)), dataset="arrays", data_dir=str(folder / "data.npz"))
    _write_run(folder / "arrays", config)
    return folder / "arrays"


@pytest.mark.quick
def test_the_quickest_way_is_named_first():
    """In both documents, with its plain twin."""
    for document in ("README.md", "experiments/README.md"):
        lines = [line for block in blocks((ROOT / document).read_text(), "bash") for line in block.splitlines()]
        first = next(line for line in lines if line.startswith(analyse.PROGRAM))
        assert first.partition("#")[0].rstrip() == analyse.QUICKEST


def _five_classes():
    model = create_model("resnet_8", num_classes=5)
    return jax.jit(lambda: model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)))()
