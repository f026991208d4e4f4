"""What one seed leaves in its workdir while it trains: checkpoints, metrics, curves, events."""

import contextlib
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np

from experiments.curves import CurvesDrawer
from experiments.task import Task
from experiments.workdir import Workdir
from resjax.train import Checkpoints, Restored, Sums, TrainState


class SeedRun:
    """The files of one seed.

    Args:
      seed: which one.
      task: what is trained.
      workdir: where the files go.
      resolved: JSON that is saved with each checkpoint; its "config" is that of this seed.
    """

    def __init__(self, seed: int, task: Task, workdir: Workdir, resolved: dict[str, Any]):
        self.seed, self.workdir = seed, workdir
        self._task, self._resolved = task, resolved
        self._events = None
        self.records: list[dict[str, Any]] = []
        """The lines of metrics.jsonl, one for each completed epoch."""

    def open(self, stack: contextlib.ExitStack, thread: Executor) -> None:
        """Opens the checkpoints until `stack` is left; `thread` will draw the curves."""
        task = self._task
        self._checkpoints = stack.enter_context(Checkpoints(self.workdir.checkpoints))
        title = f"{task.title}, seed {self.seed}"
        self._curves = CurvesDrawer(
            thread, self.workdir.curves, title, task.published, task.published_label, task.measure
        )

    def open_events(self, stack: contextlib.ExitStack, step: int) -> None:
        """Opens TensorBoard's files; what an earlier process wrote after `step`, to go on from, no longer counts."""
        if self.workdir.writes:
            from tensorboardX import SummaryWriter

            events = SummaryWriter(str(self.workdir.tensorboard), purge_step=step + 1)
            self._events = stack.enter_context(events)

    @property
    def saved_steps(self) -> Sequence[int]:
        """Steps of the checkpoints to go on from, ascending; none before they are open."""
        return self._checkpoints.steps if hasattr(self, "_checkpoints") else ()

    def restore(self, template: TrainState, zero: Sums, step: int) -> Restored:
        """The checkpoint of a step.

        Raises:
          CheckpointError: where it cannot be read.
          InputError: where it is of another config.
        """
        restored = self._checkpoints.restore(template, step, totals=zero)
        self.workdir.check_same(restored.run["config"], self._resolved["config"])
        return restored

    def start(self, step: int) -> None:
        """Goes on from a step: later checkpoints are removed; writes config.json where it is not there."""
        self._checkpoints.forget_after(step)
        self.workdir.start(self._resolved)
        self.read_records(step)

    def read_records(self, up_to_step: int) -> None:
        """Keeps the records up to a step alone."""
        self.records = self.workdir.read_metrics(up_to_step)

    def save(self, state: TrainState, totals: Sums, epoch_seconds: float) -> None:
        """Starts to write a checkpoint, see `Checkpoints.save`."""
        self._checkpoints.save(state, totals, self._run_json(epoch_seconds))

    def wait(self) -> None:
        """Returns when the last checkpoint is on disk."""
        self._checkpoints.wait()

    def record(self, record: dict[str, Any], state: TrainState, totals: Sums, epoch_seconds: float, last: bool) -> None:
        """Keeps the state if it is the best so far, and writes an epoch's line, the curves and the events."""
        best, lack = self._checkpoints.best_error(), self._task.measure.lack(record)
        if best is None or lack < best:
            self._checkpoints.save_best(state, totals, self._run_json(epoch_seconds), lack)
        self.workdir.append_metrics(record)
        self.records.append(record)
        if not self.workdir.writes:
            return
        self._curves.draw(self.records, wait=last)
        if self._events is not None:
            for key in record.keys() - {"epoch", "step"}:
                if np.ndim(record[key]) == 0:
                    self._events.add_scalar(key, record[key], record["step"])
            self._events.flush()

    def _run_json(self, epoch_seconds: float) -> dict[str, Any]:
        return {**self._resolved, "epoch_seconds": epoch_seconds}


def step_to_go_on_from(saved: Sequence[Sequence[int]]) -> int | None:
    """The newest step that all of several seeds have a checkpoint of, 0 where there is none.

    A kill while they save leaves some with one that the others lack, which is lost.

    Args:
      saved: steps of the checkpoints of each, ascending.

    Returns:
      The step; None where more would be lost: the seeds did not train together.
    """
    common = max(set.intersection(*map(set, saved)), default=0)
    return None if any(sum(step > common for step in steps) > 1 for steps in saved) else common
