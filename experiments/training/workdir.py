"""The files of one run: config.json, metrics.jsonl, summary.json, curves.png, checkpoints/."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from rich.console import Console

from experiments.configs.base import RunConfig, flatten, is_number
from experiments.configs.model import differing
from experiments.configs.programs import TAKERS, SavedRun, program_of_fields, whole_fields
from experiments.runtime.exit_codes import TrainingError
from experiments.runtime.files import read_json, read_text, to_json, write
from experiments.runtime.lock import NAME as LOCK
from experiments.runtime.lock import FolderLock
from resjax import train
from resjax.errors import InputError, printable

METRIC_KEYS = {
    "epoch": "completed epochs",
    "step": "completed training steps",
    "learning_rate": "learning rate of the epoch's last step",
    "train_loss": "mean over the epoch's augmented images, taken while the network changes",
    "train_accuracy": "fraction of the epoch's augmented images, in [0, 1], taken while the network changes",
    "test_loss": "mean cross-entropy over the test images, each counted once",
    "test_accuracy": "fraction of the test images, in [0, 1]",
    "test_error": "100 * (1 - test_accuracy), in percent",
    "images_per_second": "training images per second of all seeds together, without evaluation and compilation",
    "train_seconds": "seconds of training in this epoch, divided by the number of seeds that train together",
    "test_seconds": "seconds of evaluation, divided likewise",
}
"""Keys of each line of metrics.jsonl; each epoch has one line."""

GRADIENT_KEYS = {
    "first_layer_gradient": "mean absolute gradient of the first convolution, averaged over the epoch's steps"
}
"""The keys that --gradient_metrics adds."""

VALIDATION_KEYS = {
    key.replace("test", "validation"): meaning.replace("test", "validation")
    for key, meaning in METRIC_KEYS.items()
    if key in ("test_loss", "test_accuracy", "test_error")
}
"""The keys that --validation_images adds."""

IMAGENET_KEYS = {
    **METRIC_KEYS,
    "test_top5_error": "top-5 error on the test images, in percent; of more than five classes",
}
"""The keys for photographs."""

SEGMENTATION_KEYS = {
    **{key: meaning for key, meaning in METRIC_KEYS.items() if key != "test_error"},
    "train_accuracy": "fraction of the labelled pixels, in [0, 1], taken as train_loss",
    "test_accuracy": "fraction of the labelled pixels of the test images, in [0, 1]",
    "train_mean_iou": "mean intersection over union of the classes in percent, taken as train_loss",
    "test_mean_iou": "mean intersection over union of the classes in percent, on the test images",
    "test_class_iou": "intersection over union of each class in percent; null if it is neither labelled nor predicted",
}
"""The keys for segmentation."""


class Workdir:
    """Reads and writes the files of a run. Whole files are replaced atomically.

    Args:
      path: the folder, which all processes of the run must see.
      writes: whether this process writes. One process writes; the others only read.
      locks: the locks that this process holds, by folder; None makes a table of its own.
    """

    def __init__(
        self, path: str | pathlib.Path, writes: bool = True, locks: dict[pathlib.Path, FolderLock] | None = None
    ):
        self.writes = writes
        self.path = pathlib.Path(path).absolute()
        self._locks = {} if locks is None else locks
        self.checkpoints = self.path / "checkpoints"
        self.curves = self.path / "curves.png"
        self._config, self._metrics, self._summary = (
            self.path / name for name in ("config.json", "metrics.jsonl", "summary.json")
        )

    def of_seed(self, seed: int) -> "Workdir":
        """The workdir of one of several seeds that are trained together, inside this one."""
        return Workdir(self.path / f"seed_{seed}", self.writes, self._locks)

    def lock(self, report: Callable[[str], None]) -> None:
        """Makes the folder, and keeps other runs out of it until `release`, or until this process ends.

        Raises:
          InputError: if another run is in it, see `FolderLock`.
        """
        self.make()
        if self.writes:
            self._locks[self.path] = FolderLock(self.path, report)

    def release(self) -> None:
        """Lets other runs into this folder, and into those of its seeds."""
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()

    def check_owned(self) -> None:
        """Raises OSError if this process had locked the folder and it was removed or moved since."""
        if self.path in self._locks:
            self._locks[self.path].check()

    def check_config(self, config: RunConfig) -> None:
        """Raises InputError if the folder holds a run of another config."""
        if not self._config.exists():
            return
        saved = read_saved_run(self.path)
        if saved.program != config.PROGRAM:
            raise InputError(
                f"workdir {self.path} holds a run of `{saved.program}`. Use another --workdir, or --resume never to"
                " move the earlier run aside"
            )
        self.check_same(saved.fields, config.identity())

    def check_same(self, there: dict[str, Any], here: dict[str, Any]) -> None:
        """Raises InputError with every field in which this folder's run differs from the requested one.

        Fields that the run's version did not have yet count as their default.
        """
        there = whole_fields(program_of_fields(here), there)
        if changed := differing(here, there):
            listed = "; ".join(f"{key}: {_shown(there, key)} there, {_shown(here, key)} here" for key in changed)
            raise InputError(
                f"workdir {self.path} holds a run of another config ({listed}). Use another --workdir, or the same"
                " values, or --resume never to move the earlier run aside"
            )

    def check_checkpoint(self, run: Mapping[str, Any]) -> None:
        """Raises InputError if a checkpoint in this folder was written by another run than config.json is of.

        Args:
          run: the JSON that was saved with the checkpoint; earlier versions may have saved no config with it.
        """
        saved, there = read_saved_run(self.path), run.get("config")
        if there is None:
            return
        own = whole_fields(saved.program, saved.fields)
        if changed := differing(own, whole_fields(saved.program, flatten(there))):
            listed = "; ".join(
                f"{key}: {_shown(there, key)} there, {_shown(own, key)} in config.json" for key in changed
            )
            raise InputError(f"{self.path}: a checkpoint of another run lies in this workdir ({listed}); remove it")

    def check_data(self, here: Mapping[str, Any]) -> None:
        """Raises InputError if the run of this folder was trained on other data, see `data_differences`."""
        if not self._config.exists():
            return
        there = read_saved_run(self.path).data
        if there is not None and (differing := data_differences(there, here)):
            raise InputError(
                f"workdir {self.path} holds a run on other data ({'; '.join(differing)}). Use another --workdir, or the"
                " data of that run, or --resume never to move the earlier run aside"
            )

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self._config.exists() or self.checkpoints.exists()

    def is_finished(self) -> bool:
        """Whether the run was trained to its end."""
        return self._summary.exists()

    def saved_steps(self) -> list[int]:
        """Steps of the checkpoints that a run can resume from, ascending."""
        return sorted(int(path.name) for path in (self.checkpoints / "latest").glob("*") if path.name.isdigit())

    def move_aside(self) -> pathlib.Path:
        """Renames the folder to the first free of NAME.1, NAME.2, ..; returns the new path. Its locks are released."""
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(target)
        for folder in self._locks:
            (target / folder.relative_to(self.path) / LOCK).unlink(missing_ok=True)
        self.release()
        return target

    def make(self) -> None:
        """Makes the folder; raises InputError if that fails."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"workdir {self.path} cannot be made: {error}; choose another --workdir") from None

    def start(self, resolved: dict[str, Any]) -> None:
        """Makes the folder and writes config.json, the resolved config, unless it exists."""
        self.make()
        if not self._config.exists():
            self._write(self._config, resolved)

    def read_metrics(self, up_to_step: int) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl up to a step. Later lines are removed, because no checkpoint holds their work."""
        if not self._metrics.exists():
            return []
        kept = [record for record in self.records() if record["step"] <= up_to_step]
        self._write(self._metrics, "".join(json.dumps(to_json(record)) + "\n" for record in kept))
        return kept

    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; empty if there is no such file. Raises InputError if they hold other things."""
        if not self._metrics.exists():
            return []
        records = [record for record in map(_parse, read_text(self._metrics).splitlines()) if record]
        for key, value in ((key, value) for record in records for key, value in record.items()):
            expected, fits = _RECORD_FIELDS.get(key, _NUMBERS)
            if not fits(value):
                raise InputError(
                    f"{self._metrics}: {key!r}: expected {expected}, got {printable(value)}; restore the file, or"
                    " remove that line"
                )
        return records

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Adds one line to metrics.jsonl."""
        if self.writes:
            self.check_owned()
            with self._metrics.open("a") as file:
                file.write(json.dumps(to_json(record)) + "\n")

    def read_summary(self, *required: str) -> dict[str, Any]:
        """The contents of summary.json; raises InputError if it, or a field, is missing or damaged."""
        summary = read_json(self._summary)
        for key in required:
            if key not in summary:
                raise InputError(f"{self._summary}: has no {key!r}; {_RESTORE_SUMMARY}")
        if wrong := wrong_field(summary):
            raise InputError(f"{self._summary}: {wrong}; {_RESTORE_SUMMARY}")
        return summary

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json, unless it already holds the same steps and seconds: nothing was trained since.

        Raises:
          TrainingError: if it cannot be written, or the folder was removed or moved.
        """
        try:
            there = self.read_summary()
            if all(there.get(key) == summary[key] for key in ("steps", "train_seconds", "test_seconds")):
                return
        except InputError:
            pass  # missing or damaged
        try:
            self._write(self._summary, summary)
        except OSError as error:
            raise TrainingError(
                f"{error}. All epochs are trained: once {self._summary.name} can be written, run the same command."
            ) from error

    def _write(self, path: pathlib.Path, contents: str | dict[str, Any]) -> None:
        if self.writes:
            self.check_owned()
            write(path, contents)


def wrong_field(fields: Mapping[str, Any]) -> str | None:
    """What is wrong with the first field of summary.json, or of a run of ledger.json, that is not of its kind."""
    for key, value in fields.items():
        expected, fits = _SUMMARY_FIELDS.get(key, _METRIC_FIELD if key.startswith(_METRIC_PREFIXES) else _ANY)
        if not fits(value):
            return f"{key!r}: expected {expected}, got {printable(value)}"
    return None


def _are_numbers(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]  # earlier versions wrote NaN
    return all(part is None or isinstance(part, float) or is_number(part) for part in parts)


def _is_count(value: Any) -> bool:
    return is_number(value) and value >= 0 and value == int(value)


_RESTORE_SUMMARY = "restore it, or remove it and run the command that trained it once more"
_TEXT = ("a text", lambda value: isinstance(value, str))
_TEXT_OR_NULL = ("a text or null", lambda value: value is None or isinstance(value, str))
_COUNT = ("a count", _is_count)
_COUNT_OR_NULL = ("a count or null", lambda value: value is None or _is_count(value))
_NUMBER = ("a finite number", is_number)
_NUMBERS = ("numbers or null", _are_numbers)
_LIST = ("a list", lambda value: isinstance(value, list))
_LIST_OR_NULL = ("a list or null", lambda value: value is None or isinstance(value, list))
_OBJECT = ("an object", lambda value: isinstance(value, dict))
_OBJECT_OR_NULL = ("an object or null", lambda value: value is None or isinstance(value, dict))
_ANY = ("anything", lambda value: True)
_METRIC_PREFIXES = ("final_test", "best_test", "reported_test")
_METRIC_FIELD = ("a percentage", lambda value: is_number(value) and 0 <= value <= 100)
_SUMMARY_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("name", "model", "dataset", "dataset_description", "source", "best_is_chosen_on"), _TEXT),
    **dict.fromkeys(("command", "devices", "hardware", "workdir", "measure"), _TEXT),
    **dict.fromkeys(("finished", "git_commit", "commit", "data"), _TEXT_OR_NULL),
    **dict.fromkeys(
        ("epochs", "steps", "seed", "best_epoch", "parameters", "train_images", "validation_images"), _COUNT
    ),
    "test_images": _COUNT_OR_NULL,
    **dict.fromkeys(("train_seconds", "test_seconds", "hours", "images_per_second"), _NUMBER),
    **dict.fromkeys(("last", "best", "reported"), _METRIC_FIELD),
    "deviations": _LIST,
    "class_names": _LIST_OR_NULL,
    **dict.fromkeys(("changed_from_named_config", "versions", "class_iou", "config"), _OBJECT),
    "published": _OBJECT_OR_NULL,
}
"""The fields of summary.json and of a run of ledger.json: what each is in words, and whether a value is one."""
_RECORD_FIELDS = {
    **dict.fromkeys(("epoch", "step"), _COUNT),
    **dict.fromkeys(("train_seconds", "test_seconds"), _NUMBER),
}
"""The fields of a line of metrics.jsonl that are not `_NUMBERS`."""


def data_digest(data: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that tell the data of two runs apart."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def data_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Says in words how two sets of data differ; [] if they are the same, wherever they are stored.

    Args:
      there, here: {"class_names": [..], "splits": {NAME: {"images": number, "fingerprint": text, ..}}}.
    """
    told = []
    classes = [list(data.get("class_names", ())) for data in (there, here)]
    if classes[0] != classes[1]:
        told.append(f"classes: {_names(classes[0])} there, {_names(classes[1])} here")
    splits = [data.get("splits", {}) for data in (there, here)]
    for name in dict.fromkeys([*splits[0], *splits[1]]):
        counts = [split[name]["images"] if name in split else 0 for split in splits]
        if counts[0] != counts[1]:
            grown = f", {counts[1] - counts[0]:,} more" if 0 < counts[0] < counts[1] else ""
            told.append(f"{name}: {counts[0]:,} images there, {counts[1]:,} here{grown}")
        elif splits[0][name] != splits[1][name]:
            told.append(f"{name}: as many images there and here, {counts[0]:,}, but not the same ones")
    weights = [data.get("weights") for data in (there, here)]
    if None not in weights and weights[0] != weights[1]:
        told.append(f"the weights to start from: {weights[0]} there, {weights[1]} here")
    return told


_NAMED = 6


def _names(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} ({', '.join(names[:_NAMED])}{rest})"


def is_run(path: str | pathlib.Path) -> bool:
    """Whether a folder is the workdir of a run, finished or not. A folder of saved weights is not a run."""
    workdir = Workdir(os.path.expanduser(path))
    if workdir.checkpoints.is_dir() or (workdir.path / "metrics.jsonl").is_file():
        return True
    try:
        return "run_options" in read_json(workdir.path / "config.json")
    except InputError:
        return False


def read_saved_run(path: str | pathlib.Path, *programs: str) -> SavedRun:
    """Reads config.json of the run in a folder.

    Args:
      path: the workdir.
      *programs: the commands whose runs are accepted, keys of `PROGRAMS`; none accepts all.

    Raises:
      InputError: if there is no folder, no run, a damaged one, or the run of another command. The message then says
        which command takes it.
    """
    folder = pathlib.Path(os.path.expanduser(path))
    file = folder / "config.json"
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder; give the workdir of a run, the folder that holds its config.json")
    if not file.is_file():
        raise InputError(f"{path}: {_no_config(folder)}")
    if (folder / "model.safetensors").is_file():
        raise InputError(f"{path}: saved weights, not the workdir of a run")
    try:
        run = SavedRun.from_json(read_json(file), str(file))
    except ValueError as error:
        raise InputError(f"{file}: not the config of a run ({error}); restore it, or use another workdir") from None
    if programs and run.program not in programs:
        wanted = " or ".join(f"`{program}`" for program in programs)
        takers = " or ".join(f"`{command.format(folder)}`" for command in TAKERS[run.program])
        raise InputError(f"{path}: a run of `{run.program}`; expected one of {wanted}. This run is read by {takers}")
    return run


def _no_config(folder: pathlib.Path) -> str:
    if (folder / "checkpoints").is_dir():
        return "a damaged run, its config.json is missing; restore it, or train again in another --workdir"
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    listed = ", ".join(inside[:5]) + (", .." if len(inside) > 5 else "")
    runs = f"; runs are in its folders {listed}: give one of them" if inside else ""
    return f"no workdir of a run, holds no config.json{runs}"


def default_workdir(name: str, changed: Iterable[tuple[str, Any]]) -> pathlib.Path:
    """runs/NAME, followed by the changes from the named config: runs/resnet_20-epochs=3-seed=1."""
    parts = [name]
    for key, value in changed:
        value = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        parts.append(f"{key.split('.')[-1]}={value}")
    return pathlib.Path("runs") / "-".join(parts).replace("/", "_")[:200]


def _shown(fields: dict[str, Any], key: str) -> str:
    return "the network's own" if key.startswith("model.") and key not in fields else repr(fields.get(key))


def _parse(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl as a dictionary; None for a broken line, which a killed process may leave at the end."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and {"epoch", "step"} <= record.keys() else None


def open_workdir(
    name: str,
    config: RunConfig,
    changed: dict[str, Any],
    console: Console,
    seeds: Sequence[int] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Workdir:
    """Opens the workdir of a run, or of several `seeds`, as `--resume` says. Nothing in it is lost.

    It is locked until `Workdir.release`.

    Raises:
      InputError: if another run is in it, it holds a run of another config or on other `data`, or `--resume must` finds
        no checkpoint.
    """
    # The name does not contain the number of seeds, so that more seeds can join finished ones.
    name += "-seeds" if seeds else ""
    workdir = Workdir(config.workdir or default_workdir(name, changed.items()), writes=jax.process_index() == 0)
    runs = {config.seed: workdir} if seeds is None else {seed: workdir.of_seed(seed) for seed in seeds}
    if config.resume == "must" and not any(run.saved_steps() for run in runs.values()):
        raise InputError(f"--resume must: {workdir.path} holds no checkpoint; check --workdir, or use --resume auto")
    try:
        for run in runs.values():
            run.lock(console.print)
        if config.resume == "never" and any(run.holds_run() for run in runs.values()) and workdir.writes:
            console.print(f"an earlier run was moved to {workdir.move_aside()}", highlight=False)
            for run in runs.values():
                run.lock(console.print)
        for seed, run in runs.items():
            run.check_config(dataclasses.replace(config, seed=seed))
            if data is not None:
                run.check_data(data)
    except BaseException:
        workdir.release()
        raise
    train.wait_for_processes("workdir")
    return workdir
