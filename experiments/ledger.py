"""The ledger: every named recipe, and every run that happened, beside what was published."""

import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments import cifar, imagenet, segmentation
from experiments.command_line import command
from experiments.configs.base import Config, flatten
from experiments.configs.named import Comparison, NamedRun
from experiments.image_splits import training_size
from experiments.measure import MEAN_IOU, TEST_ERROR
from experiments.workdir import Workdir
from resjax.data.images import image_dataset_info
from resjax.errors import InputError

PROGRAMS = {module.PROGRAM: module.CONFIGS for module in (cifar, imagenet, segmentation)}
_MEASURES = (TEST_ERROR, MEAN_IOU)
# Of a run these say on which data and with which seed, not with which recipe.
_NOT_RECIPE = ("seed", "dataset")
_KEPT = ("name", "model", "dataset", "seed", "command", "parameters", "epochs", "hours", "hardware", "finished")


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the ledger: a recipe on a dataset, or runs of one config.

    Attributes:
      config: name of the config.
      model, dataset: what was trained, or would be, on what.
      parameters: exact number; None where it is counted by the run.
      published: what to compare with, or None.
      changed: how the runs differ from the recipe, in words; () for the recipe itself.
      runs: of the same config, by seed; () where there is none yet.
    """

    config: str
    model: str
    dataset: str
    parameters: int | None
    published: Comparison | None
    changed: tuple[str, ...] = ()
    runs: tuple[dict[str, Any], ...] = ()

    def reported(self) -> list[float]:
        """What each run reports, in percent: of its last epoch, or of the one that its validation images chose."""
        return [run["reported"] for run in self.runs]

    def of_best(self) -> list[float]:
        """The measure after each run's best epoch, chosen on validation images, or else on the test images."""
        return [run["best"] for run in self.runs]

    def deviation(self) -> float | None:
        """The published statistic of what we report minus the published number; None where they cannot be compared.

        A published median is compared with the median, the best of several runs with the best, all else with the mean.
        """
        if self.published is None or self.changed or not self.runs:
            return None
        values, statistic = self.reported(), self.published.statistic
        if statistic.startswith("median"):
            ours = statistics.median(values)
        elif statistic.startswith("best"):
            ours = max(values) if self.runs[0]["measure"] == MEAN_IOU.key else min(values)
        else:
            ours = statistics.mean(values)
        return ours - self.published.value


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None of a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


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
        measure = next(m for m in _MEASURES if f"final_{m.key}" in summary)
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
        _program(run)
    except StopIteration:
        raise InputError(f"{path / 'summary.json'}: holds neither a test error nor a mean IoU") from None
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: config.json and summary.json are not those of a run ({reason})") from None
    return run


def _completed(summary: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A summary with what earlier versions did not write, as far as it follows from what they wrote."""
    if "command" in summary:
        return summary
    known = {program: next(iter(configs.values())).config.identity().keys() for program, configs in PROGRAMS.items()}
    program = next(program for program, names in known.items() if fields.keys() <= names)
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


def merged(kept: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs that were kept before and new ones; a new one replaces that of the same config, seed and hardware."""
    runs = {_identity(run): run for run in (*kept, *new)}
    return sorted(runs.values(), key=lambda run: (run["command"], run["hardware"]))


def rows(runs: Sequence[dict[str, Any]]) -> list[Row]:
    """Every recipe of every command, each with its runs, and behind it runs with something changed."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in runs:
        without_seed = {key: value for key, value in _whole_config(run).items() if key != "seed"}
        key = (_program(run), run["name"], json.dumps([without_seed, run["train_images"]], sort_keys=True))
        groups.setdefault(key, []).append(run)
    found = []
    for program, configs in PROGRAMS.items():
        for name, named in configs.items():
            own = [group for (p, n, _), group in groups.items() if (p, n) == (program, name)]
            found += _rows_of(name, named, own)
        for (p, name, _), group in groups.items():
            if p == program and name not in configs:
                found.append(_row(name, group, None, ("no recipe of this name is left",)))
    return found


def _rows_of(name: str, named: NamedRun, groups: list[list[dict[str, Any]]]) -> list[Row]:
    rows, published = [], named.to_compare()
    changed = [differences(named, group[0], published) for group in groups]
    for dataset, comparison in published.items():
        recipe = [
            (group, text)
            for group, text in zip(groups, changed, strict=True)
            if group[0]["dataset"] == dataset and not text
        ]
        for group, text in recipe:
            rows.append(_row(name, group, comparison, text))
        if not recipe:
            own = dataset == named.config.dataset
            rows.append(
                Row(name, named.config.model.name, dataset, named.parameters_of_network if own else None, comparison)
            )
    for group, text in zip(groups, changed, strict=True):
        if text:
            same_network = not any(key.startswith("model.") for key in text)
            rows.append(_row(name, group, published.get(group[0]["dataset"]) if same_network else None, text))
    return rows


def _row(name, group, comparison, changed):
    first = group[0]
    runs = tuple(sorted(group, key=lambda run: run["seed"]))
    return Row(name, first["model"], first["dataset"], first["parameters"], comparison, tuple(changed), runs)


def differences(named: NamedRun, run: Mapping[str, Any], published: Mapping[str, Any]) -> tuple[str, ...]:
    """In words, how a run is not what its recipe says; () where it is the recipe's own."""
    recipe, fields = named.config.identity(), _whole_config(run)
    told = [
        f"{key} {_text(fields.get(key))} (recipe: {_text(value)})"
        for key, value in recipe.items()
        if key not in _NOT_RECIPE and fields.get(key) != value
    ]
    if run["dataset"] not in published:
        told.append(f"dataset {run['dataset']} (recipe: {', '.join(published)})")
    whole = _training_images(run)
    if whole is not None and run["train_images"] != whole:
        told.append(f"{run['train_images']:,} of {whole:,} training images")
    return tuple(told)


def _training_images(run: Mapping[str, Any]) -> int | None:
    """How many images the whole training set has; None where that depends on a folder."""
    if _program(run) == cifar.PROGRAM:
        return training_size(Config.from_identity(run["config"]))
    known = image_dataset_info(run["dataset"]) if _program(run) == imagenet.PROGRAM else None
    return None if known is None else known.train_images


def _whole_config(run: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run; those that its version did not have yet are at their default, which it meant."""
    named = PROGRAMS[_program(run)].get(run["name"])
    if named is None:
        return run["config"]
    config = named.config
    return type(config)(type(config.model)(config.model.name)).identity() | run["config"]


def _text(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _identity(run: Mapping[str, Any]) -> str:
    return json.dumps([_program(run), run["name"], _whole_config(run), run["hardware"]], sort_keys=True)


def _program(run: Mapping[str, Any]) -> str:
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


def read_ledger(file: pathlib.Path) -> list[dict[str, Any]]:
    """The runs of a ledger.json; none where it is not there.

    Raises:
      InputError: where it cannot be read.
    """
    if not file.exists():
        return []
    runs = _read_json(file).get("runs")
    wanted = {*_KEPT, "measure", "reported", "last", "best", "config", "train_images", "commit"}
    if not isinstance(runs, list) or not all(isinstance(run, dict) and wanted <= run.keys() for run in runs):
        raise InputError(f"{file}: not a ledger of this command; restore it, or remove it to start a new one")
    return runs


def as_json(runs: Sequence[dict[str, Any]], rows: Sequence[Row]) -> dict[str, Any]:
    """What ledger.json holds: the runs as they were read, and the table made of them."""
    return {"runs": list(runs), "rows": [_row_json(row) for row in rows]}


def _row_json(row: Row) -> dict[str, Any]:
    summed = None
    if row.runs:
        ours, best = row.reported(), row.of_best()
        summed = {
            "measure": row.runs[0]["measure"],
            "runs": len(ours),
            "seeds": [run["seed"] for run in row.runs],
            "reported": {"mean": math.fsum(ours) / len(ours), "std": spread(ours), "median": statistics.median(ours)},
            "best_epoch": {"mean": math.fsum(best) / len(best), "std": spread(best)},
            "deviation": row.deviation(),
            "commands": [run["command"] for run in row.runs],
            "hardware": sorted({run["hardware"] for run in row.runs}),
            "hours": math.fsum(run["hours"] for run in row.runs),
            "commits": sorted({str(run["commit"]) for run in row.runs}),
        }
    return {
        "config": row.config,
        "model": row.model,
        "dataset": row.dataset,
        "parameters": row.parameters,
        "published": None if row.published is None else dataclasses.asdict(row.published),
        "changed": list(row.changed),
        "status": "run" if row.runs else "not yet run",
        "ours": summed,
    }
