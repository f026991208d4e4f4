"""A person's runs, finished or not: a table for the terminal, and one page with their curves and configs."""

import dataclasses
import html
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from rich.table import Table

from experiments.configs.named import Comparison, compare, network_text, recipe_beside, value_text
from experiments.configs.programs import PROGRAMS, SavedRun, whole_fields
from experiments.reports.runs import command_of, compare_run, read_run
from experiments.runtime.files import document, to_json
from experiments.training.metric import MEAN_IOU, TEST_ERROR
from experiments.training.workdir import Workdir, read_saved_run

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; } code { font-size: 0.85em; }
td, th { border-bottom: 1px solid #8886; padding: 0.25rem 0.6rem; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } td.changed { background: #e69f0044; }
svg { width: 100%; height: auto; } svg text { fill: currentColor; font-size: 12px; } .grid { stroke: #8886; }
.controls { display: flex; flex-wrap: wrap; gap: 1rem; align-items: center; margin: 0.5rem 0; }
#readout { min-height: 1.5em; font-variant-numeric: tabular-nums; } .key { display: inline-block; width: 1.2em; }
@media print { .controls { display: none; } }
"""
# Which curves the page offers, with the axis label. Losses and rates can be drawn on a logarithmic axis.
_CURVES = {
    "test_error": "test error (%)",
    "test_top5_error": "top-5 test error (%)",
    "test_mean_iou": "test mean IoU (%)",
    "test_loss": "test loss",
    "train_loss": "training loss",
    "train_accuracy": "training accuracy",
    "validation_error": "validation error (%)",
    "learning_rate": "learning rate",
    "images_per_second": "images/s",
}


@dataclasses.dataclass(frozen=True)
class OwnRun:
    """A run in a workdir.

    Attributes:
      path: its workdir.
      saved: its config.
      records: the lines of metrics.jsonl.
      finished: what the ledger would keep of it, see `read_run`; None if it is not finished.
    """

    path: pathlib.Path
    saved: SavedRun
    records: Sequence[Mapping[str, Any]]
    finished: Mapping[str, Any] | None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that decide the result; those that its version did not have are at their default."""
        return whole_fields(self.saved.program, self.saved.fields)

    @property
    def metric(self) -> str:
        """Key of the number that the run is judged by."""
        return next((m.key for m in (TEST_ERROR, MEAN_IOU) if self.records and m.key in self.records[0]), "")

    def comparison(self) -> Comparison:
        """The run beside the published result of its recipe."""
        named = PROGRAMS[self.saved.program].get(self.saved.name)
        if named is None:
            return Comparison(None)
        if self.finished is not None:
            return compare_run(named, self.finished)
        return compare(named, self.fields)

    def epochs(self) -> str:
        """Its epochs in words: "164", or "3 of 164" if it is not finished."""
        wanted = self.fields["epochs"]
        return str(wanted) if self.finished is not None else f"{len(self.records)} of {wanted}"

    def value(self, which: str) -> str:
        """The metric of the "last" or "best" epoch in percent; "" before the first epoch has ended."""
        if self.finished is not None:
            return f"{self.finished[which]:.2f}"
        given = (record.get(self.metric) for record in self.records)  # null where it was not finite
        values = [value for value in given if value is not None]
        if not values:
            return ""
        best = max(values) if self.metric == MEAN_IOU.key else min(values)
        return f"{values[-1] if which == 'last' else best:.2f}"

    def beside_published(self) -> str:
        """The deviation from the published number, or why there is none."""
        compared = self.comparison()
        if compared.published is None:
            return "none"
        if self.finished is None:
            return f"published {compared.published.value:.2f}, not finished"
        if compared.changes:
            return f"published {compared.published.value:.2f}, other " + ", ".join(compared.changes)
        return f"{self.finished['reported'] - compared.published.value:+.2f} from {compared.published.value:.2f}"


def read_own_run(path: pathlib.Path) -> OwnRun:
    """Reads a workdir; the run may be unfinished.

    Raises:
      InputError: if files cannot be read.
    """
    finished = read_run(path) if (path / "summary.json").is_file() else None
    return OwnRun(path, read_saved_run(path), Workdir(path).records(), finished)


def labels(runs: Sequence[OwnRun]) -> list[str]:
    """A short name for each run: its path without the folders that all have in common."""
    if len(runs) < 2:
        return [run.path.name for run in runs]
    common = os.path.commonpath([run.path.parent for run in runs])
    return [run.path.relative_to(common).as_posix() for run in runs]


def table(runs: Sequence[OwnRun]) -> Table:
    """The runs for a terminal: where, what, how long, the result, and the published result beside it."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("run", "network, data", "epochs", "last %", "best %", "beside the paper"):
        shown.add_column(column, justify="right" if "%" in column else "left", overflow="fold")
    for label, run in zip(labels(runs), runs, strict=True):
        what = f"{network_text(run.fields)}, {run.fields['dataset']}"
        cells = (label, what, run.epochs(), run.value("last"), run.value("best"), run.beside_published())
        shown.add_row(*(cell.replace("[", r"\[") for cell in cells))
    return shown


def page(runs: Sequence[OwnRun]) -> str:
    """A page that needs no other file: a table of the runs, their curves, and the fields in which they differ."""
    drawn = [
        {
            "name": label,
            "epoch": [record["epoch"] for record in run.records],
            "curves": {
                key: [record.get(key) for record in run.records]
                for key in _CURVES
                if any(record.get(key) is not None for record in run.records)
            },
        }
        for label, run in zip(labels(runs), runs, strict=True)
    ]
    data = json.dumps(to_json({"runs": drawn, "labels": _CURVES})).replace("<", "\\u003c")
    script = (resources.files("experiments.reports") / "curves.js").read_text()
    return document(
        f"{len(runs)} runs" if len(runs) != 1 else "1 run",
        _STYLE,
        f'{_summary_table(runs)}<h2>Curves</h2><div id="curves"></div>{_differences(runs)}'
        f'<script type="application/json" id="data">{data}</script><script>{script}</script>',
    )


def _summary_table(runs: Sequence[OwnRun]) -> str:
    columns = ("run", "network", "data", "seed", "epochs", "last %", "best %", "beside the paper", "hours", "command")
    lines = []
    for label, run in zip(labels(runs), runs, strict=True):
        times = (record.get(key) for record in run.records for key in ("train_seconds", "test_seconds"))
        hours = sum(filter(None, times)) / 3600
        command = "" if run.finished is None else command_of(run.finished)
        texts = [label, network_text(run.fields), run.fields["dataset"], str(run.fields["seed"]), run.epochs()]
        texts += [run.value("last"), run.value("best"), run.beside_published(), f"{hours:.2f}"]
        cells = [
            f"<td{' class=number' if column.endswith('%') or column == 'hours' else ''}>{html.escape(text)}</td>"
            for column, text in zip(columns[:-1], texts, strict=True)
        ]
        lines.append(f"<tr>{''.join(cells)}<td><code>{html.escape(command)}</code></td></tr>\n")
    head = "".join(f"<th>{column}</th>" for column in columns)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{"".join(lines)}</tbody></table></div>'


def _differences(runs: Sequence[OwnRun]) -> str:
    """A table of the fields that are not the same in all runs; what differs from the run's recipe is marked."""
    fields = [run.fields for run in runs]
    names = sorted({name for each in fields for name in each})
    differing = [name for name in names if len({value_text(each.get(name)) for each in fields}) > 1]
    if not differing:
        return ""
    changed = []
    for run, own in zip(runs, fields, strict=True):
        named = PROGRAMS[run.saved.program].get(run.saved.name)
        recipe = own if named is None else recipe_beside(named, own)
        changed.append({name for name in names if value_text(own.get(name)) != value_text(recipe.get(name))})
    head = "".join(f"<th>{html.escape(label)}</th>" for label in labels(runs))
    lines = []
    for name in differing:
        cells = "".join(
            f"<td{' class=changed' if name in marks else ''}>{html.escape(value_text(own.get(name)))}</td>"
            for own, marks in zip(fields, changed, strict=True)
        )
        lines.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>\n")
    return (
        "<h2>Differences of the configs</h2><p>Marked values differ from the run's recipe.</p>"
        f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>\n'
        f"{''.join(lines)}</tbody></table></div>"
    )
