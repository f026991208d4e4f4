"""`--tracker`: what each program is given, that a resumed run goes on in its record, and that none ends a training."""

import json
import sys
import types

import pytest

from experiments.training import trackers
from experiments.training.trackers import Tracked, check_trackers, open_tracker
from resjax import InputError


class _Run:
    def __init__(self, **options):
        self.options, self.logged, self.finished = options, [], False

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


class _Client:
    """The part of `mlflow.MlflowClient` that is called."""

    runs, experiments = {}, {}

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name):
        self.experiments[name] = types.SimpleNamespace(experiment_id="7")
        return "7"

    def create_run(self, experiment_id, run_name):
        assert experiment_id == "7"
        number = f"run {len(self.runs)}"
        self.runs[number] = {"name": run_name, "params": {}, "metrics": [], "status": "NEW"}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=number))

    def log_param(self, run_id, key, value):
        self.runs[run_id]["params"][key] = value

    def log_metric(self, run_id, key, value, step):
        self.runs[run_id]["metrics"].append((step, key, value))

    def update_run(self, run_id, status):
        self.runs[run_id]["status"] = status

    def set_terminated(self, run_id):
        self.runs[run_id]["status"] = "FINISHED"


@pytest.fixture
def run(tmp_path):
    return Tracked("seed_1", tmp_path, {"optimizer.momentum": 0.9, "model.name": "x" * 1000}, step=4)


@pytest.fixture
def made(monkeypatch):
    """The runs that the programs of the same protocol have been asked for."""
    runs = []

    def init(**options):
        runs.append(_Run(**options))
        return runs[-1]

    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(init=init))
    monkeypatch.setattr(_Client, "runs", {})
    monkeypatch.setattr(_Client, "experiments", {})
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=_Client))
    return runs


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_is_tracked_and_resumed_under_one_name(run, made, name):
    for step in (5, 6):
        tracker = open_tracker(name, run, pytest.fail)
        tracker.log({"test_error": 10.0 + step}, step)
        tracker.close()
    first, second = made
    key = "id" if name == "wandb" else "name"
    assert first.options[key] == second.options[key] and first.options["resume"] == "allow"
    assert first.options["project"] == "resjax" and first.options["config"] == run.config
    assert first.logged == [(5, {"test_error": 15.0})] and first.finished and second.finished
    assert list(json.loads((run.folder / "trackers.json").read_text())) == [name]


def test_mlflow_gets_parameters_once_and_values_of_each_step(run, made):
    for step in (5, 6):
        tracker = open_tracker("mlflow", run, pytest.fail)
        tracker.log({"test_error": 1.0, "test_loss": 2.0}, step)
        assert [each["status"] for each in _Client.runs.values()] == ["RUNNING"]
        tracker.close()
    (found,) = _Client.runs.values()
    assert found["metrics"] == [
        (step, key, value) for step in (5, 6) for key, value in (("test_error", 1.0), ("test_loss", 2.0))
    ]
    assert found["params"]["optimizer.momentum"] == "0.9" and len(found["params"]["model.name"]) == 250
    assert (found["name"], found["status"]) == ("seed_1", "FINISHED")


def test_a_tracker_that_fails_is_said_once_and_ends_no_run(run, made, monkeypatch):
    said = []
    tracker = open_tracker("wandb", run, said.append)
    monkeypatch.setattr(made[0], "log", lambda values, step: 1 / 0)
    for step in (5, 6):
        tracker.log({"test_error": 1.0}, step)
    tracker.close()
    assert said == ["--tracker wandb: division by zero; the run goes on without it"]
    monkeypatch.setattr(sys.modules["wandb"], "init", lambda **options: 1 / 0)
    open_tracker("wandb", run, said.append).log({}, 7)
    assert len(said) == 2


def test_a_tracker_that_is_not_installed_is_said_before_training(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None if name == "mlflow" else name)
    check_trackers(["tensorboard", "wandb"])
    with pytest.raises(InputError, match="--tracker mlflow: needs its package: pip install mlflow"):
        check_trackers(["tensorboard", "mlflow"])
