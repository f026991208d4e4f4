"""Finished runs in the form of the ledger, read from their folders or from a ledger."""

import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.configs.base import flatten
from experiments.configs.named import Comparison, NamedRun, changes_to_repeat, command, compare
from experiments.configs.programs import PROGRAMS, SavedRun, check_kinds, whole_fields
from experiments.runtime.files import read_json
from experiments.training.metric import MEAN_IOU, TEST_ERROR
from experiments.training.workdir import Workdir, data_digest, read_saved_run, wrong_field
from resjax.errors import InputError
from resjax.models.published import Published, PublishedMeanIou

_METRICS = (TEST_ERROR, MEAN_IOU)
_KEPT = ("name", "model", "dataset", "seed", "command", "parameters", "epochs", "hours", "hardware", "finished")


def read_run(path: pathlib.Path) -> dict[str, Any]:
    """Reads what the ledger keeps of a finished run.

    Raises:
      InputError: if the run is not finished, or files cannot be read; the message says which and why.
    """
    workdir, saved = Workdir(path), read_saved_run(path)
    if not (path / "summary.json").is_file():
        records = workdir.records()
        epochs = saved.fields.get("epochs", "?")
        done = f"{records[-1]['epoch']} of {epochs} epochs" if records else "no epoch is complete"
        raise InputError(f"{path}: not finished ({done}); run the command that started it again to resume")
    summary = workdir.read_summary()
    losses = [record.get("test_loss", 0.0) for record in workdir.records()[-1:]]
    if losses and not (isinstance(losses[0], (int, float)) and math.isfinite(losses[0])):
        raise InputError(
            f"{path}: diverged, its last test loss is {losses[0]}; train again with a smaller learning rate"
        )
    try:
        summary = _completed(summary, saved)
        metric = next((m for m in _METRICS if f"final_{m.key}" in summary), None)
        if metric is None:
            raise ValueError("neither a test error nor a mean IoU")
        last, best = (float(summary[f"{which}_{metric.key}"]) for which in ("final", "best"))
        run = {key: summary[key] for key in _KEPT} | {
            "measure": metric.key,
            "last": last,
            "best": best,
            "reported": float(summary.get(f"reported_{metric.key}", last)),
            "best_epoch": summary["best_epoch"],
            "train_images": summary["train_images"],
            "test_images": summary.get("test_images"),
            "data": None if saved.data is None else data_digest(saved.data),
            # Those of a person's masks may be others than those of the dataset whose layout they have.
            "class_names": list(summary["class_iou"]) if "class_iou" in summary else None,
            "deviations": summary["deviations"],
            "commit": summary["git_commit"],
            "config": dict(saved.fields),
        }
        program_of(run)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: config.json and summary.json are not those of a run ({reason})") from None
    return run


def _completed(summary: dict[str, Any], saved: SavedRun) -> dict[str, Any]:
    """Adds to a summary what earlier versions did not write, if it follows from what they wrote."""
    if "command" in summary:
        return summary
    return {
        "command": command(saved.program, summary["name"], summary["changed_from_named_config"]),
        "hours": (summary["train_seconds"] + summary["test_seconds"]) / 3600,
        "hardware": summary["devices"],
        "finished": None,
    } | summary


def run_folders(paths: Iterable[str]) -> list[pathlib.Path]:
    """The workdirs among `paths` and one level below them, and the workdirs of seeds in each, sorted.

    Raises:
      InputError: if a path is not a folder, or holds no run.
    """
    found = []
    for text in paths:
        path = pathlib.Path(os.path.expanduser(text))
        if not path.is_dir():
            raise InputError(f"{text}: no such folder; give workdirs, or the folder that they lie in")
        folders = [path, *filter(pathlib.Path.is_dir, path.iterdir())]
        folders += [run for folder in folders for run in folder.glob("seed_*")]
        inside = [folder for folder in folders if Workdir(folder).holds_run()]
        if not inside:
            raise InputError(f"{text}: holds no run (no config.json, here or one level below)")
        found += inside
    return sorted(set(found))


def read_ledger(file: pathlib.Path) -> list[dict[str, Any]]:
    """The runs of a ledger.json; empty if there is no such file.

    Raises:
      InputError: if it cannot be read.
    """
    if not file.exists():
        return []
    runs = read_json(file).get("runs")
    wanted = {*_KEPT, "measure", "reported", "last", "best", "best_epoch", "config", "train_images", "commit"}
    try:
        if not isinstance(runs, list) or not all(wanted <= run.keys() and program_of(run) for run in runs):
            raise ValueError
    except (ValueError, AttributeError):
        raise InputError(f"{file}: not a ledger of this command; restore it, or choose another --output") from None
    try:
        for run in runs:
            if wrong := wrong_field(run):
                raise ValueError(wrong)
            check_kinds(program_of(run), flatten(run["config"]))
    except ValueError as error:
        raise InputError(f"{file}: {error}; restore it, or choose another --output") from None
    return runs


def command_of(run: Mapping[str, Any]) -> str:
    """The command that trains a run's config today. It is not the original command if the recipe has changed since."""
    changes = changes_of(run)
    return run["command"] if changes is None else command(program_of(run), run["name"], changes)


def changes_of(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields in which a run's config differs from the recipe of its name; None if there is no such recipe."""
    named = PROGRAMS[program_of(run)].get(run["name"])
    if named is None:
        return None
    fields = whole_config(run)
    config = type(named.config).from_identity(fields)
    return changes_to_repeat(named, fields, config)


def compare_run(named: NamedRun, run: Mapping[str, Any]) -> Comparison:
    """Compares a run with the published result of its recipe, see `experiments.configs.named.compare`."""
    return compare(named, whole_config(run), run["train_images"], run.get("test_images"), run.get("class_names"))


def measure_of(published: Published | None, runs: Sequence[Mapping[str, Any]]) -> str:
    """What the numbers of a row are, in words."""
    is_iou = runs[0]["measure"] == MEAN_IOU.key if runs else isinstance(published, PublishedMeanIou)
    return "mean IoU (%)" if is_iou else "test error (%)"


def whole_config(run: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a run. Fields that its version did not have yet are at their default."""
    return whole_fields(program_of(run), run["config"])


def program_of(run: Mapping[str, Any]) -> str:
    """The command that a run was started by, without its flags; raises ValueError if it is not one of ours."""
    program = run["command"].partition(" --config ")[0]
    if program not in PROGRAMS:
        raise ValueError(f"{run['command']!r} is none of {', '.join(PROGRAMS)}")
    return program
