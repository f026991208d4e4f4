"""The evaluate command: the error of runs and of saved weights, and what is saved."""

import functools
import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

import resjax
from experiments import evaluate
from experiments.configs.cifar import CONFIGS
from experiments.reports.model_card import card, facts_of_run
from experiments.reports.runs import command_of, read_ledger, read_run
from resjax.data import dataset_info, load_dataset
from resjax.interop import sources
from tests.conftest import ROOT
from tests.helpers.command import outcome
from tests.helpers.few_images import few_images
from tests.helpers.finished_run import write_run

_main = functools.partial(outcome, evaluate.main)
CENTRED = ("--mean", "125", "123", "114", "--std", "1", "1", "1")
MODEL = CONFIGS["quickstart"].config.model.replace(name="resnet_8")


@pytest.fixture(scope="module", autouse=True)
def images():
    """200 test images."""
    with few_images(500, 200):
        yield


def _run(path, draw_variables, **changes):
    return write_run(path, "quickstart", train_images=500, draw_variables=draw_variables, model=MODEL, **changes)


@pytest.fixture
def run(tmp_path, draw_variables):
    return _run(tmp_path / "run", draw_variables)


def _errors(out):
    return int(re.search(r"\((\d+) of 200 images\)", out).group(1))


def _count(model, variables, mean, std):
    """Errors on the embedded test images, in batches of 20, normalised by NumPy."""
    test = load_dataset("cifar10_mini", "test")
    predict = jax.jit(lambda images: model.apply(variables, images).argmax(-1))
    images = (test.images.astype(np.float32) - np.float32(mean)) / np.float32(std)
    classes = np.concatenate([predict(part) for part in np.split(images, 10)])
    return int((classes != test.labels).sum())


def _state_dict(variables):
    """A state dictionary of PyTorch, of a ResNet-20 that puts its zero channels last, as ours does."""
    modules = {"stem/conv": "conv1", "stem/norm": "bn1", "head/linear": "fc"}
    for stage, block, layer in itertools.product((1, 2, 3), (1, 2, 3), (1, 2)):
        modules[f"stage_{stage}/block_{block}/conv_{layer}"] = f"layer{stage}.{block - 1}.conv{layer}"
        modules[f"stage_{stage}/block_{block}/norm_{layer}"] = f"layer{stage}.{block - 1}.bn{layer}"
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    entries = {}
    for (_, *module, name), leaf in flatten_dict(variables).items():
        array = np.asarray(leaf)
        array = array.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, (0,)))
        entries[f"{modules['/'.join(module)]}.{names[name]}"] = np.ascontiguousarray(array)
    return entries


@pytest.mark.parametrize("normalization", ["mean_std", "per_pixel_mean"])
def test_what_is_saved_has_the_error_of_its_card_to_the_last_image(capsys, tmp_path, draw_variables, normalization):
    run = _run(tmp_path / "run", draw_variables, normalization=normalization)
    folder = tmp_path / "resnet_8-mini"
    code, out, err = _main(capsys, run, "--save", folder)
    assert code == 0, err
    errors = _errors(out)
    about = resjax.pretrained_info(folder)
    assert (about["errors"], about["test_images"], about["test_error"]) == (errors, 200, errors / 2)
    assert f"{errors / 2:.2f} % ({errors} of 200 images)" in (folder / "README.md").read_text()
    assert _errors(_main(capsys, folder)[1]) == errors
    # And by another computation.
    model, variables = resjax.from_pretrained(folder)
    assert _count(model, variables, about["mean"], about["std"]) == errors
    assert np.shape(about["mean"]) == ((3,) if normalization == "mean_std" else (32, 32, 3))
    if normalization == "per_pixel_mean":
        images = load_dataset("cifar10_mini", "train").images
        np.testing.assert_allclose(about["mean"], images.mean(0, dtype=np.float64), rtol=1e-6)


def test_weights_of_others_are_normalised_as_they_were_trained(capsys, tmp_path):
    model, variables = resjax.from_pretrained("resnet_20-cifar10")
    file = tmp_path / "resnet20.safetensors"
    save_file(_state_dict(variables), file)
    command = (file, "--model", "resnet_20", "--dataset", "cifar10_mini")
    info = dataset_info("cifar10_mini")
    found = [_errors(_main(capsys, *command, *flags)[1]) for flags in ((), CENTRED)]
    assert found == [_count(model, variables, info.mean, info.std), _count(model, variables, (125, 123, 114), 1)]
    assert found[1] < 40 < found[0]  # they were trained with a mean alone


def test_of_several_weights_in_a_file_it_is_said_which_are_tested(capsys, tmp_path):
    """Under a name of any suffix; the raw weights here err everywhere."""
    _, variables = resjax.from_pretrained("resnet_20-cifar10")
    state = _state_dict(variables)
    raw = {f"model.{name}": -array if name == "fc.weight" else array for name, array in state.items()}
    file = tmp_path / "checkpoint.t7"
    save_file(raw | {f"ema_model.module.{name}": array for name, array in state.items()}, file)
    command = (file, "--model", "resnet_20", "--dataset", "cifar10_mini", *CENTRED)
    outputs = [_main(capsys, *command, *flags)[1] for flags in ((), ("--weights_key", "model"))]
    assert "weights taken from 'ema_model.module' (averaged weights), not from model" in outputs[0]
    assert "taken from" not in outputs[1]
    assert _errors(outputs[0]) < 40 < 180 < _errors(outputs[1])
    code, _, err = _main(capsys, *command, "--weights_key", "modl")
    assert code == 2 and err.count("\n") == 1 and "the keys are: ema_model.module, model" in err


def test_one_json_object_is_printed_and_a_report_lies_beside_the_run(capsys, run):
    plain = _main(capsys, run)[1]
    code, out, err = _main(capsys, run, "--json", "--report", "--ood", "cifar10_mini")
    result = json.loads(out)
    assert code == 0 and out.count("\n") == 1 and plain.splitlines()[1] in err, err
    assert result["errors"] == _errors(plain) and result["unknown_images"]["max_softmax"]["auroc"] == 50
    assert result == json.loads((run / "evaluation" / "evaluation.json").read_text())
    files = {"README.md", "classes.csv", "confusion.png", "evaluation.json", "mistakes.png", "reliability.png"}
    assert {path.name for path in (run / "evaluation").iterdir()} == files
    low, high = result["test_error_interval"]
    assert low < result["test_error"] < high and f"95% interval of the error {low:.2f}% to {high:.2f}%" in plain


def test_a_folder_with_a_readme_of_something_else_is_not_written_to(capsys, tmp_path, run):
    (tmp_path / "README.md").write_text("mine")
    code, _, err = _main(capsys, run, "--save", tmp_path)
    assert code == 2 and "holds a README.md of something else" in err
    assert (tmp_path / "README.md").read_text() == "mine" and not (tmp_path / "config.json").exists()


def test_a_run_is_tested_on_the_data_it_was_trained_on(capsys, tmp_path, draw_variables):
    damaged = tmp_path / "data" / "cifar-10-binary.tar.gz"
    damaged.parent.mkdir()
    damaged.write_bytes(b"no archive")
    run = _run(tmp_path / "run", draw_variables, dataset="cifar10", data_dir=str(damaged.parent))
    code, _, err = _main(capsys, run)
    assert code == 2 and str(damaged) in err


def test_test_time_augmentation_is_told_apart(capsys, tmp_path, run):
    plain = _main(capsys, run)[1]
    folder = tmp_path / "resnet_8-mini"
    code, out, err = _main(capsys, run, "--tta", "--save", folder)
    assert code == 0, err
    first, second = [line for line in out.splitlines() if "test loss" in line]
    assert first in plain and second.startswith("with test-time augmentation")
    about = resjax.pretrained_info(folder)
    assert (about["errors"], about["tta_errors"]) == (_errors(first), _errors(second))
    assert f"| with test-time augmentation | {about['tta_error']:.2f} %" in (folder / "README.md").read_text()
    assert "test-time" not in card("x", {k: v for k, v in about.items() if not k.startswith("tta")})


def test_the_card_says_how_the_weights_came_about_and_its_example_runs(capsys, tmp_path, run):
    folder = tmp_path / "resnet_8-mini"
    assert _main(capsys, run, "--save", folder)[0] == 0
    text = (folder / "README.md").read_text()
    for part in (
        "`python -m experiments.cifar --config quickstart --model.name resnet_8`",
        "`python -m experiments.evaluate resnet_8-mini --data_dir DIR`",
        "75,290 parameters, weights of the last epoch (3 of 3)",
        "model.name resnet_8",
        "none of this network",
    ):
        assert part in text, part
    example = re.search(r"```python\n(.*)```", text, re.S).group(1).replace('"resnet_8-mini"', repr(str(folder)))
    values = {"images": load_dataset("cifar10_mini", "test").images[:4]}
    exec(example, values)
    assert values["logits"].shape == (4, 10)


def test_weights_that_come_with_the_library_are_found_by_name(capsys, tmp_path, run, monkeypatch):
    monkeypatch.setattr(sources, "SHIPPED", tmp_path / "weights")
    assert resjax.list_pretrained() == []
    _, out, _ = _main(capsys, run, "--save", tmp_path / "weights" / "resnet_8-mini")
    assert resjax.list_pretrained() == ["resnet_8-mini"]
    assert resjax.from_pretrained("resnet_8-mini", dtype=jnp.bfloat16)[0].dtype == jnp.bfloat16
    assert resjax.pretrained_info("resnet_8-mini")["dataset"] == "cifar10_mini"
    assert _errors(_main(capsys, "resnet_8-mini")[1]) == _errors(out)
    with pytest.raises(
        resjax.InputError, match=r"resnet_9-mini/config.json: no such file.*did you mean 'resnet_8-mini'"
    ):
        resjax.from_pretrained("resnet_9-mini")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere/config.json: no such file"),
        (["RUN", "--model", "resnet_8"], "is a run, which has its own"),
        (["RUN", *CENTRED], "is a run, which has its own"),
        (["nowhere", *CENTRED], "nowhere/config.json: no such file"),
        (["resnet_20-cifar10", *CENTRED[:4]], "--mean and --std: give both"),
        (["resnet_20-cifar10", *CENTRED], "--mean, --std: resnet_20-cifar10 says itself"),
        (["FILE", "--model", "resnet_8", *CENTRED[:5], "0", "1", "1"], "--std: expected finite numbers > 0"),
        (["RUN", "--checkpoint", "best"], "holds no checkpoint"),
        (["RUN", "--batch_size", "0"], "--batch_size: expected a positive integer"),
        (["RUN", "--weights_key", "ema"], "is a run, which has its own"),
        (["RUN", "--epsilon", "8/255"], "--epsilon 8/255: is of an attack"),
        (["RUN", "--attack", "pgd", "--epsilon", "8"], "--epsilon: expected a fraction of the range of pixels"),
        (["resnet_20-cifar10", "--weights_key", "ema"], "--weights_key ema: resnet_20-cifar10 holds one network's"),
        (["FILE"], "say with --model which network"),
        (["resnet_20-cifar10", "--save", "new"], "resnet_20-cifar10 is no run; only those are saved"),
        (["RUN", "--save", "FILE"], "a file is there"),
        (["RUN", "--save", "INSIDE"], "weights.pth/x: a file is there, .*weights.pth; give a directory"),
    ],
)
def test_a_mistake_is_named_in_one_line(capsys, tmp_path, run, arguments, message):
    (tmp_path / "weights.pth").write_bytes(b"")
    places = {"RUN": run, "FILE": tmp_path / "weights.pth", "nowhere": tmp_path / "nowhere", "new": tmp_path / "new"}
    places["INSIDE"] = tmp_path / "weights.pth" / "x"
    code, _, err = _main(capsys, *(places.get(argument, argument) for argument in arguments))
    assert code == 2 and err.count("\n") == 1 and re.search(message, err), err
    assert not (tmp_path / "new").exists()


def test_only_a_finished_run_is_saved(capsys, tmp_path, run):
    (run / "summary.json").unlink()
    code, _, err = _main(capsys, run, "--save", tmp_path / "new")
    assert code == 2 and "not finished (3 of 20 epochs)" in err and not (tmp_path / "new").exists()


def test_every_shipped_network_loads_and_its_card_is_up_to_date():
    assert resjax.list_pretrained()
    for name in resjax.list_pretrained():
        model, variables = resjax.from_pretrained(name)
        about = resjax.pretrained_info(name)
        assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == about["parameters"]
        assert (sources.SHIPPED / name / "README.md").read_text() == card(name, about)
        recipe = CONFIGS[about["command"].split()[4]]
        assert (about["source"], about["deviations"]) == (recipe.source, list(recipe.deviations))
        logits = jax.eval_shape(model.apply, variables, jnp.zeros((1, 32, 32, 3)))
        assert logits.shape == (1, len(about["class_names"]))
        assert np.shape(about["mean"])[-1] == np.shape(about["std"])[-1] == 3


def test_the_ledger_has_the_run_of_every_shipped_network():
    runs = read_ledger(ROOT / "results" / "ledger.json")
    known = {(command_of(run), run["commit"]) for run in runs}
    for name in resjax.list_pretrained():
        about = resjax.pretrained_info(name)
        assert (about["command"], about["commit"]) in known


def test_what_saved_weights_cannot_say_is_refused_before_it_is_evaluated(capsys, tmp_path, draw_variables):
    run = _run(tmp_path / "run", draw_variables, normalization="gcn")
    code, out, err = _main(capsys, run, "--save", tmp_path / "new")
    assert code == 2 and "not (image - mean) / std" in err and "test error" not in out


def test_a_card_says_on_what_its_epoch_was_chosen(tmp_path):
    path = write_run(tmp_path / "run", "resnet_110_stochastic_depth", train_images=45_000)
    summary = json.loads((path / "summary.json").read_text())
    config = CONFIGS["resnet_110_stochastic_depth"].config
    about = facts_of_run(config, read_run(path), summary, "best")
    assert about["chosen"] == "the epoch that was best on the validation images"


def test_the_example_of_a_card_has_the_images_of_its_data_set():
    about = resjax.pretrained_info("resnet_20-cifar10")
    assert "RGB images 0 .. 255, [N, 32, 32, 3]" in card("x", about)
    assert "gray images 0 .. 255, [N, 28, 28, 1]" in card("x", about | {"dataset": "mnist", "model": "highway_10_32"})


@pytest.mark.slow
def test_the_shipped_networks_have_the_errors_of_their_cards(capsys, real_data_dir):
    for name in resjax.list_pretrained():
        code, out, _ = _main(capsys, name, "--data_dir", real_data_dir)
        about = resjax.pretrained_info(name)
        assert code == 0 and f"({about['errors']:,} of {about['test_images']:,} images)" in out
