"""`python -m experiments.sweep`: a study of Optuna over runs of a training command."""

import json
import re
import sys

import pytest

optuna = pytest.importorskip("optuna", reason="the search is Optuna's: pip install 'resjax[sweep]'")

from experiments.sweep import main  # noqa: E402
from tests.helpers.command import outcome  # noqa: E402

# Stands for a training command: its error depends on the learning rate, and is known after each of its four epochs.
TRAINING = """
import json, pathlib, sys, time
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
rate, folder = float(flags["--optimizer.learning_rate"]), pathlib.Path(flags["--workdir"])
folder.mkdir(exist_ok=True)
with open(folder / "started", "a") as started:
    started.write("once ")
if rate > 0.7:
    sys.exit("diverged")
for epoch in range(1, 5):
    with open(folder / "metrics.jsonl", "a") as lines:
        print(json.dumps({"epoch": epoch, "step": epoch, "test_error": 100 * abs(rate - 0.1)}), file=lines)
"""
VARY = ("--vary", "optimizer.learning_rate=0.01..1", "batch_size=64,128")


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """sweep(*flags) -> (exit code, stdout, stderr) in the study tmp_path/study, on a fast command."""
    (tmp_path / "training.py").write_text(TRAINING)
    python = tmp_path / "python"  # python -m experiments.cifar FLAGS
    python.write_text(f'#!/bin/sh\nshift 4\nexec {sys.executable} {tmp_path / "training.py"} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    return lambda *flags: outcome(main, capsys, tmp_path / "study", *VARY, *flags, "cifar", "quickstart")


def _study(folder):
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    return optuna.load_study(study_name="resjax", storage=optuna.storages.JournalStorage(backend))


def test_the_best_of_the_runs_is_found_and_a_diverged_one_is_said(sweep, tmp_path):
    code, out, err = sweep("--trials", 6, "--json")
    study = _study(tmp_path / "study")
    assert code == 0 and len(study.trials) == 6
    best, errors = json.loads(out), {}
    for trial in study.trials:
        rate = trial.params["optimizer.learning_rate"]
        assert trial.params["batch_size"] in ("64", "128") and trial.state.name == (
            "FAIL" if rate > 0.7 else "COMPLETE"
        )
        errors[trial.number] = 100 * abs(rate - 0.1)
        assert (f"--optimizer.learning_rate {rate} " in err) and (rate <= 0.7 or ": FAIL: diverged" in err)
        assert trial.intermediate_values == ({} if rate > 0.7 else dict.fromkeys(range(1, 5), errors[trial.number]))
    assert best["value"] == min(errors.values()) and best["run"].endswith(f"{study.best_trial.number:04d}")


def test_a_study_goes_on_with_the_run_that_was_under_way(sweep, tmp_path):
    assert sweep("--trials", 1)[0] == 0
    study = _study(tmp_path / "study")
    space = study.trials[0].distributions
    stopped = study.ask(space)
    stopped.set_user_attr("folder", "0001")
    code, out, _ = sweep("--trials", 2)
    states = [trial.state.name for trial in _study(tmp_path / "study").trials]
    assert code == 0 and states[1] == "FAIL" and len(states) == 3 and "best: " in out
    assert _study(tmp_path / "study").trials[2].params == stopped.params
    assert (tmp_path / "study" / "0001" / "started").read_text() == "once "
    assert sweep("--trials", 2)[0] == 0 and len(_study(tmp_path / "study").trials) == 3


def test_a_run_worse_than_the_median_is_ended(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number == 1)
    slow = TRAINING.replace("> 0.7", "> 1") + "time.sleep(9 if folder.name == '0001' else 0)"
    (tmp_path / "training.py").write_text(slow)
    assert sweep("--trials", 2)[0] == 0
    assert [trial.state.name for trial in _study(tmp_path / "study").trials] == ["COMPLETE", "PRUNED"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--vary", "epochs=1..3"), "expected a training command behind the flags of the sweep: cifar or"),
        (("--vary", "epochs", "cifar", "quickstart"), "--vary epochs: expected FIELD=LOW..HIGH or FIELD=VALUE,VALUE"),
        (("--vary", "epochs=3..1", "cifar", "quickstart"), "--vary epochs=3..1: expected FIELD=LOW..HIGH"),
        (("--vary", "epocs=1..3", "cifar", "quickstart"), "--epocs: no such flag; did you mean '--epochs'"),
        (
            ("--vary", "epochs=1..3", "cifar", "quickstart", "--epochs", "9"),
            "--epochs: every run of a sweep has its own",
        ),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, arguments, message):
    code, out, err = outcome(main, capsys, tmp_path / "study", *arguments)
    assert code == 2 and not out and len(err.strip().splitlines()) == 1
    assert re.search(message, err), err


def test_a_study_is_of_one_command(sweep, tmp_path, capsys):
    assert sweep("--trials", 1)[0] == 0
    code, _, err = outcome(main, capsys, tmp_path / "study", "--vary", "epochs=1..3", "cifar", "quickstart")
    assert code == 2 and "is the study of `cifar quickstart --vary batch_size=64,128" in err


def test_no_run_that_ends_is_an_error(sweep, tmp_path):
    (tmp_path / "training.py").write_text("raise SystemExit('diverged')")
    code, out, err = sweep("--trials", 2)
    assert code == 1 and not out and "no run came to its end; their logs are in" in err
