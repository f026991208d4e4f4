"""The ledger as Markdown and as HTML."""

import html
from collections.abc import Callable, Sequence

from experiments.reports.figure import figure
from experiments.reports.ledger import Row, spread
from experiments.reports.runs import command_of
from experiments.runtime.files import document, markdown_code, markdown_text

COLUMNS = ("config", "model", "dataset", "parameters", "published %", "ours %", "best epoch %", "deviation", "hours")
NOT_RUN = "not yet run"
_EXPLAINED = (
    "Numbers are test errors in percent; of segmentation, mean IoU in percent. Ours is the value after the last"
    " epoch. If the recipe has validation images, it is the value after the epoch that was best on them. It is the"
    " mean over n seeds, with the sample standard deviation. Without validation images, the best epoch is chosen on"
    " the test images, and is not compared. The deviation is ours minus the published number, both by the published"
    " statistic (mean, median or best). SE: the difference of the means in standard errors of that difference; up to 2"
    " is what chance does. A published number without a spread is taken to have ours. A row with fewer seeds than it"
    " needs says so: two, or as many as the published median or best is of. A run that changes its recipe says so, and"
    " has no deviation. A command trains the run's config with this version."
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem; } code { font-size: 0.85em; }
table { border-collapse: collapse; } td, th { border: 1px solid #ddd; padding: 0.3rem 0.6rem; text-align: left; }
th { background: #f4f4f4; position: sticky; top: 0; } tr.open td { color: #888; }
.source { color: #666; font-size: 0.85em; } span.near { background: #0072b222; } span.better { background: #009e7333; }
span.worse { background: #d55e0044; }
"""


def readme_section(rows: Sequence[Row], file: str) -> str:
    """Markdown of the rows with runs, and a count of the others. `file` has all rows, with the command of each run."""
    done = [row for row in rows if row.runs]
    text = f"{progress(rows)}. [The ledger]({file}) has every row, and the command of each run."
    return f"{text}\n\n{_table(done)}" if done else f"{text}\n"


def progress(rows: Sequence[Row]) -> str:
    """How many published results have a run of their recipe, in words. Recipes without one do not count."""
    published = [row for row in rows if row.published and not row.changed]
    return (
        f"{sum(bool(row.runs) for row in published)} of {len(published)} published results were trained with their full"
        " recipe"
    )


def markdown(rows: Sequence[Row]) -> str:
    """All rows, followed by the details of each run."""
    picture = "![Published results and ours, by dataset](ledger.svg)"
    runs = _details([row for row in rows if row.runs])
    return f"# Ledger\n\n{_EXPLAINED}\n\n{picture}\n\n{_table(rows)}\n## Runs\n\n{runs}"


def page(rows: Sequence[Row]) -> str:
    """The same as a single HTML file."""
    head = "".join(f"<th>{column}</th>" for column in (*COLUMNS, "run"))
    lines = []
    for row in rows:
        cells = [html.escape(cell) for cell in _cells(row)]
        if row.published is not None:
            cells[4] += f'<div class="source">{html.escape(_origin(row))}</div>'
        detail = "<br>".join(_detail_lines(row, html.escape, html.escape))
        cells[7] = f'<span class="{row.verdict()}">{cells[7]}</span>'
        cells = "".join(f"<td>{cell}</td>" for cell in (*cells, f'<span class="source">{detail}</span>'))
        lines.append(f"<tr class={'run' if row.runs else 'open'}>{cells}</tr>\n")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{''.join(lines)}</tbody></table>"
    return document("Ledger", _STYLE, f"<p>{html.escape(_EXPLAINED)}</p>{table}{figure(rows)}")


def _table(rows: Sequence[Row]) -> str:
    head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
    return head + "".join(f"| {' | '.join(_markdown_cells(row))} |\n" for row in rows)


def _markdown_cells(row):
    cells = _cells(row)
    if row.published is not None:
        cells[4] += f" ({_origin(row)})"
    return [markdown_text(cell) for cell in cells]


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
        ("no run of the recipe" if row.changed else "-") if deviation is None else _compared(row, deviation),
        f"{sum(run['hours'] for run in row.runs):.2f}",
    ]


def _compared(row: Row, deviation: float) -> str:
    distance, needed = row.distance(), row.seeds_needed()
    if len(row.runs) < needed:
        return f"{deviation:+.2f} (too few seeds: {needed} needed)"
    return f"{deviation:+.2f}" + ("" if distance is None else f" ({distance:+.1f} SE)")


def _value(values: Sequence[float]) -> str:
    std = spread(values)
    mean = f"{sum(values) / len(values):.2f}"
    return mean if std is None else f"{mean} ± {std:.2f}"


def _origin(row: Row) -> str:
    return f"{row.published.statistic}; {row.published.source}"


def _details(rows: Sequence[Row]) -> str:
    return "".join(f"* {markdown_text(f'{row.config}, {row.dataset}')}:\n{_indented(row)}" for row in rows)


def _indented(row):
    return "".join(f"  * {line}\n" for line in _detail_lines(row, markdown_text, markdown_code))


def _detail_lines(row: Row, text: Callable[[str], str], code: Callable[[str], str]) -> list[str]:
    """What a row has to tell besides its cells; `text` and `code` escape it."""
    lines = [text(f"not the recipe: {'; '.join(row.changed)}")] if row.changed else []
    for run in row.runs:
        when = f", {run['finished'][:10]}" if run["finished"] else ""
        lines.append(
            code(command_of(run))
            + text(
                f": last {run['last']:.2f}, best {run['best']:.2f} (epoch {run['best_epoch']} of {run['epochs']});"
                f" {run['hours']:.2f} h on {run['hardware']}{when}; commit {str(run['commit'])[:12]}"
            )
        )
    return lines
