"""The ledger: every named recipe and every finished run, beside the published results."""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.configs.named import Comparison, NamedRun, network_text
from experiments.configs.programs import PROGRAMS
from experiments.reports.runs import command_of, compare_run, program_of, whole_config
from experiments.training.metric import MEAN_IOU
from resjax.models.published import Published


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the ledger: a recipe on a dataset, or runs of one config.

    Attributes:
      config: name of the config.
      model, dataset: the network and the dataset, in words.
      parameters: exact number; None if only a run can count them.
      published: the result to compare with, or None.
      changed: how the runs differ from the recipe, in words; () for the recipe itself.
      runs: the runs of this config, by seed; () if there are none yet.
    """

    config: str
    model: str
    dataset: str
    parameters: int | None
    published: Published | None
    changed: tuple[str, ...] = ()
    runs: tuple[dict[str, Any], ...] = ()

    def reported(self) -> list[float]:
        """Each run's reported metric in percent: of the last epoch, or of the one chosen on validation images."""
        return [run["reported"] for run in self.runs]

    def of_best(self) -> list[float]:
        """The metric of each run's best epoch, on validation images if there are any, else on the test images."""
        return [run["best"] for run in self.runs]

    def deviation(self) -> float | None:
        """Our value of the published statistic minus the published value; None if they cannot be compared.

        A published median is compared with our median, and the best of several runs with our best. All else is compared
        with our mean.
        """
        if self.published is None or self.changed or not self.runs:
            return None
        values = self.reported()
        match self.published.aggregate:
            case "median":
                ours = statistics.median(values)
            case "best":
                ours = max(values) if self.runs[0]["measure"] == MEAN_IOU.key else min(values)
            case _:
                ours = statistics.mean(values)
        return ours - self.published.value

    def seeds_needed(self) -> int:
        """Seeds that a comparison needs: those of a published median or best, else two, which have a spread."""
        published = self.published
        of_several = published is not None and published.aggregate in ("median", "best")
        return max(2, (published.runs or 2) if of_several else 2)

    def distance(self) -> float | None:
        """Our mean minus the published one, in standard errors of the difference; None if it cannot be computed.

        A published number without a spread is taken to have ours; a single run is one draw of it. A published median
        stands for a mean with the standard error of a median, which is sqrt(pi / 2) times as large.
        """
        values, published = self.reported(), self.published
        std = spread(values)
        if self.deviation() is None or published is None or std is None or len(values) < self.seeds_needed():
            return None
        centre, runs = published.mean, published.runs or 1
        variance = (std if published.std is None else published.std) ** 2 / runs
        if centre is None:
            if published.aggregate == "best":
                return None
            centre = published.value
            variance *= math.pi / 2 if published.aggregate == "median" else 1
        error = math.sqrt(std**2 / len(values) + variance)
        return (statistics.mean(values) - centre) / error if error else None

    def verdict(self) -> str:
        """ "near": within two standard errors of the published number; "better", "worse"; "open": not comparable."""
        distance = self.distance()
        if distance is None:
            return "open"
        is_better = distance > 0 if self.runs[0]["measure"] == MEAN_IOU.key else distance < 0
        return "near" if abs(distance) <= 2 else "better" if is_better else "worse"


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def merged(kept: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins old and new runs. Of runs with one config, seed, data and hardware, the one that finished last is kept."""
    ordered = sorted((*kept, *new), key=_finished)
    runs = dict(zip(_keys(ordered, _identity), ordered, strict=True))
    return sorted(runs.values(), key=lambda run: (run["command"], run["hardware"]))


def rows(runs: Sequence[dict[str, Any]]) -> list[Row]:
    """Every recipe of every command with its runs, and after it the runs that changed something."""
    by_seed: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for key, run in zip(_keys(runs, _recipe), runs, strict=True):
        group = by_seed.setdefault(key, {})
        # If a seed ran on several machines, the run that finished last counts.
        group[run["seed"]] = max(group.get(run["seed"], run), run, key=_finished)
    groups = {key: list(group.values()) for key, group in by_seed.items()}
    found = []
    for program, configs in PROGRAMS.items():
        for name, named in configs.items():
            own = [group for (p, n, *_), group in groups.items() if (p, n) == (program, name)]
            found += _rows_of(name, named, own)
        for (p, name, *_), group in groups.items():
            if p == program and name not in configs:
                gone = {"name": "no recipe of this name is left"}
                found.append(_row(name, group, Comparison(None, gone)))
    return found


def _rows_of(name: str, named: NamedRun, groups: list[list[dict[str, Any]]]) -> list[Row]:
    rows, published = [], named.to_compare()
    network = network_text(named.config.identity())
    compared = [compare_run(named, group[0]) for group in groups]
    for dataset, result in published.items():
        recipe = [
            group
            for group, comparison in zip(groups, compared, strict=True)
            if group[0]["dataset"] == dataset and not comparison.changes
        ]
        rows += [_row(name, group, Comparison(result)) for group in recipe]
        if not recipe:
            own = dataset == named.config.dataset
            rows.append(Row(name, network, dataset, named.parameters_of_network if own else None, result))
    changed = [pair for pair in zip(groups, compared, strict=True) if pair[1].changes]
    return rows + [_row(name, group, comparison) for group, comparison in changed]


def _row(name: str, group: list[dict[str, Any]], comparison: Comparison) -> Row:
    first = group[0]
    return Row(
        name,
        network_text(whole_config(first)),
        first["dataset"],
        first["parameters"],
        comparison.published,
        tuple(comparison.changes.values()),
        tuple(sorted(group, key=lambda run: run["seed"])),
    )


def _finished(run: Mapping[str, Any]) -> str:
    """When a run finished. Earlier versions wrote only the day, or nothing."""
    return run["finished"] or ""


def _identity(run: Mapping[str, Any]) -> tuple[Any, ...]:
    return program_of(run), run["name"], json.dumps([whole_config(run), run["hardware"]], sort_keys=True)


def _recipe(run: Mapping[str, Any]) -> tuple[Any, ...]:
    fields = {key: value for key, value in whole_config(run).items() if key != "seed"}
    return program_of(run), run["name"], json.dumps([fields, run["train_images"]], sort_keys=True)


def _keys(runs: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], tuple]) -> list[tuple[Any, ...]]:
    """The key of each run. It includes the data if runs with one key have different data; old runs do not record it."""
    keys, data = [key(run) for run in runs], {}
    for own, run in zip(keys, runs, strict=True):
        data.setdefault(own, set()).add(run.get("data"))
    return [
        (*own, run.get("data") if len(data[own] - {None}) > 1 else None) for own, run in zip(keys, runs, strict=True)
    ]


def as_json(runs: Sequence[dict[str, Any]], rows: Sequence[Row]) -> dict[str, Any]:
    """The contents of ledger.json: the runs as read, and the table made from them."""
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
            "standard_errors": row.distance(),
            "seeds_needed": row.seeds_needed(),
            "verdict": row.verdict(),
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
        "published": None if row.published is None else row.published.to_json(),
        "changed": list(row.changed),
        "status": "run" if row.runs else "not yet run",
        "ours": summed,
    }
