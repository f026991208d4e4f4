"""The ledger as Markdown and as HTML."""

import html
from collections.abc import Sequence

from experiments.ledger import Row, spread
from experiments.ledger_runs import command_of
from experiments.web_page import document

COLUMNS = ("config", "model", "dataset", "parameters", "published %", "ours %", "best epoch %", "deviation", "hours")
NOT_RUN = "not yet run"
_EXPLAINED = (
    "Numbers are test errors in percent (of segmentation: mean IoU). Ours is that after the last epoch, or after the"
    " one that was best on validation images where the recipe has them: the mean over n seeds, with the sample standard"
    " deviation. The best epoch is otherwise chosen on the test images, and stands for itself. The deviation is"
    " ours minus the published number, both by the published statistic (mean, median or best). A run with anything"
    " changed from its recipe says so, and has none. A command is that which trains the run's config with this version."
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem; } code { font-size: 0.85em; }
table { border-collapse: collapse; } td, th { border: 1px solid #ddd; padding: 0.3rem 0.6rem; text-align: left; }
th { background: #f4f4f4; position: sticky; top: 0; } tr.open td { color: #888; }
.source { color: #666; font-size: 0.85em; }
"""


def readme_section(rows: Sequence[Row], file: str) -> str:
    """Markdown of the rows with runs, and a count of the others, which are in `file`."""
    done = [row for row in rows if row.runs]
    text = f"{progress(rows)}; the others are {NOT_RUN}, see `{file}`."
    return f"{text}\n\n{_table(done)}\n{_details(done)}" if done else f"{text}\n"


def progress(rows: Sequence[Row]) -> str:
    """How many published results have runs of their recipe, in words; our own recipes have none to compare with."""
    published = [row for row in rows if row.published and not row.changed]
    return (
        f"{sum(bool(row.runs) for row in published)} of {len(published)} published results have a run of their recipe"
    )


def markdown(rows: Sequence[Row]) -> str:
    """All rows, and behind them what each run was."""
    return f"# Ledger\n\n{_EXPLAINED}\n\n{_table(rows)}\n## Runs\n\n{_details([row for row in rows if row.runs])}"


def page(rows: Sequence[Row]) -> str:
    """The same as one HTML file."""
    head = "".join(f"<th>{column}</th>" for column in (*COLUMNS, "run"))
    lines = []
    for row in rows:
        cells = [html.escape(cell) for cell in _cells(row)]
        if row.published is not None:
            cells[4] += f'<div class="source">{html.escape(_origin(row))}</div>'
        detail = "<br>".join(html.escape(line).replace("`", "") for line in _detail_lines(row))
        cells = "".join(f"<td>{cell}</td>" for cell in (*cells, f'<span class="source">{detail}</span>'))
        lines.append(f"<tr class={'run' if row.runs else 'open'}>{cells}</tr>\n")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{''.join(lines)}</tbody></table>"
    return document("Ledger", _STYLE, f"<p>{html.escape(_EXPLAINED)}</p>{table}")


def _table(rows: Sequence[Row]) -> str:
    head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
    return head + "".join(f"| {' | '.join(_markdown_cells(row))} |\n" for row in rows)


def _markdown_cells(row):
    cells = _cells(row)
    if row.published is not None:
        cells[4] += f" ({_origin(row)})"
    return cells


def _cells(row: Row) -> list[str]:
    published = "-" if row.published is None else f"{row.published.value:.2f}"
    parameters = "" if row.parameters is None else f"{row.parameters:,}"
    name = f"{row.config} (changed)" if row.changed else row.config
    if not row.runs:
        return [name, row.model, row.dataset, parameters, published, NOT_RUN, "", "", ""]
    deviation = row.deviation()
    return [
        name,
        row.model,
        row.dataset,
        parameters,
        published,
        f"{_value(row.reported())} (n = {len(row.runs)})",
        _value(row.of_best()),
        ("no run of the recipe" if row.changed else "-") if deviation is None else f"{deviation:+.2f}",
        f"{sum(run['hours'] for run in row.runs):.2f}",
    ]


def _value(values: Sequence[float]) -> str:
    std = spread(values)
    mean = f"{sum(values) / len(values):.2f}"
    return mean if std is None else f"{mean} ± {std:.2f}"


def _origin(row: Row) -> str:
    return f"{row.published.statistic}; {row.published.source}"


def _details(rows: Sequence[Row]) -> str:
    return "".join(f"* {row.config}, {row.dataset}:\n{_indented(row)}" for row in rows)


def _indented(row):
    return "".join(f"  * {line}\n" for line in _detail_lines(row))


def _detail_lines(row: Row) -> list[str]:
    lines = [f"not the recipe: {'; '.join(row.changed)}"] if row.changed else []
    for run in row.runs:
        when = f", {run['finished'][:10]}" if run["finished"] else ""
        lines.append(
            f"`{command_of(run)}`: last {run['last']:.2f}, best {run['best']:.2f} (epoch {run['best_epoch']} of"
            f" {run['epochs']}); {run['hours']:.2f} h on {run['hardware']}{when}; commit {str(run['commit'])[:12]}"
        )
    return lines
