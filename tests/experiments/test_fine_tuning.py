"""Fine-tuning by command: `--pretrained`, a frozen trunk computed once, quick answers, and what becomes of the run."""

import json
import shlex

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from experiments import cifar, evaluate, imagenet, predict
from experiments.configs.imagenet import CONFIGS
from experiments.configs.programs import IMAGENET, SavedRun
from experiments.launch.command_line import parse
from experiments.training.workdir import Workdir, read_saved_run
from resjax import create_model, from_pretrained, preprocessing, pretrained_info, save_pretrained, train
from tests.helpers.command import outcome
from tests.helpers.hub_server import serving_as_hub
from tests.helpers.photographs import write_folder

SMALL = ["--epochs", "2", "--batch_size", "8", "--eval_batch_size", "8", "--compilation_cache", "off"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("photos"), 10)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small network, trained by nobody, with a mean for each pixel."""
    path = tmp_path_factory.mktemp("weights") / "small"
    model = create_model("resnet_8")
    variables = jax.jit(model.init)(jax.random.key(1), np.zeros((1, 16, 16, 3), np.float32))
    mean = np.linspace(100, 140, 16 * 16 * 3).reshape(16, 16, 3).astype(np.float32).tolist()
    about = {"model": "resnet_8", "mean": mean, "std": [60.0, 61.0, 62.0], "size": [16, 16], "crop": 0.8}
    save_pretrained(path, model, variables, about)
    return path


def _photographs(capsys, weights, folder, workdir, *more):
    options = ("--pretrained", weights, "--data_dir", folder, "--workdir", workdir, "--workers", 0)
    return outcome(imagenet.main, capsys, *options, *SMALL, *more)


def _variables(workdir):
    return train.read_variables(Workdir(workdir).checkpoints)[0]


def test_photographs_are_fine_tuned_by_the_name_of_the_weights_alone(capsys, tmp_path, weights, folder):
    code, out, err = _photographs(capsys, weights, folder, tmp_path / "run")
    assert code == 0 and "near chance" not in out, err  # the weights know something already
    saved = read_saved_run(tmp_path / "run")
    assert saved.name == "finetune" and saved.config.model.name == "resnet_8" and saved.config.eval_resize == 20
    old, new = from_pretrained(weights, num_classes=0)[1], _variables(tmp_path / "run")
    assert new["params"]["head"]["linear"]["kernel"].shape == (64, 2)
    for path, array in flatten_dict(old).items():
        same = np.array_equal(flatten_dict(new)[path], array)
        assert same == (path[0] == "batch_stats"), path  # the statistics stay, all else is trained
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["changed_from_named_config"]["pretrained"] == str(weights)
    assert "--config finetune " in summary["command"] and f"--pretrained {weights}" in summary["command"]
    assert "model.name" not in summary["changed_from_named_config"]
    # What the run is evaluated by, in other commands, is its weights' own input.
    own = preprocessing(weights)
    assert saved.data["input"] == {
        **{key: np.asarray(getattr(own, key)).astype(str).astype(float).tolist() for key in ("mean", "std")},
        **{"size": [16, 16], "crop": 0.8, "interpolation": "bilinear"},
    }
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    for command, options in (
        (evaluate, [tmp_path / "run"]),
        (predict, [folder / "val", "--weights", tmp_path / "run"]),
    ):
        code, out, err = outcome(command.main, capsys, *options, *(["--json"] if command is predict else []))
        assert code == 0, err
        if command is evaluate:
            assert f"error {last['test_error']:.2f}%" in out
        else:
            lines = [json.loads(line) for line in out.splitlines()]
            wrong = sum(f"/{line['classes'][0]}/" not in line["image"] for line in lines)
            assert 100 * wrong / len(lines) == last["test_error"]


def test_a_frozen_trunk_is_computed_once_and_trains_as_if_it_were_not(capsys, tmp_path, weights, folder):
    frozen = ("--freeze", "trunk", "--optimizer.kind", "sgd")
    code, out, err = _photographs(capsys, weights, folder, tmp_path / "once", *frozen)
    assert code == 0 and "features of 40 images, computed once" in out, err
    # Augmentation that never does anything, so that the trunk is computed in each step.
    code, out, err = _photographs(
        capsys, weights, folder, tmp_path / "always", *frozen, "--augmentation.random_erasing", "1e-30"
    )
    assert code == 0 and "computed once" not in out, err
    once, always = (flatten_dict(_variables(tmp_path / name)) for name in ("once", "always"))
    old = flatten_dict(from_pretrained(weights, num_classes=0)[1])
    assert once.keys() == always.keys() > old.keys()
    for path, array in once.items():
        if path[1] == "head":
            assert array.shape[-1] == 2
        else:
            np.testing.assert_array_equal(array, old[path])
            np.testing.assert_array_equal(always[path], old[path])
    records = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("once", "always")
    ]
    assert records[0].keys() == records[1].keys()
    code, out, err = outcome(evaluate.main, capsys, tmp_path / "once")
    assert code == 0 and f"error {records[0]['test_error']:.2f}%" in out, err
    # Other weights under the same name are another start.
    again = _photographs(capsys, weights, folder, tmp_path / "once", *frozen)
    assert again[0] == 0, again[2]
    config = json.loads((tmp_path / "once" / "config.json").read_text())
    config["data"]["weights"] = "0" * 16
    (tmp_path / "once" / "config.json").write_text(json.dumps(config))
    code, _, err = _photographs(capsys, weights, folder, tmp_path / "once", *frozen)
    assert code == 2 and "the weights to start from: 0000000000000000 there" in err


def test_weights_of_the_hub_are_fine_tuned_from_a_stage_on(capsys, monkeypatch, tmp_path, weights, folder):
    pytest.importorskip("huggingface_hub", reason="the hub's client: pip install 'resjax[hub]'")
    with serving_as_hub(monkeypatch, tmp_path / "hub") as server:
        server.commit("me/small", {path.name: path.read_bytes() for path in weights.iterdir()})
        frozen = ("--freeze", "stages:2", "--epochs", 1)
        code, _, err = _photographs(capsys, "me/small", folder, tmp_path / "run", *frozen)
    assert code == 0, err
    old, new = (flatten_dict(of) for of in (from_pretrained(weights, num_classes=0)[1], _variables(tmp_path / "run")))
    for path, array in old.items():
        kept = path[0] == "batch_stats" or path[1] in ("stem", "stage_1", "stage_2")
        assert np.array_equal(new[path], array) == kept, path
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "--pretrained me/small --freeze stages:2" in summary["command"]


def test_quick_answers_are_those_of_the_features(capsys, tmp_path, weights, folder):
    code, out, err = _photographs(capsys, weights, folder, tmp_path / "run", "--knn", "--linear_probe")
    assert code == 0, err
    assert not (tmp_path / "run").exists()
    trunk, variables = from_pretrained(weights, num_classes=0)
    preprocess, names = preprocessing(weights), ("airplane", "automobile")
    files = {
        split: [(path, label) for label, name in enumerate(names) for path in sorted((folder / split / name).iterdir())]
        for split in ("train", "val")
    }
    seen = {
        split: (np.asarray(trunk.apply(variables, preprocess([path for path, _ in found]))), [at for _, at in found])
        for split, found in files.items()
    }
    (known, labels), (queries, truth) = (seen[split] for split in ("train", "val"))
    votes = train.nearest_neighbours(known, np.array(labels), queries, 2)
    wrong = int((votes.argmax(1) != np.array(truth)).sum())
    assert f"nearest neighbours: test error {5 * wrong:.2f}% ({wrong} of 20 images)" in out
    assert "linear probe, weight decay" in out and "features of 40 images" in out


def test_small_images_are_fine_tuned_with_their_own_heads(capsys, tmp_path, weights):
    """Gray images of another size than the weights'; each seed draws a head of its own."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 12, 12, 1), np.uint8)
    np.savez(
        tmp_path / "own.npz",
        x_train=images[:40],
        y_train=np.arange(40) % 3,
        x_test=images[40:],
        y_test=np.arange(20) % 3,
    )
    options = ("--pretrained", weights, "--dataset", "arrays", "--data_dir", tmp_path / "own.npz")
    options += ("--workdir", tmp_path / "run", "--seeds", 2, *SMALL, "--freeze", "trunk", "--epochs", 1)
    code, out, err = outcome(cifar.main, capsys, *options)
    assert code == 0, err
    heads = [_variables(tmp_path / "run" / f"seed_{seed}")["params"]["head"]["linear"]["kernel"] for seed in (0, 1)]
    assert heads[0].shape == (64, 3) and np.abs(heads[0] - heads[1]).max() > 0.01
    code, out, err = outcome(evaluate.main, capsys, tmp_path / "run" / "seed_1", "--save", tmp_path / "saved")
    assert code == 0, err
    about = pretrained_info(tmp_path / "saved")
    assert about["size"] == [16, 16] and about["crop"] == 0.8
    np.testing.assert_array_equal(preprocessing(tmp_path / "saved").mean, preprocessing(weights).mean)
    published = "".join((tmp_path / "saved" / name).read_text() for name in ("README.md", "config.json"))
    assert "arrays of 3 classes (0, 1, 2)" in published and f"--pretrained {weights.name} " in published
    assert not [place for place in (str(weights.parent), str(tmp_path), "own.npz") if place in published]


def test_a_command_line_is_read_back_from_its_changes():
    arguments = ["--pretrained", "resnet_20-cifar10", "--freeze", "trunk", "--crop", "resized", "--epochs", "7"]
    name, named, config = parse(IMAGENET, CONFIGS, arguments)
    assert (name, config.freeze, config.crop, config.augmentation.flip) == ("finetune", "trunk", "resized", False)
    assert config.pretrained == "resnet_20-cifar10" and named.config.pretrained is None
    assert named.config.model == config.model and config.image_size == 32


@pytest.mark.parametrize(
    "flags",
    [
        ["--freeze", "trunk", "--crop", "resized", "--augmentation.flip"],
        ["--normalization", "imagenet", "--image_size", "224"],
        ["--model.no_frozen_statistics", "--epochs", "7"],
        ["--config", "quickstart", "--freeze", "none"],
    ],
)
def test_the_command_of_a_run_repeats_it_where_defaults_follow_the_weights(flags):
    name, _, config = parse(IMAGENET, CONFIGS, ["--pretrained", "resnet_20-cifar10", *flags])
    saved = SavedRun(IMAGENET, name, config.identity(), config.run_options(), "config.json")
    program, _, words = saved.command().partition(" --config ")
    again = parse(IMAGENET, CONFIGS, ["--config", *shlex.split(words)])
    assert program == IMAGENET and again[2].identity() == config.identity()


def test_what_cannot_be_started_from_is_said_in_a_line(capsys, tmp_path, folder):
    for weights, said in (
        ("resnet_20-cifar1", "--pretrained resnet_20-cifar1: "),
        (tmp_path, f"--pretrained {tmp_path}: "),
    ):
        code, _, err = outcome(imagenet.main, capsys, "--pretrained", weights, "--data_dir", folder)
        assert code == 2 and said in err and "Traceback" not in err
    flags = ("--pretrained", "resnet_20-cifar10", "--data_dir", folder, "--image_size", 40)
    code, _, err = outcome(imagenet.main, capsys, *flags, "--workdir", tmp_path / "run", *SMALL)
    assert code == 2 and "takes the mean of each of 32x32 pixels off, got 40" in err
