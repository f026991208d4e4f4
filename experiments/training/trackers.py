"""`--tracker`: a run's values in TensorBoard, Weights & Biases, Trackio or MLflow.

Where they go is what those programs' own variables say: WANDB_MODE=offline, WANDB_PROJECT, TRACKIO_DIR,
MLFLOW_TRACKING_URI. A run that is resumed goes on in its own record.
"""

import importlib.util
import os
import pathlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from experiments.runtime.files import read_json, write
from resjax.errors import InputError, printable

PROJECT = "resjax"
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
_FILE = "trackers.json"
_LONGEST = 250  # characters of a parameter; MLflow's own file store takes 500, servers of earlier versions 250


class Tracked(NamedTuple):
    """A run to track.

    Attributes:
      name: of the run, for people.
      folder: its workdir.
      config: its fields, flat.
      step: the step that it goes on from; values of later steps are those of a process that was killed.
    """

    name: str
    folder: pathlib.Path
    config: Mapping[str, Any]
    step: int


class Tracker(Protocol):
    """Receives values by name."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Raises InputError for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise InputError(f"--tracker {name}: needs its package: pip install {_PACKAGES[name]}")


def open_tracker(name: str, run: Tracked, report: Callable[[str], None]) -> Tracker:
    """The tracker of a name. If it fails, now or later, `report` is told, and the run goes on without it."""
    return _Guarded(name, lambda: _KINDS[name](run), report)


class _Guarded:
    """A tracker whose failures end no training."""

    def __init__(self, name: str, make: Callable[[], Tracker], report: Callable[[str], None]):
        self._name, self._report, self._tracker = name, report, None
        self._tracker = self._tried(make)

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self._tracker is not None:
            self._tried(lambda: self._tracker.log(values, step))

    def close(self) -> None:
        if self._tracker is not None:
            self._tried(self._tracker.close)

    def _tried(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:  # of many types: the packages', their HTTP libraries' and the disk's
            self._tracker = None
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._report(f"--tracker {self._name}: {printable(lines[0], 200)}; the run goes on without it")


class _Tensorboard:
    def __init__(self, run: Tracked):
        from tensorboardX import SummaryWriter

        self._events = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1)

    def log(self, values, step):
        for key, value in values.items():
            self._events.add_scalar(key, value, step)
        self._events.flush()

    def close(self):
        self._events.close()


class _Wandb:
    def __init__(self, run: Tracked):
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=_identifier(run, "wandb", lambda: uuid.uuid4().hex[:8]),
            resume="allow",
            reinit="create_new",
            dir=str(run.folder),
            config=dict(run.config),
        )

    def log(self, values, step):
        self._run.log(dict(values), step=step)

    def close(self):
        self._run.finish()


class _Trackio:
    def __init__(self, run: Tracked):
        import trackio

        name = f"{run.name}-{_identifier(run, 'trackio', lambda: uuid.uuid4().hex[:8])}"
        self._run = trackio.init(project=PROJECT, name=name, resume="allow", config=dict(run.config))

    def log(self, values, step):
        self._run.log(dict(values), step=step)

    def close(self):
        self._run.finish()


class _Mlflow:
    def __init__(self, run: Tracked):
        import mlflow

        self._client = mlflow.MlflowClient()

        def create() -> str:
            experiment = self._client.get_experiment_by_name(PROJECT)
            number = self._client.create_experiment(PROJECT) if experiment is None else experiment.experiment_id
            made = self._client.create_run(number, run_name=run.name).info.run_id
            for key, value in run.config.items():
                self._client.log_param(made, key, str(value)[:_LONGEST])
            return made

        self._id = _identifier(run, "mlflow", create)
        self._client.update_run(self._id, status="RUNNING")

    def log(self, values, step):
        for key, value in values.items():
            self._client.log_metric(self._id, key, value, step=step)

    def close(self):
        self._client.set_terminated(self._id)


_KINDS: dict[str, Callable[[Tracked], Tracker]] = {
    "tensorboard": _Tensorboard,
    "wandb": _Wandb,
    "trackio": _Trackio,
    "mlflow": _Mlflow,
}


def _identifier(run: Tracked, tracker: str, create: Callable[[], str]) -> str:
    """By what a tracker knows the run: as the workdir has it, or a new one, which it then has."""
    file = run.folder / _FILE
    known = read_json(file) if file.exists() else {}
    if tracker not in known:
        known[tracker] = create()
        write(file, known)
    return known[tracker]
