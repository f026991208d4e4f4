"""Checkpoints of a run, written by Orbax in the background."""

import dataclasses
import logging
import pathlib
import shutil
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from resjax.errors import InputError
from resjax.models import restack, stacked_stages
from resjax.train.digests import ITEM, find_damage, has_digests
from resjax.train.metrics import Sums, Totals
from resjax.train.sharding import same_everywhere, wait_for_processes
from resjax.train.state import TrainState
from resjax.train.wrappers import slow_params

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

# Orbax takes as long to import as JAX: the functions that use it do, for programs that read and write no checkpoint.

_log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read. The message says which, why, and what is left."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """The contents of a checkpoint: the state, the sums of the unfinished epoch, and JSON that was saved with them."""

    state: TrainState
    totals: Sums
    run: dict[str, Any]


class Checkpoints:
    """The checkpoints below one directory: `latest/` keeps the last two, `best/` the last that was called the best.

    Each is written with a digest of its files, which is compared before it is read. A context manager. On exit, also
    by an error, it waits until all checkpoints are written.

    Args:
      directory: the folder.
      keep_period: `latest/` also keeps every checkpoint whose step is a multiple of it; None keeps none of them.
    """

    def __init__(self, directory: str | pathlib.Path, keep_period: int | None = None):
        self.directory = pathlib.Path(directory).absolute()
        # Two, so that a run survives a damaged newest checkpoint.
        self._latest = _manager(self.directory / "latest", max_to_keep=2, keep_period=keep_period)
        self._best = _manager(self.directory / "best", max_to_keep=1)

    def __enter__(self) -> "Checkpoints":
        self._unraisablehook = sys.unraisablehook
        sys.unraisablehook = self._without_echoes
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def _without_echoes(self, unraisable: Any) -> None:
        # If one array of a checkpoint cannot be written, tensorstore prints a stack trace for each of the others. Some
        # of them come after the checkpoints are closed.
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
        """Removes the checkpoints of later steps."""
        for manager in (self._latest, self._best):
            for later in manager.all_steps():
                if later > step:
                    manager.delete(later)

    def set_aside(self, step: int) -> pathlib.Path:
        """Moves a checkpoint of `latest/` that must not be used to `set_aside/`, in place of what is there.

        Returns:
          Where it is now.
        """
        aside = self.directory / "set_aside"
        if jax.process_index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            (self.directory / "latest" / str(step)).rename(aside / str(step))
        wait_for_processes(f"set aside {step}")
        self._latest.reload()
        return aside / str(step)

    @property
    def best_step(self) -> int | None:
        """Step of the best checkpoint, or None."""
        return self._best.latest_step()

    def save(self, state: TrainState, totals: Sums, run: dict[str, Any]) -> None:
        """Starts to write the state at its step. A step that is already saved is not written again.

        Raises:
          CheckpointError: if this save, or the one before it, could not be written (for example on a full disk).
        """
        self._save(self._latest, state, totals, run)

    def save_best(self, state: TrainState, totals: Sums, run: dict[str, Any]) -> None:
        """Writes the state as the best so far, and returns when it is on disk. Raises as `save` does."""
        if jax.process_count() > 1:  # the names of the barriers must not depend on the folder
            self.wait()
        self._save(self._best, state, totals, run)
        self._wait(self._best)

    def wait(self) -> None:
        """Waits until `save` is done; raises CheckpointError if it could not write."""
        self._wait(self._latest)

    def _wait(self, manager: "ocp.CheckpointManager") -> None:
        try:
            manager.wait_until_finished()
            manager.check_for_errors()
        except Exception as failure:
            raise self._failed_save(failure) from failure

    def restore(
        self, template: TrainState, step: int | None = None, best: bool = False, totals: Sums | None = None
    ) -> Restored:
        """Reads a checkpoint into the shardings and the block layout (stacked or not) of `template`.

        The checkpoint may come from any number of devices.

        Args:
          template: a state of the same model and optimizer, with the shardings to restore to.
          step: the step to read; None takes the newest (or the best).
          best: whether to read from `best/`.
          totals: sums of the saved kind; None takes a classifier's.

        Raises:
          CheckpointError: if there is none, its files or its step are not those that were written, it cannot be read,
            or it belongs to another network.
        """
        import orbax.checkpoint as ocp

        manager, kind = (self._best, "best") if best else (self._latest, "latest")
        step = manager.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"{self.directory / kind} holds no checkpoint")
        folder = self.directory / kind / str(step)
        # One process reads the files for all.
        damage = _damage(folder, step) if jax.process_index() == 0 else None
        if not same_everywhere(int(damage is not None)) or damage is not None:
            raise CheckpointError(f"checkpoint {folder} is damaged ({damage or 'process 0 says how'})")
        wanted, whole = stacked_stages(template), template.step.sharding
        shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
        try:
            tree = manager.item_metadata(step).train.tree
            saved, counted = stacked_stages(tree), totals or Totals.zero()
            state = jax.eval_shape(lambda: restack(template, saved))
            there = shardings if saved == wanted else jax.tree.map(lambda leaf: whole, state)
            targets = {
                "state": jax.tree.map(_abstract, state, there),
                "totals": _totals_to_read(tree["totals"], counted, whole),
            }
            restored = manager.restore(
                step, args=ocp.args.Composite(train=ocp.args.StandardRestore(targets), run=ocp.args.JsonRestore())
            )
            found = restored["train"]["totals"]
            means = counted.gradient_means | (found.pop("gradient_means", None) or {})
            found["gradient_means"] = {name: means[name] for name in counted.gradient_means}
            totals = counted.replace(**{field.name: found[field.name] for field in dataclasses.fields(counted)})
        except Exception as failure:
            raise CheckpointError(
                f"checkpoint {folder} cannot be read: {_why_unreadable(manager, step, template)}"
            ) from failure
        state = restored["train"]["state"]
        _check_step(folder, int(state.step), step)
        if saved != wanted:
            state = jax.jit(lambda state: restack(state, wanted), out_shardings=shardings)(state)
        return Restored(state, totals, restored["run"])

    def _save(self, manager, state, totals, run):
        import orbax.checkpoint as ocp

        from resjax.train.digest_handler import SaveDigests

        step = int(state.step)
        if step in manager.all_steps():
            return
        self._check_space(state)
        items = ocp.args.Composite(
            train=ocp.args.StandardSave({"state": state, "totals": totals}),
            run=ocp.args.JsonSave(run),
            **{ITEM: SaveDigests(step)},
        )
        try:
            manager.save(step, args=items)
        except Exception as failure:
            raise self._failed_save(failure) from failure

    def _check_space(self, state: TrainState) -> None:
        """Checks for space before writing: a disk that fills up during a save can damage the run's other files, too."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise CheckpointError(
                f"could not save a checkpoint in {self.directory}: it needs {needed / 2**20:.1f} MiB and the disk has"
                f" {free / 2**20:.1f} MiB free"
            )

    def _failed_save(self, failure: Exception) -> CheckpointError:
        return CheckpointError(f"could not save a checkpoint in {self.directory}: {_reason(failure)}")


def read_variables(
    directory: str | pathlib.Path,
    best: bool = False,
    check_run: Callable[[dict[str, Any]], None] | None = None,
    step: int | None = None,
) -> tuple[dict[str, Any], int]:
    """Reads the variables to evaluate from a checkpoint below `directory`, and its step. Nothing is written.

    The optimizer need not be known. Blocks are separate or stacked as they were saved, see `resjax.models.restack`.

    Args:
      directory: the directory of a `Checkpoints`.
      best: whether to read the best checkpoint instead of the newest.
      check_run: is given the JSON that was saved with the checkpoint before its arrays are read; it may raise.
      step: of the checkpoint; None takes the newest.

    Returns:
      {"params": .., "batch_stats": ..} on the default device, and the step. The variables are the moving
      average if there is one, else lookahead's slow parameters if there are any.

    Raises:
      CheckpointError: if there is none, its files or its step are not those that were written, or it cannot be read.
    """
    folder = pathlib.Path(directory).absolute() / ("best" if best else "latest")
    state, step = _read_state(folder, step, check_run)
    try:
        slow = slow_params(state["opt_state"])
        params = state["params"] if slow is None else slow
        variables = state["average"] or {"params": params or {}, "batch_stats": state["batch_stats"] or {}}
    except Exception as failure:
        raise CheckpointError(f"checkpoint {folder / str(step)} cannot be read: {_UNREADABLE}") from failure
    return variables, step


def read_arrays(
    directory: str | pathlib.Path, step: int, check_run: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, np.ndarray]:
    """Reads every array of the state at a step: parameters, statistics, the optimizer's, the random key.

    Args:
      directory: the directory of a `Checkpoints`.
      step: the step, of a checkpoint in `latest/`.
      check_run: as of `read_variables`.

    Returns:
      The arrays by their path, e.g. "params/stem/conv/kernel".

    Raises:
      CheckpointError: as `read_variables`.
    """
    state, _ = _read_state(pathlib.Path(directory).absolute() / "latest", step, check_run)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def _read_state(
    folder: pathlib.Path, step: int | None, check_run: Callable[[dict[str, Any]], None] | None
) -> tuple[Any, int]:
    """The state in a folder of checkpoints as nested dictionaries, and its step; None takes the newest."""
    import orbax.checkpoint as ocp

    if not folder.is_dir():
        raise CheckpointError(f"{folder} holds no checkpoint")
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.CheckpointManager(
        folder, item_handlers=_handlers(), options=ocp.CheckpointManagerOptions(read_only=True, **_WITHOUT_NOTES)
    ) as manager:
        step = manager.latest_step() if step is None else step
        if step is None or step not in manager.all_steps():
            raise CheckpointError(f"{folder} holds no checkpoint" + ("" if step is None else f" of step {step}"))
        if damage := _damage(folder / str(step), step):
            raise CheckpointError(f"checkpoint {folder / str(step)} is damaged ({damage})")
        try:
            run = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        except Exception as failure:
            raise CheckpointError(f"checkpoint {folder / str(step)} cannot be read: {_UNREADABLE}") from failure
        if check_run is not None:
            check_run(run)
        try:
            saved = manager.item_metadata(step).train.tree
            targets = jax.tree.map(lambda leaf: _abstract(leaf, sharding), saved)
            restored = manager.restore(step, args=ocp.args.Composite(train=ocp.args.StandardRestore(targets)))
            state = restored["train"]["state"]
            inside = int(state["step"])
        except Exception as failure:
            raise CheckpointError(f"checkpoint {folder / str(step)} cannot be read: {_UNREADABLE}") from failure
        _check_step(folder / str(step), inside, step)
    return state, step


def _manager(directory: pathlib.Path, **options: Any) -> "ocp.CheckpointManager":
    import orbax.checkpoint as ocp

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"checkpoint directory {directory} cannot be made: {error}") from None
    return ocp.CheckpointManager(
        directory,
        item_handlers=_handlers(),
        options=ocp.CheckpointManagerOptions(cleanup_tmp_directories=True, **_WITHOUT_NOTES, **options),
    )


def _handlers() -> dict[str, Any]:
    import orbax.checkpoint as ocp

    from resjax.train.digest_handler import DigestHandler

    # The digests come last, see `DigestHandler`.
    return {"train": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler(), ITEM: DigestHandler()}


# The file in which Orbax notes the times of a checkpoint has no digest. Damaged, it would keep every checkpoint of the
# folder from being opened, and nothing here depends on it.
_WITHOUT_NOTES = {"lightweight_initialize": True}
_UNREADABLE = "its files are damaged or incomplete"


def _damage(folder: pathlib.Path, step: int) -> str | None:
    """What is wrong with the files of a checkpoint, in words; None if nothing is. Says if there are no digests."""
    if not has_digests(folder):
        _log.warning("checkpoint %s has no digests, an earlier version wrote it: its files are not verified", folder)
        return None
    try:
        return find_damage(folder, step)
    except OSError as error:
        return _reason(error)


def _check_step(folder: pathlib.Path, inside: int, step: int) -> None:
    if inside != step:
        raise CheckpointError(f"checkpoint {folder} is damaged (it is of step {inside})")


def _why_unreadable(manager: "ocp.CheckpointManager", step: int, template: TrainState) -> str:
    """Why a checkpoint could not be restored: a parameter of another shape than the template's, or unknown damage."""
    try:
        saved = manager.item_metadata(step).train.tree["state"]
        wanted = jax.eval_shape(lambda: restack(template, stacked_stages(saved)))
        there, here = _shapes(saved["params"]), _shapes(wanted.params)
    except Exception:  # of whatever damage leaves
        return _UNREADABLE
    for name in dict.fromkeys([*here, *there]):
        if here.get(name) != there.get(name):
            shapes = [str(shapes.get(name, "none")) for shapes in (there, here)]
            return f"it is of another network (parameter {name}: {shapes[0]} there, {shapes[1]} here)"
    return "it is of another optimizer or has no moving average, or its files are damaged"


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(str(key.key) for key in path): tuple(leaf.shape) for path, leaf in leaves}


def _totals_to_read(saved, totals, sharding):
    """Targets for the totals of a checkpoint: the fields of `totals`, with the gradient metrics of the checkpoint."""
    fields = {field.name: getattr(totals, field.name) for field in dataclasses.fields(totals)}
    fields["gradient_means"] = saved.get("gradient_means")
    if "first_layer_gradient" in saved:  # older checkpoints always have it
        fields["first_layer_gradient"] = saved["first_layer_gradient"]
        del fields["gradient_means"]
    return jax.tree.map(lambda leaf: _abstract(leaf, sharding), fields)


def _abstract(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _reason(error: Exception) -> str:
    """The error in one line. Of a long chain of causes it is the last, e.g. "No space left on device"."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 200 else text.rsplit(": ", 1)[-1][:200]
