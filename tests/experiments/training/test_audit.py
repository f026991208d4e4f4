"""Audits: a run trained again in parts is the same bit for bit, and what was tampered with is found."""

import json
import shutil
import subprocess
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import audit
from experiments.training.audit import Audit, Finding, Span, choose
from resjax.errors import InputError
from resjax.train import digest_handler
from resjax.train.checkpoint import _handlers
from tests.conftest import ROOT
from tests.helpers.command import outcome

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
