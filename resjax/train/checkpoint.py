"""Checkpoints of a run, written by Orbax in the background."""

import dataclasses
import pathlib
import shutil
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp

from resjax.errors import InputError
from resjax.models import restack, stacked_stages
from resjax.train.metrics import Sums, Totals
from resjax.train.state import TrainState


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says which, why, and what is left."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint holds: the state, the sums of the epoch under way, and the JSON that was saved with them."""

    state: TrainState
    totals: Sums
    run: dict[str, Any]


class Checkpoints:
    """The checkpoints below one directory: `latest/` keeps the last two, `best/` the one with the smallest error.

    A context manager: leaving it waits for what is still being written, on every way out.
    """

    def __init__(self, directory: str | pathlib.Path):
        self.directory = pathlib.Path(directory).absolute()
        # Two, so that a damaged newest one is not the end of a run.
        self._latest = _manager(self.directory / "latest", max_to_keep=2)
        # Without best_fn, metrics are not even written.
        self._best = _manager(
            self.directory / "best", max_to_keep=1, best_fn=lambda metrics: metrics["test_error"], best_mode="min"
        )

    def __enter__(self) -> "Checkpoints":
        self._unraisablehook = sys.unraisablehook
        sys.unraisablehook = self._without_echoes
        return self

    def __exit__(self, kind, error, trace) -> None:
        failures = []
        for manager in (self._latest, self._best):
            try:
                manager.close()
            except Exception as failure:
                failures.append(failure)
        if error is None:
            if failures:
                raise self._failed_save(failures[0]) from failures[0]
            sys.unraisablehook = self._unraisablehook

    def _without_echoes(self, unraisable) -> None:
        # When one array of a checkpoint cannot be written, tensorstore prints a stack trace for each of the others,
        # some of them after the checkpoints are closed.
        if str(unraisable.exc_value) != "Event loop is closed":
            self._unraisablehook(unraisable)

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._latest.latest_step()

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints in `latest/`, ascending."""
        return sorted(self._latest.all_steps())

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints in `latest/` of later steps."""
        for later in self.steps:
            if later > step:
                self._latest.delete(later)

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the smallest test error, or None."""
        return self._best.best_step()

    def best_error(self) -> float | None:
        """The smallest test error saved so far, in percent, or None."""
        step = self._best.best_step()
        return None if step is None else float(self._best.metrics(step)["test_error"])

    def save(self, state: TrainState, totals: Sums, run: dict[str, Any]) -> None:
        """Starts to write the state at its step; a step that is already there is left as it is.

        Raises:
          CheckpointError: where this save, or the one before it, could not be written (a full disk, say).
        """
        self._save(self._latest, state, totals, run)

    def save_best(self, state: TrainState, totals: Sums, run: dict[str, Any], test_error: float) -> None:
        """Writes the state as the best so far, and returns when it is on disk. Raises as `save`.

        `test_error` is in percent; of a measure that is better the higher, what lacks to 100.
        """
        if jax.process_count() > 1:  # processes meet at barriers of the same names, whichever folder they write
            self.wait()
        self._save(self._best, state, totals, run, {"test_error": test_error})
        self._wait(self._best)

    def wait(self) -> None:
        """Returns when what `save` was given is on disk; raises CheckpointError where it could not be written."""
        self._wait(self._latest)

    def _wait(self, manager: ocp.CheckpointManager) -> None:
        try:
            manager.wait_until_finished()
            manager.check_for_errors()
        except Exception as failure:
            raise self._failed_save(failure) from failure

    def restore(
        self, template: TrainState, step: int | None = None, best: bool = False, totals: Sums | None = None
    ) -> Restored:
        """Reads a checkpoint of any number of devices, of blocks apart or stacked, onto and into those of `template`.

        Args:
          template: a state of the same model and optimizer, with the shardings to restore to.
          step: which one; None takes the newest (or the best).
          best: whether to read from `best/`.
          totals: sums of the kind that was saved; None for a classifier's.

        Raises:
          CheckpointError: where there is none, or it cannot be read, or it is of another network.
        """
        manager, kind = (self._best, "best") if best else (self._latest, "latest")
        step = manager.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"{self.directory / kind} holds no checkpoint")
        wanted, whole = stacked_stages(template), template.step.sharding
        shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
        try:
            saved = stacked_stages(manager.item_metadata(step).train.tree)
            state = jax.eval_shape(lambda: restack(template, saved))
            there = shardings if saved == wanted else jax.tree.map(lambda leaf: whole, state)
            targets = {
                "state": jax.tree.map(_abstract, state, there),
                "totals": jax.tree.map(lambda leaf: _abstract(leaf, whole), totals or Totals.zero()),
            }
            restored = manager.restore(
                step, args=ocp.args.Composite(train=ocp.args.StandardRestore(targets), run=ocp.args.JsonRestore())
            )
        except Exception as failure:
            raise CheckpointError(
                f"checkpoint {self.directory / kind / str(step)} cannot be read ({_reason(failure)}). Remove that"
                " folder to go on from the one before it"
            ) from failure
        state = restored["train"]["state"]
        if saved != wanted:
            state = jax.jit(lambda state: restack(state, wanted), out_shardings=shardings)(state)
        return Restored(state, restored["train"]["totals"], restored["run"])

    def _save(self, manager, state, totals, run, metrics=None):
        step = int(state.step)
        if step in manager.all_steps():
            return
        self._check_space(state)
        items = ocp.args.Composite(
            train=ocp.args.StandardSave({"state": state, "totals": totals}), run=ocp.args.JsonSave(run)
        )
        try:
            manager.save(step, args=items, metrics=metrics)
        except Exception as failure:
            raise self._failed_save(failure) from failure

    def _check_space(self, state: TrainState) -> None:
        """Asks before writing: a disk that fills up during a save can take the run's other files with it."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise CheckpointError(
                f"could not save a checkpoint in {self.directory}: it needs {needed / 2**20:.1f} MiB and the disk has"
                f" {free / 2**20:.1f} MiB free"
            )

    def _failed_save(self, failure: Exception) -> CheckpointError:
        return CheckpointError(f"could not save a checkpoint in {self.directory}: {_reason(failure)}")


def read_variables(directory: str | pathlib.Path, best: bool = False) -> tuple[dict[str, Any], int]:
    """The variables to evaluate of a checkpoint below `directory`, and its step; nothing is written.

    The optimizer need not be known. Blocks are apart or stacked as they were saved, see `resjax.models.restack`.

    Args:
      directory: that a `Checkpoints` was made with.
      best: whether to read the checkpoint with the smallest test error, not the newest.

    Returns:
      {"params": .., "batch_stats": ..} on the default device, the moving average where there is one; and the step.

    Raises:
      CheckpointError: where there is none, or it cannot be read.
    """
    folder = pathlib.Path(directory).absolute() / ("best" if best else "latest")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} holds no checkpoint")
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.CheckpointManager(
        folder, item_handlers=_handlers(), options=ocp.CheckpointManagerOptions(read_only=True)
    ) as manager:
        step = manager.latest_step()
        if step is None:
            raise CheckpointError(f"{folder} holds no checkpoint")
        try:
            saved = manager.item_metadata(step).train.tree
            targets = jax.tree.map(lambda leaf: _abstract(leaf, sharding), saved)
            restored = manager.restore(step, args=ocp.args.Composite(train=ocp.args.StandardRestore(targets)))
            state = restored["train"]["state"]
            variables = state["average"] or {name: state[name] or {} for name in ("params", "batch_stats")}
        except Exception as failure:
            raise CheckpointError(f"checkpoint {folder / str(step)} cannot be read ({_reason(failure)})") from failure
    return variables, step


def _manager(directory: pathlib.Path, **options: Any) -> ocp.CheckpointManager:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"checkpoint directory {directory} cannot be made: {error}") from None
    return ocp.CheckpointManager(
        directory,
        item_handlers=_handlers(),
        options=ocp.CheckpointManagerOptions(cleanup_tmp_directories=True, **options),
    )


def _handlers() -> dict[str, Any]:
    return {"train": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler()}


def _abstract(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _reason(error: Exception) -> str:
    """What went wrong, in a line: of a long chain of causes the last, e.g. "No space left on device"."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 200 else text.rsplit(": ", 1)[-1][:200]
