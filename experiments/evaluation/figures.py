"""Figures of an evaluation, as PNG: reliability, confusion, and sheets of pictures."""

import io
import math
from collections.abc import Sequence

import numpy as np

from resjax.analysis import Calibration
from resjax.errors import printable

_COLUMNS = 6
_MOST_CLASSES, _MOST_NUMBERED = 30, 15


def draw_sheet(title: str, shown: Sequence[tuple[np.ndarray, str]]) -> bytes:
    """Pictures, uint8 [H, W, 3] or [H, W, 1], each with two lines of text, the first of which may be any."""
    columns = min(len(shown), _COLUMNS)
    rows = -(-len(shown) // columns)
    figure = _figure(max(1.9 * columns, 2.4), 2.4 * rows)
    figure.suptitle(printable(title, 32 * columns), fontsize=10, parse_math=False)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for place in axes:
        place.set_axis_off()
    for place, (picture, text) in zip(axes, shown, strict=False):
        gray = picture.shape[-1] == 1
        place.imshow(picture[..., 0] if gray else picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        name, rest = text.rsplit("\n", 1)
        place.set_title(f"{printable(name, 24)}\n{printable(rest, 28)}", fontsize=9, parse_math=False)
    return _png(figure)


def draw_reliability(before: Calibration, after: Calibration, temperature: float) -> bytes:
    """How often a classifier is right by how sure it is, as it is and with a temperature, over how many images."""
    figure = _figure(8.4, 4.6)
    grid = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    titles = ("as it is", f"temperature {temperature:.2f}")
    for (upper, lower), found, title in zip(grid.T, (before, after), titles, strict=True):
        bins = len(found.counts)
        edges = np.arange(bins) / bins
        full = found.counts > 0
        upper.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle="--", label="calibrated")
        upper.bar(edges[full], found.accuracy[full], 1 / bins, align="edge", edgecolor="white", label="right")
        upper.plot(found.confidence[full], found.accuracy[full], "o", color="black", markersize=3)
        upper.set_title(f"{title}: calibration error {100 * found.error:.2f} %", fontsize=10)
        upper.set_ylim(0, 1)
        lower.bar(edges, found.counts / found.counts.sum(), 1 / bins, align="edge", edgecolor="white", color="0.6")
        lower.set_xlim(0, 1)
        lower.set_xlabel("probability of the predicted class", fontsize=9)
    grid[0, 0].set_ylabel("fraction that is right", fontsize=9)
    grid[1, 0].set_ylabel("images", fontsize=9)
    grid[0, 0].legend(fontsize=8, frameon=False, loc="upper left")
    return _png(figure)


def draw_confusion(confusion: np.ndarray, class_names: Sequence[str]) -> bytes:
    """True classes (rows) by predicted classes, in percent of the row; of many classes those with the most mistakes."""
    chosen = np.arange(len(class_names))
    if len(chosen) > _MOST_CLASSES:
        mistakes = confusion.sum(0) + confusion.sum(1) - 2 * confusion.diagonal()
        chosen = np.sort(np.argsort(-mistakes, kind="stable")[:_MOST_CLASSES])
    fractions = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    shown = fractions[np.ix_(chosen, chosen)]
    side = max(3.2, 0.42 * len(chosen) + 1.6)
    figure = _figure(side + 0.8, side)
    axes = figure.subplots()
    # Mistakes are few; a root makes them visible beside the diagonal.
    image = axes.imshow(np.sqrt(shown), cmap="Blues", vmin=0, vmax=10)
    names = [printable(str(class_names[i]), 20) for i in chosen]
    axes.set_xticks(range(len(chosen)), names, rotation=60, ha="right", fontsize=8, parse_math=False)
    axes.set_yticks(range(len(chosen)), names, fontsize=8, parse_math=False)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    if len(chosen) < len(class_names):
        axes.set_title(f"{len(chosen)} of {len(class_names)} classes: those with the most mistakes", fontsize=9)
    if len(chosen) <= _MOST_NUMBERED:
        for row, column in np.argwhere(shown >= 0.05):
            value = shown[row, column]
            text = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if value > 36 else "black")
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_ticks([math.sqrt(value) for value in (0, 1, 5, 20, 50, 100)], labels=["0", "1", "5", "20", "50", "100 %"])
    bar.ax.tick_params(labelsize=8)
    return _png(figure)


def _figure(width: float, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure) -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()
