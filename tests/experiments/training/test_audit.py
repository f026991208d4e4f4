"""Audits: a run trained again in parts is the same bit for bit; tampered runs, data and weights are found."""

import json
import shutil
import subprocess
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import audit, evaluate
from experiments.training.audit import Audit, Finding, Span, choose
from experiments.training.packed import pack
from resjax import from_pretrained, pretrained_info, save_pretrained
from resjax.errors import InputError
from resjax.train import digest_handler
from resjax.train.checkpoint import _handlers
from tests.conftest import ROOT
from tests.helpers.command import outcome
from tests.helpers.finished_run import write_run

FLAGS = "--config quickstart --model.name resnet_8 --dataset arrays --batch_size 32 --eval_batch_size 40 --epochs 3"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of three epochs of three steps, which kept a checkpoint of each, and its data."""
    folder, rng = tmp_path_factory.mktemp("audited"), np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 96), ("test", 40)):
        arrays[f"{name}_images"] = rng.integers(0, 255, (count, 8, 8, 3), np.uint8)
        arrays[f"{name}_labels"] = np.arange(count) % 3
    np.savez(folder / "own.npz", **arrays)
    where = ("--keep_every", "1", "--data_dir", folder / "own.npz", "--workdir", folder / "run")
    words = [sys.executable, "-m", "experiments.cifar", *FLAGS.split(), *map(str, where)]
    subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of the run."""
    monkeypatch.chdir(ROOT)
    return shutil.copytree(made / "run", tmp_path / "run")


def test_a_run_trained_again_is_the_same(run, capsys):
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    code, said, error = outcome(audit.main, capsys, run, "--spans", 1, "--seed", 1)
    assert (code, error) == (0, "")
    assert "3 spans between kept checkpoints; training 1 again" in said
    assert "the same, bit for bit" in said and "1 of 1 spans are as saved" in said
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before


def test_a_checkpoint_and_metrics_that_were_replaced_whole_are_found(run, tmp_path):
    """Consistent in themselves: digests, step and config are right."""
    with ocp.CheckpointManager(run / "checkpoints" / "latest", item_handlers=_handlers()) as manager:
        wanted = {"train": ocp.args.StandardRestore(), "run": ocp.args.JsonRestore()}
        saved = manager.restore(6, args=ocp.args.Composite(**wanted))
        params = saved["train"]["state"]["params"]
        params["head"]["linear"]["bias"] = np.nextafter(params["head"]["linear"]["bias"], np.float32(1))
        manager.delete(6)
        items = {"train": ocp.args.StandardSave(saved["train"]), "run": ocp.args.JsonSave(saved["run"])}
        manager.save(6, args=ocp.args.Composite(**items, digests=digest_handler.SaveDigests(6)), force=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[1]["test_error"] -= 10
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    audited = Audit(run)
    assert audited.check_files() is None
    (tmp_path / "scratch").mkdir()
    finding = audited.train_again(Span(3, 6, 2), tmp_path / "scratch")
    assert finding.arrays == ("params/head/linear/bias",)
    assert 0 < finding.distance < 1e-3 and finding.machine is None
    assert len(finding.metrics) == 1 and finding.metrics[0].startswith("epoch 2: test_error ")
    assert not audit.verdict(finding, None)[0] and audit.verdict(finding, 0.01)[0]


def test_files_that_were_changed_are_found_before_training(run, capsys):
    file = max((run / "checkpoints" / "latest" / "6" / "train").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    code, _, error = outcome(audit.main, capsys, run)
    assert code == 1 and "checkpoint" in error and "is not as it was written" in error


def test_a_config_that_was_changed_is_found_before_training(run, capsys):
    content = json.loads((run / "config.json").read_text())
    content["config"]["optimizer.learning_rate"] *= 2
    (run / "config.json").write_text(json.dumps(content))
    code, _, error = outcome(audit.main, capsys, run)
    assert code == 1 and "a checkpoint of another run" in error and "optimizer.learning_rate" in error


def test_data_that_was_changed_is_refused(made, run, tmp_path, capsys):
    with np.load(made / "own.npz") as arrays:
        np.savez(tmp_path / "own.npz", **{**arrays, "train_labels": arrays["train_labels"][::-1]})
    code, _, error = outcome(audit.main, capsys, run, "--spans", 1, "--data_dir", tmp_path / "own.npz")
    assert code == 1 and "training again stopped before step" in error and "a run on other data" in error


def test_what_cannot_be_audited_is_said(run, capsys):
    code, _, error = outcome(audit.main, capsys, run, "--spans", 0)
    assert code == 2 and "--spans: expected a number >= 1, got 0" in error
    code, _, error = outcome(audit.main, capsys, run, "--tolerance", "nan")
    assert code == 2 and "--tolerance: expected a number >= 0, got nan" in error
    content = json.loads((run / "config.json").read_text()) | {"name": "gone"}
    (run / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="of the config 'gone', which this version does not have"):
        Audit(run).saved.command()
    shutil.rmtree(run / "checkpoints")
    code, _, error = outcome(audit.main, capsys, run)
    assert code == 2 and "train with --keep_every 1" in error


def test_spans_are_drawn_without_repetition_and_in_order():
    spans = [Span(step, step + 3, step // 3 + 1) for step in range(0, 30, 3)]
    drawn = choose(spans, 4, seed=0)
    assert len(set(drawn)) == 4 and drawn == sorted(drawn, key=lambda span: span.first)
    assert choose(spans, 99, seed=0) == spans
    assert {tuple(choose(spans, 4, seed)) for seed in range(9)} != {tuple(drawn)}


def test_a_span_that_differs_ends_with_exit_code_1(run, capsys, monkeypatch):
    found = Finding(0.5, ("params/a",), (), None)
    monkeypatch.setattr(Audit, "train_again", lambda audited, span, scratch: found)
    on_cpu = []
    monkeypatch.setattr(audit, "stay_on_cpu", lambda: on_cpu.append(True))
    code, said, error = outcome(audit.main, capsys, run, "--spans", 2)
    assert code == 1 and "parameters differ by 0.5 of the way" in " ".join(said.split())
    assert "2 of 2 spans are not what this config and data give" in error
    assert on_cpu, "the processes that train need the accelerator"


def test_another_machine_has_a_tolerance():
    near = Finding(0.05, ("params/a",), ("epoch 1: train_loss 1 there, 2 here",), "jax 1 there, 2 here")
    assert audit.verdict(near, None) == (
        True,
        "parameters differ by 0.05 of the way that they moved on another machine (jax 1 there, 2 here), within 0.1;"
        " metrics.jsonl: epoch 1: train_loss 1 there, 2 here",
    )
    only_metrics = Finding(0.0, (), near.metrics, near.machine)
    assert not audit.verdict(only_metrics, None)[0] and not audit.verdict(only_metrics, 0.5)[0]
    passed, said = audit.verdict(near, 0.01)
    assert not passed and "1 arrays differ, the first params/a; metrics.jsonl: epoch 1: train_loss" in said


@pytest.fixture(scope="module")
def saved(made):
    """The run's weights, as `evaluate --save` writes them."""
    assert evaluate.main([str(made / "run"), "--save", str(made / "weights")]) == 0
    return made / "weights"


@pytest.fixture
def weights(saved, tmp_path):
    """A copy of them."""
    return shutil.copytree(saved, tmp_path / "weights")


def _audit(capsys, made, *arguments):
    code, said, error = outcome(audit.main, capsys, *arguments, "--data_dir", made / "own.npz")
    return code, " ".join(said.split()), " ".join(error.split())


def test_weights_carry_what_an_audit_of_their_run_needs(made, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert str(made) not in (weights / "config.json").read_text()  # no folder of this machine
    code, said, error = _audit(capsys, made, weights)
    assert (code, error) == (0, "")
    assert "files: weights and facts are as they were saved" in said
    assert "data: 136 images and labels are those of the run" in said
    assert "errors on 40 test images" in said and "as it says" in said
    assert "not audited: how they were trained; --run takes their run with its kept checkpoints" in said
    pack(made / "run", tmp_path / "run.tar")
    code, said, error = _audit(capsys, made, weights, "--run", tmp_path / "run.tar", "--spans", 1)
    assert (code, error) == (0, "")
    assert "weights: the run's latest checkpoint, bit for bit" in said and "config and data: those of the run" in said
    assert "1 of 1 spans are as saved" in said and "not audited" not in said


def test_a_packed_run_is_audited_as_it_is(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Audit, "train_again", lambda audited, span, scratch: Finding(0.0, (), (), None))
    pack(made / "run", tmp_path / "run.tar")
    code, said, _ = _audit(capsys, made, tmp_path / "run.tar", "--spans", 9)
    assert code == 0 and "3 of 3 spans are as saved" in said
    code, _, error = _audit(capsys, made, tmp_path / "run.tar", "--run", tmp_path)
    assert code == 2 and "--run" in error and "only for weights" in error


def _saved_again(weights, change=lambda arrays: None, **facts):
    """Weights with other numbers or facts, whose files are consistent."""
    (model, variables), about = from_pretrained(weights), pretrained_info(weights)
    change(variables["params"])
    save_pretrained(weights, model, variables, about | facts)


def test_weights_that_were_changed_are_found(made, weights, tmp_path, capsys, monkeypatch):
    def nudge(params):
        params["head"]["linear"]["bias"] = np.nextafter(params["head"]["linear"]["bias"], np.float32(1))

    monkeypatch.setattr(Audit, "train_again", lambda audited, span, scratch: pytest.fail("trained before it was found"))
    _saved_again(weights, nudge)
    code, _, error = _audit(capsys, made, weights, "--run", made / "run")
    assert code == 1 and "1 arrays are not those of the latest checkpoint, the first ['params']['head']" in error
    file = weights / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, said, error = _audit(capsys, made, weights)
    assert code == 1 and "WRONG files" in said and "damaged, replaced" in error


def test_a_card_that_was_changed_is_found(made, weights, capsys):
    errors = pretrained_info(weights)["errors"]
    _saved_again(weights, errors=errors - 1)
    code, _, error = _audit(capsys, made, weights)
    assert code == 1 and f"card: {errors} errors on 40 test images" in error and f"it says {errors - 1} errors" in error
    config = weights / "config.json"
    config.write_text(config.read_text().replace(f'"errors": {errors - 1}', f'"errors": {errors}'))
    code, _, error = _audit(capsys, made, weights)
    assert code == 1 and "not as it was saved: damaged or edited" in error


def test_a_config_that_the_weights_were_not_trained_with_is_found(made, weights, capsys):
    run = pretrained_info(weights)["run"]
    run["config"]["optimizer.learning_rate"] *= 2
    _saved_again(weights, run=run)
    code, _, error = _audit(capsys, made, weights, "--run", made / "run")
    assert code == 1 and "config and data: " in error and "optimizer.learning_rate" in error
    _saved_again(weights, run=[])
    code, _, error = _audit(capsys, made, weights)
    assert code == 2 and "what it says of its run is not the config of one" in error


def test_data_that_the_weights_were_not_trained_on_are_found(made, weights, tmp_path, capsys):
    with np.load(made / "own.npz") as arrays:
        np.savez(tmp_path / "own.npz", **{**arrays, "train_labels": arrays["train_labels"][::-1]})
    code, said, error = _audit(capsys, tmp_path, weights)
    assert code == 1 and "data: train: as many images there and here, 96, but not the same ones" in error
    assert "as it says" in said  # the test images are the same


def test_weights_of_earlier_versions_say_what_cannot_be_audited(made, weights, capsys):
    (model, variables), about = from_pretrained(weights), pretrained_info(weights)
    del about["run"]
    save_pretrained(weights, model, variables, about)
    code, said, _ = _audit(capsys, made, weights)
    assert code == 0 and "not audited: data: saved without the checksums, config and versions of the run" in said
    save_pretrained(weights, model, variables, {"dataset": "folder"})
    code, said, _ = _audit(capsys, made, weights)
    assert code == 0 and "not audited: data and card: checked only for classifiers of small images" in said
    code, _, error = outcome(audit.main, capsys, "resnet_20-cifar1")
    assert code == 2 and "no such run, packed run or weights; did you mean" in error


def test_a_packed_run_of_several_seeds_and_a_folder_of_something_else_are_refused(tmp_path, capsys):
    for seed in (0, 1):
        write_run(tmp_path / "both" / f"seed_{seed}", "resnet_20", seed=seed)
    pack(tmp_path / "both", tmp_path / "both.tar")
    code, _, error = outcome(audit.main, capsys, tmp_path / "both.tar")
    assert code == 2 and "holds 2 seeds; unpack it" in error
    code, _, error = outcome(audit.main, capsys, tmp_path)
    assert code == 2 and "no workdir of a run" in error
