"""Finished runs as the ledger keeps them, read from their folders or from a ledger."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from experiments import cifar, imagenet, segmentation
from experiments.command_line import command
from experiments.configs.base import flatten
from experiments.measure import MEAN_IOU, TEST_ERROR
from experiments.workdir import Workdir
from resjax.errors import InputError

PROGRAMS = {module.PROGRAM: module.CONFIGS for module in (cifar, imagenet, segmentation)}
_MEASURES = (TEST_ERROR, MEAN_IOU)
_KEPT = ("name", "model", "dataset", "seed", "command", "parameters", "epochs", "hours", "hardware", "finished")


def read_run(path: pathlib.Path) -> dict[str, Any]:
    """What the ledger keeps of a finished run.

    Raises:
      InputError: for a run that is not finished, and for files that cannot be read; says which and why.
    """
    workdir = Workdir(path)
    config = _read_json(path / "config.json")
    if not (path / "summary.json").is_file():
        records = workdir.records()
        done = f"{records[-1]['epoch']} of {_epochs(config)} epochs" if records else "no epoch is complete"
        raise InputError(f"{path}: not finished ({done}); the command that started it goes on from there")
    summary = _read_json(path / "summary.json")
    try:
        fields = flatten(config["config"])
        summary = _completed(summary, fields)
        measure = next((m for m in _MEASURES if f"final_{m.key}" in summary), None)
        if measure is None:
            raise ValueError("neither a test error nor a mean IoU")
        last, best = (float(summary[f"{which}_{measure.key}"]) for which in ("final", "best"))
        if not (0 <= last <= 100 and 0 <= best <= 100):
            raise ValueError(f"{measure.key} {last}, {best} are no percentages")
        run = {key: summary[key] for key in _KEPT} | {
            "measure": measure.key,
            "last": last,
            "best": best,
            "reported": float(summary.get(f"reported_{measure.key}", last)),
            "best_epoch": summary["best_epoch"],
            "train_images": summary["train_images"],
            "deviations": summary["deviations"],
            "commit": summary["git_commit"],
            "config": fields,
        }
        program_of(run)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: config.json and summary.json are not those of a run ({reason})") from None
    return run


def _completed(summary: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A summary with what earlier versions did not write, as far as it follows from what they wrote."""
    if "command" in summary:
        return summary
    known = {program: next(iter(configs.values())).config.identity().keys() for program, configs in PROGRAMS.items()}
    program = next((program for program, names in known.items() if fields.keys() <= names), None)
    if program is None:
        raise ValueError("fields that no command has")
    return {
        "command": command(program, summary["name"], summary["changed_from_named_config"]),
        "hours": (summary["train_seconds"] + summary["test_seconds"]) / 3600,
        "hardware": summary["devices"],
        "finished": None,
    } | summary


def run_folders(paths: Iterable[str]) -> list[pathlib.Path]:
    """The workdirs among `paths` and one level below them, and those of the seeds in each, sorted.

    Raises:
      InputError: for a path that is no folder, or holds no run.
    """
    found = []
    for text in paths:
        path = pathlib.Path(text).expanduser()
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
    """The runs of a ledger.json; none where it is not there.

    Raises:
      InputError: where it cannot be read.
    """
    if not file.exists():
        return []
    runs = _read_json(file).get("runs")
    wanted = {*_KEPT, "measure", "reported", "last", "best", "best_epoch", "config", "train_images", "commit"}
    try:
        if not isinstance(runs, list) or not all(wanted <= run.keys() and program_of(run) for run in runs):
            raise ValueError
    except (ValueError, AttributeError):
        raise InputError(f"{file}: not a ledger of this command; restore it, or remove it to start a new one") from None
    return runs


def command_of(run: Mapping[str, Any]) -> str:
    """The command that trains a run's config; not the one it was started by, where its recipe changed since then."""
    changes = changes_of(run)
    return run["command"] if changes is None else command(program_of(run), run["name"], changes)


def changes_of(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields of a run's config that the recipe of its name has otherwise; None where there is no such recipe."""
    named = PROGRAMS[program_of(run)].get(run["name"])
    if named is None:
        return None
    fields, recipe = whole_config(run), named.config.identity()
    return {key: fields[key] for key in recipe if fields.get(key) != recipe[key]}


def whole_config(run: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run; those that its version did not have yet are at their default, which it meant."""
    named = PROGRAMS[program_of(run)].get(run["name"])
    if named is None:
        return run["config"]
    config = named.config
    return type(config)(type(config.model)(config.model.name)).identity() | run["config"]


def program_of(run: Mapping[str, Any]) -> str:
    """The command that a run was started by, without its flags; raises ValueError for one that is none of ours."""
    program = run["command"].partition(" --config ")[0]
    if program not in PROGRAMS:
        raise ValueError(f"{run['command']!r} is none of {', '.join(PROGRAMS)}")
    return program


def _epochs(config: Mapping[str, Any]) -> Any:
    try:
        return flatten(config["config"])["epochs"]
    except (KeyError, TypeError, AttributeError):
        return "?"


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(f"{file}: not there") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return content
