"""The ledger: every named recipe, and every run that happened, beside what was published."""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import cifar, imagenet
from experiments.configs.base import Config
from experiments.configs.named import Comparison, NamedRun
from experiments.image_splits import training_size
from experiments.ledger_runs import PROGRAMS, command_of, program_of, whole_config
from experiments.measure import MEAN_IOU
from resjax.data.images import image_dataset_info

# Of a run these say on which data and with which seed, not with which recipe.
_NOT_RECIPE = ("seed", "dataset")
_NOT_STRUCTURE = ("model.name", "model.norm_scope", "model.norm_scale_init", "model.kernel_init")


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the ledger: a recipe on a dataset, or runs of one config.

    Attributes:
      config: name of the config.
      model, dataset: what was trained, or would be, on what; in words.
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


def merged(kept: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs that were kept before and new ones; of the same config, seed and hardware the one finished last."""
    runs = {_identity(run): run for run in sorted((*kept, *new), key=_finished)}
    return sorted(runs.values(), key=lambda run: (run["command"], run["hardware"]))


def rows(runs: Sequence[dict[str, Any]]) -> list[Row]:
    """Every recipe of every command, each with its runs, and behind it runs with something changed."""
    by_seed: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for run in runs:
        without_seed = {key: value for key, value in whole_config(run).items() if key != "seed"}
        key = (program_of(run), run["name"], json.dumps([without_seed, run["train_images"]], sort_keys=True))
        group = by_seed.setdefault(key, {})
        # Of a seed that ran on several machines the run that ended last counts.
        group[run["seed"]] = max(group.get(run["seed"], run), run, key=_finished)
    groups = {key: list(group.values()) for key, group in by_seed.items()}
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
    network = _network(named.config.identity())
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
            rows.append(Row(name, network, dataset, named.parameters_of_network if own else None, comparison))
    for group, text in zip(groups, changed, strict=True):
        if text:
            same_network = not any(key.startswith("model.") for key in text)
            rows.append(_row(name, group, published.get(group[0]["dataset"]) if same_network else None, text))
    return rows


def _row(name, group, comparison, changed):
    first = group[0]
    runs = tuple(sorted(group, key=lambda run: run["seed"]))
    return Row(
        name, _network(whole_config(first)), first["dataset"], first["parameters"], comparison, tuple(changed), runs
    )


def differences(named: NamedRun, run: Mapping[str, Any], published: Mapping[str, Any]) -> tuple[str, ...]:
    """In words, how a run is not what its recipe says; () where it is the recipe's own."""
    recipe, fields = named.config.identity(), whole_config(run)
    if recipe.get("frozen_statistics"):  # starts from a classifier's weights, which lie elsewhere for everyone
        del recipe["pretrained"]
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
    if program_of(run) == cifar.PROGRAM:
        return training_size(Config.from_identity(run["config"]))
    known = image_dataset_info(run["dataset"]) if program_of(run) == imagenet.PROGRAM else None
    return None if known is None else known.train_images


def _network(fields: Mapping[str, Any]) -> str:
    """The network's name, and what of its structure the name does not say."""
    told = [
        f"{key.removeprefix('model.')} {_text(value)}"
        for key, value in fields.items()
        if key.startswith("model.") and value is not None and key not in _NOT_STRUCTURE
    ]
    return ", ".join([fields["model.name"], *told])


def _text(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _finished(run: Mapping[str, Any]) -> str:
    """When; earlier versions wrote the day alone, or nothing."""
    return run["finished"] or ""


def _identity(run: Mapping[str, Any]) -> str:
    return json.dumps([program_of(run), run["name"], whole_config(run), run["hardware"]], sort_keys=True)


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
            "commands": [command_of(run) for run in row.runs],
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
