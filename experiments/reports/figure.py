"""The ledger as one picture: published results and ours on the axis of each dataset."""

import html
import itertools
from collections.abc import Sequence

from experiments.reports.ledger import Row, spread
from experiments.reports.runs import measure_of

WIDTH = 960
# Pixels: of the names, of a row, of a dataset's heading with its axis, of the words beside a dot.
_NAMES, _LINE, _HEAD, _NOTE = 300, 15, 44, 100
# Colours that also a colour-blind reader can tell apart (Okabe & Ito 2008), and a shape for each.
COLOURS = {"near": "#0072b2", "better": "#009e73", "worse": "#d55e00", "open": "#777777"}
_MEANINGS = (
    ("open", "published"),
    ("near", "ours, within 2 standard errors"),
    ("better", "ours, better"),
    ("worse", "ours, worse"),
    ("open", "ours, not comparable (changed, or too few seeds)"),
)


def figure(rows: Sequence[Row]) -> str:
    """An SVG picture of all rows with a number, by dataset.

    A bar is a published result. A dot is our mean over n seeds; the line through it reaches one standard deviation to
    each side. Beside it stands the difference in standard errors (SE), or how many seeds that needs.
    """
    drawn = sorted((row for row in rows if row.published or row.runs), key=_group)
    parts, y = [_legend()], 56
    for (dataset, measure), group in itertools.groupby(drawn, key=_group):
        members = list(group)
        parts.append(_panel(f"{dataset}: {measure}", members, y))
        y += _HEAD + _LINE * len(members) + 20
    text = "".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" font-family="sans-serif"'
        f' font-size="11"><rect width="{WIDTH}" height="{y}" fill="white"/>{text}</svg>\n'
    )


def _group(row: Row) -> tuple[str, str]:
    return row.dataset, measure_of(row.published, row.runs)


def _panel(title: str, rows: Sequence[Row], top: int) -> str:
    values = [value for row in rows for value in (*_published(row), *row.reported())]
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if max(values) / step <= 10)
    right = step * (int(max(values) / step) + 1)
    bottom = top + _HEAD + _LINE * len(rows)

    def x(value: float) -> float:
        return _NAMES + (WIDTH - _NAMES - 20) * value / right

    parts = [f'<text x="10" y="{top + 16}" font-size="14" font-weight="bold">{html.escape(title)}</text>']
    for i in range(round(right / step) + 1):
        at, label = x(i * step), f"{i * step:g}"
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top + 36}" y2="{bottom}" stroke="#dddddd"/>')
        parts.append(f'<text x="{at:.1f}" y="{top + 33}" text-anchor="middle" fill="#555555">{label}</text>')
    for i, row in enumerate(rows):
        parts.append(_row(row, top + _HEAD + _LINE * i, x))
    return "".join(parts)


def _row(row: Row, top: int, x) -> str:
    middle = top + _LINE / 2
    name = f"{row.config} (changed)" if row.changed else row.config
    told = [name, *(f"published {value:.2f}" for value in _published(row))]
    colour = "#000000" if row.runs else "#777777"
    parts = [f'<text x="{_NAMES - 10}" y="{middle + 4}" text-anchor="end" fill="{colour}">{html.escape(name)}</text>']
    for value in _published(row):
        parts.append(
            f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top + 2}" y2="{top + _LINE - 2}"'
            f' stroke="{COLOURS["open"]}" stroke-width="2.5"/>'
        )
    if row.runs:
        ours, verdict = row.reported(), row.verdict()
        mean, std = sum(ours) / len(ours), spread(ours) or 0.0
        told.append(f"ours {mean:.2f}, n = {len(ours)}")
        colour = COLOURS[verdict]
        fill = "white" if verdict == "open" else colour
        right, anchor = max(x(mean + std), *map(x, _published(row)), x(mean)) + 9, "start"
        if right > WIDTH - _NOTE:
            right, anchor = min(x(mean - std), *map(x, _published(row)), x(mean)) - 9, "end"
        parts.append(
            f'<text x="{right:.1f}" y="{middle + 4}" text-anchor="{anchor}" fill="{colour}">{_note(row)}</text>'
        )
        parts.append(
            f'<line x1="{x(mean - std):.1f}" x2="{x(mean + std):.1f}" y1="{middle}" y2="{middle}" stroke="{colour}"/>'
            f'<circle cx="{x(mean):.1f}" cy="{middle}" r="4" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>'
        )
    return f"<g><title>{html.escape('; '.join(told))}</title>{''.join(parts)}</g>"


def _note(row: Row) -> str:
    """What the row's dot says of its distance from the published bar."""
    count, needed, distance = f"n = {len(row.runs)}", row.seeds_needed(), row.distance()
    if row.changed:
        return f"changed, {count}"
    if distance is not None:
        return f"{distance:+.1f} SE, {count}"
    return f"{count}, {needed} needed" if row.published and len(row.runs) < needed else count


def _published(row: Row) -> list[float]:
    return [] if row.published is None else [row.published.value]


def _legend() -> str:
    parts, at = ['<text x="10" y="20" font-size="16" font-weight="bold">Published results and ours</text>'], 10
    for i, (verdict, meaning) in enumerate(_MEANINGS):
        colour = COLOURS[verdict]
        if i == 0:
            mark = f'<line x1="{at + 5}" x2="{at + 5}" y1="31" y2="43" stroke="{colour}" stroke-width="2.5"/>'
        else:
            fill = "white" if verdict == "open" else colour
            mark = f'<circle cx="{at + 5}" cy="37" r="4" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>'
        parts.append(f'{mark}<text x="{at + 16}" y="41">{html.escape(meaning)}</text>')
        at += 40 + 6 * len(meaning)
    return "".join(parts)
