"""The files of each seed: checkpoints, metrics, curves, trackers."""

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import jax
import numpy as np

from experiments.configs.base import RunConfig
from experiments.runtime.exit_codes import TrainingError
from experiments.training.curves import CurvesDrawer, Rates
from experiments.training.task import Task
from experiments.training.trackers import Tracked, Tracker, open_tracker
from experiments.training.workdir import Workdir
from resjax.errors import InputError
from resjax.train import CheckpointError, Checkpoints, Restored, Sums, TrainState, same_everywhere


class SeedRun:
    """Writes and reads the files of one seed.

    Args:
      seed: the seed.
      task: what is trained.
      workdir: where the files go.
      resolved: JSON that is saved with each checkpoint; its "config" has this seed.
    """

    def __init__(self, seed: int, task: Task, workdir: Workdir, resolved: dict[str, Any]):
        self.seed, self.workdir = seed, workdir
        self._task, self._resolved = task, resolved
        self._trackers: Sequence[Tracker] = ()
        self.records: list[dict[str, Any]] = []
        """The lines of metrics.jsonl, one for each completed epoch."""

    def open(
        self, stack: contextlib.ExitStack, thread: Executor, rates: Rates = (), keep_period: int | None = None
    ) -> None:
        """Opens the checkpoints until `stack` closes; `thread` will draw the curves, with the schedule's `rates`.

        `keep_period` is that of `resjax.train.Checkpoints`.
        """
        task = self._task
        self._checkpoints = stack.enter_context(Checkpoints(self.workdir.checkpoints, keep_period))
        title = f"{task.title}, seed {self.seed}"
        self._curves = CurvesDrawer(
            thread, self.workdir.curves, title, task.published, task.published_label, task.metric, rates
        )

    def open_trackers(
        self, stack: contextlib.ExitStack, names: Sequence[str], step: int, report: Callable[[str], None]
    ) -> None:
        """Opens the trackers of these names until `stack` closes; `report` receives what fails of them."""
        if self.workdir.writes:
            run = Tracked(f"{self.workdir.path.name}", self.workdir.path, self._resolved["config"], step)
            self._trackers = [open_tracker(name, run, report) for name in names]
            for tracker in self._trackers:
                stack.callback(tracker.close)

    @property
    def saved_steps(self) -> Sequence[int]:
        """Steps of the checkpoints to resume from, ascending; empty before `open`."""
        return self._checkpoints.steps if hasattr(self, "_checkpoints") else ()

    def restore(self, template: TrainState, zero: Sums, step: int) -> Restored:
        """Reads the checkpoint of a step.

        Raises:
          CheckpointError: if it cannot be read.
          InputError: if it belongs to another config.
        """
        restored = self._checkpoints.restore(template, step, totals=zero)
        self.workdir.check_same(restored.run["config"], self._resolved["config"])
        return restored

    def set_aside(self, step: int) -> pathlib.Path:
        """Moves the checkpoint of a step, which must not be used; see `Checkpoints.set_aside`."""
        return self._checkpoints.set_aside(step)

    def start(self, step: int) -> None:
        """Prepares to train from `step` on: removes later checkpoints, and writes config.json if it is missing."""
        self._checkpoints.forget_after(step)
        self.workdir.start(self._resolved)
        self.read_records(step)

    def read_records(self, up_to_step: int) -> None:
        """Keeps only the records up to a step."""
        self.records = self.workdir.read_metrics(up_to_step)

    def save(self, state: TrainState, totals: Sums, epoch_seconds: float) -> None:
        """Starts to write a checkpoint; see `Checkpoints.save`."""
        self.workdir.check_owned()
        self._checkpoints.save(state, totals, self._run_json(epoch_seconds))

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk."""
        self._checkpoints.wait()

    def record(self, record: dict[str, Any], state: TrainState, totals: Sums, epoch_seconds: float, last: bool) -> None:
        """Saves the state if it is the best so far, and writes the epoch's line, the curves and the events."""
        if self._task.metric.best([*self.records, record]) is record:
            self._checkpoints.save_best(state, totals, self._run_json(epoch_seconds))
        self.workdir.append_metrics(record)
        self.records.append(record)
        if not self.workdir.writes:
            return
        self._curves.draw(self.records, wait=last)
        values = {key: value for key, value in record.items() if key != "step" and np.ndim(value) == 0}
        for tracker in self._trackers:
            tracker.log(values, record["step"])

    def finish(self) -> None:
        """Draws the curves if a line is not among them: epochs were short, or the process that wrote it was killed."""
        is_done = self._curves.drawn == len(self.records) or (
            self.workdir.is_finished() and self.workdir.curves.exists()
        )
        if self.workdir.writes and self.records and not is_done:
            self._curves.draw(self.records, wait=True)

    def _run_json(self, epoch_seconds: float) -> dict[str, Any]:
        return {**self._resolved, "epoch_seconds": epoch_seconds}


class SeedRuns(list[SeedRun]):
    """The files of the seeds that train together. At any time all of them have a checkpoint of one step.

    Args:
      config: the config of the run.
      task: what is trained.
      workdir: where the files go. Each of several seeds has a workdir inside it, see `Workdir.of_seed`.
      resolved: JSON that is saved with each checkpoint.
      seeds: the seeds; None is the config's seed, with its files in `workdir` itself.
    """

    def __init__(
        self, config: RunConfig, task: Task, workdir: Workdir, resolved: dict[str, Any], seeds: Sequence[int] | None
    ):
        self._workdir = workdir
        if seeds is None:
            super().__init__([SeedRun(config.seed, task, workdir, resolved)])
        else:
            super().__init__(
                SeedRun(seed, task, workdir.of_seed(seed), resolved_of_seed(resolved, seed)) for seed in seeds
            )

    @property
    def where(self) -> str:
        """The path of the checkpoints, for messages."""
        several = len(self) > 1
        return str(self._workdir.path / "seed_*" / "checkpoints") if several else str(self[0].workdir.checkpoints)

    @property
    def what_is_left(self) -> str:
        """What a failed run can resume from, for messages."""
        step = step_to_go_on_from([run.saved_steps for run in self])
        if not step:
            return "No checkpoint was written yet."
        return f"The last good checkpoint is of step {step}, in {self.where}."

    def step_to_go_on_from(self) -> int:
        """The newest step of which every seed has a checkpoint; 0 if there are no checkpoints.

        Raises:
          InputError: if the seeds, or the processes, do not share a step.
        """
        step = step_to_go_on_from([run.saved_steps for run in self])
        if not same_everywhere(-1 if step is None else step):
            raise InputError(
                f"the processes of this run see different checkpoints in {self.where} (process"
                f" {jax.process_index()}: step {step}): --workdir must be a folder that all of them share"
            )
        if step is None:
            raise InputError(
                f"the seeds in {self._workdir.path} are at different steps: go on with each by itself, as --seed S"
                f" --workdir {self._workdir.path}/seed_S"
            )
        return step

    def restore(
        self, templates: Sequence[TrainState], zero: Sums, report: Callable[[str], None]
    ) -> tuple[int, list[Restored]]:
        """Reads each seed's newest checkpoint that is whole.

        Newer ones, which are damaged, are set aside, and `report` is told.

        Returns:
          The step, and what was read of each seed; 0 and [] if there are no checkpoints.

        Raises:
          TrainingError: if no checkpoint can be read.
          InputError: as `step_to_go_on_from`, and if a checkpoint belongs to another config.
        """
        newest, failures = self.step_to_go_on_from(), []
        shared = set.intersection(*(set(run.saved_steps) for run in self))
        for step in sorted((step for step in shared if step <= newest), reverse=True):
            try:
                found = [run.restore(template, zero, step) for run, template in zip(self, templates, strict=True)]
            except CheckpointError as error:
                failures.append((step, error))
                continue
            for damaged, error in failures:
                report(f"{error}; {self.set_aside(damaged)}, and the run goes on from step {step}")
            return step, found
        if failures:
            error = failures[0][1]
            raise TrainingError(
                f"{error}, and there is none before it to go on from. Start anew with --resume never"
            ) from error
        return 0, []

    def set_aside(self, step: int) -> str:
        """Moves the checkpoint of a step out of the way, of each seed that has one; says where to."""
        places = [run.set_aside(step) for run in self if step in run.saved_steps]
        return f"it was moved to {places[0]}" + (" and likewise of the other seeds" if len(places) > 1 else "")

    def save(self, states: Sequence[TrainState], totals: Sequence[Sums], epoch_seconds: float) -> None:
        """Starts to write a checkpoint of each seed."""
        # Every seed's last checkpoint is on disk before any seed replaces an older one, so they always share a step.
        if len(self) > 1:
            self.wait()
        for run, state, of_run in zip(self, states, totals, strict=True):
            run.save(state, of_run, epoch_seconds)

    def wait(self) -> None:
        """Waits until the last checkpoints are on disk."""
        for run in self:
            run.wait()


def resolved_of_seed(resolved: dict[str, Any], seed: int) -> dict[str, Any]:
    """The resolved config of a run with another seed."""
    return resolved | {"config": resolved["config"] | {"seed": seed}}


def step_to_go_on_from(saved: Sequence[Sequence[int]]) -> int | None:
    """The newest step of which every seed has a checkpoint; 0 if there are no checkpoints.

    A kill during a save leaves some seeds with a checkpoint that the others lack. That checkpoint is lost.

    Args:
      saved: steps of the checkpoints of each seed, ascending.

    Returns:
      The step, or None if more than one checkpoint would be lost: the seeds did not train together.
    """
    common = max(set.intersection(*map(set, saved)), default=0)
    return None if any(sum(step > common for step in steps) > 1 for steps in saved) else common
