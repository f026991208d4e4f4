"""A network drawn from its outline: as text for a terminal, and as an SVG picture."""

import html
import itertools
import textwrap
from collections.abc import Iterator, Sequence

from resjax.models import Part

_NUMBERS = 40  # columns of shape, parameters and multiply-adds
_COLUMN, _GAP, _LAYER, _SPACE, _TOP = 196, 34, 24, 7, 96
_STYLE = """
svg { max-width: 100%; height: auto; color-scheme: light dark; }
svg { --ink: #1a1a1a; --paper: #ffffff; --line: #888; --conv: #cfe3f7; --other: #eee; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #eee; --paper: #16181c; --line: #999; --conv: #24496b; --other: #33363c; }
}
text { font: 12px system-ui, sans-serif; fill: var(--ink); }
.title { font-size: 18px; font-weight: 600; } .name { font-weight: 600; font-size: 13px; } .small { font-size: 11px; }
.block { fill: none; stroke: var(--line); stroke-dasharray: 4 3; } .layer { fill: var(--other); }
.conv { fill: var(--conv); } .line { fill: none; stroke: var(--line); stroke-width: 1.5; }
.sum { fill: var(--paper); stroke: var(--line); stroke-width: 1.5; }
"""


def amount(number: float) -> str:
    """A number in at most six characters, e.g. "40.8 M"."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            value = number / size
            return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.1f} {unit}"
    return f"{number:.0f}"


def size_of(shape: Sequence[int]) -> str:
    """A shape in words, e.g. "32x32x16"."""
    return "x".join(map(str, shape))


def as_text(network: Part, width: int) -> str:
    """The parts of a network with their shapes, one below the other, in lines of `width` characters at most."""
    heads = f"{'output':>13}{'parameters':>15}{'mult-adds':>12}"
    lines = [" " * (width - _NUMBERS) + heads]
    for part in network.parts:
        lines += _lines(part, 0, width)
    return "\n".join(line.rstrip() for line in lines)


def _lines(part: Part, depth: int, width: int) -> Iterator[str]:
    indent, times = "  " * depth, f"{part.repeats} x " if part.repeats > 1 else ""
    name = f"{indent}{times}{part.name}" if part.name else f"{indent}{part.text}"
    numbers = f"{size_of(part.shape):>13}{part.parameters:>15,}{amount(part.multiply_adds):>12}"
    if not part.name:
        numbers = f"{size_of(part.shape):>13}"
    yield f"{name:<{width - _NUMBERS}}{numbers}"
    deeper = [inner for inner in part.parts if inner.parts]
    layers = [part.text] if part.text and part.name else []
    if not deeper:
        layers += [_repeated(inner) for inner in part.parts if not _is_shortcut(inner)]
    more = [" | ".join(layers)] if layers else []
    if part.shortcut:
        more.append(f"shortcut: {part.shortcut}" + (f"; behind the sum: {part.behind_sum}" if part.behind_sum else ""))
    for text in more:
        yield from textwrap.wrap(text, width, initial_indent=indent + "    ", subsequent_indent=indent + "    ")
    for inner in part.parts if deeper else ():
        yield from _lines(inner, depth + 1, width)


def _repeated(part: Part) -> str:
    return part.text if part.repeats == 1 else f"{part.repeats} x {part.text}"


def _is_shortcut(part: Part) -> bool:
    return part.name.startswith("shortcut_")


def as_svg(network: Part, title: str, image_shape: Sequence[int]) -> str:
    """A picture of a network: its stages from left to right, in each the blocks that differ, from top to bottom.

    It needs nothing beside itself, and follows the reader's choice of light or dark.
    """
    columns, x = [], _GAP
    head = Part("image", "", "", tuple(image_shape), 0, 0)
    for part in (head, *network.parts):
        drawn, bottom = _column(part, x)
        columns.append((x, drawn, bottom))
        x += _COLUMN + _GAP
    height = max(bottom for _, _, bottom in columns) + 24
    arrows = [_arrow(x + _COLUMN + 3, x + _COLUMN + _GAP - 3, _TOP - 4) for x, _, _ in columns[:-1]]
    costs = f"{network.parameters:,} parameters, {amount(network.multiply_adds)} multiply-adds for an image"
    body = [
        f'<rect width="{x}" height="{height}" fill="var(--paper)"/>',
        _text(_GAP, 34, title, "title"),
        _text(_GAP, 56, costs),
        *itertools.chain(*(drawn for _, drawn, _ in columns)),
        *arrows,
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x} {height}" width="{x}" height="{height}" role="img">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{''.join(body)}</svg>\n"
    )


def _column(part: Part, x: int) -> tuple[list[str], int]:
    """The elements of a stage at x, and where they end."""
    shown = part.name or part.text
    drawn = [_text(x, _TOP, shown, "name"), _text(x, _TOP + 17, size_of(part.shape), "small")]
    if part.parameters:
        drawn.append(_text(x, _TOP + 32, f"{part.parameters:,} parameters", "small"))
    y = _TOP + 44
    if part.text and part.name:
        drawn += _layer(part, x, y)
        y += _LAYER + _SPACE
    for inner in part.parts:
        if inner.parts:
            block, y = _block(inner, x, y)
            drawn += block
        else:
            drawn += _layer(inner, x, y)
            y += _LAYER + _SPACE
    return drawn, y


def _block(block: Part, x: int, y: int) -> tuple[list[str], int]:
    """A block with its layers, its shortcut beside them, and their sum."""
    layers = [inner for inner in block.parts if not _is_shortcut(inner)]
    top, inner = y + 24, y + 28
    drawn = [_text(x + 8, y + 17, f"{block.repeats} x {block.name}" if block.repeats > 1 else block.name, "small")]
    for layer in layers:
        drawn += _layer(layer, x + 8, inner, _COLUMN - 36)
        inner += _LAYER + _SPACE
    if block.shortcut:
        middle, right = x + 8 + (_COLUMN - 36) // 2, x + _COLUMN - 12
        path = f"M {middle} {top} H {right} V {inner + 8} H {middle + 9}"
        sign = "||" if block.shortcut == "concatenated" else "+"
        drawn += [
            f'<path class="line" d="{path}"/>',
            f'<circle class="sum" cx="{middle}" cy="{inner + 8}" r="9"/>',
            f'<text x="{middle}" y="{inner + 12}" text-anchor="middle">{sign}</text>',
            _text(x + 8, inner + 34, block.shortcut, "small"),
            _text(middle - 66, inner + 12, block.behind_sum, "small"),
        ]
        inner += 42
    drawn.append(f'<rect class="block" x="{x}" y="{y}" width="{_COLUMN}" height="{inner - y}" rx="8"/>')
    return drawn, inner + 10


def _layer(layer: Part, x: int, y: int, width: int = _COLUMN) -> list[str]:
    kind = "layer conv" if layer.multiply_adds else "layer"
    return [
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{_LAYER}" rx="4"/>',
        f'<text class="small" x="{x + width / 2}" y="{y + 16}" text-anchor="middle">'
        f"{html.escape(_repeated(layer) or layer.name)}</text>",
    ]


def _arrow(left: int, right: int, y: int) -> str:
    return f'<path class="line" d="M {left} {y} H {right} m -6 -4 l 6 4 l -6 4"/>'


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{html.escape(text)}</text>'
