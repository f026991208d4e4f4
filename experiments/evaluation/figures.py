"""Figures of an evaluation, as PNG: reliability, confusion, and sheets of pictures."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.runtime.figures import picture as png
from resjax.analysis import Calibration
from resjax.errors import printable

_COLUMNS = 6
_MOST_CLASSES, _MOST_NUMBERED = 30, 15
_DPI = 110


def draw_sheet(title: str, shown: Sequence[tuple[np.ndarray, str]]) -> bytes:
    """Pictures, uint8 [H, W, 3] or [H, W, 1], each with two lines of text, the first of which may be any."""
    columns = min(len(shown), _COLUMNS)
    rows = -(-len(shown) // columns)

    def draw(figure):
        axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
        for place in axes:
            place.set_axis_off()
        for place, (picture, text) in zip(axes, shown, strict=False):
            gray = picture.shape[-1] == 1
            place.imshow(picture[..., 0] if gray else picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            name, rest = text.rsplit("\n", 1)
            place.set_title(f"{printable(name, 24)}\n{printable(rest, 28)}", fontsize=9, parse_math=False)

    return png(draw, (max(1.9 * columns, 2.4), 2.4 * rows), printable(title, 32 * columns), dpi=_DPI)


def draw_reliability(before: Calibration, after: Calibration, temperature: float, about: str) -> bytes:
    """How often a classifier is right by how sure it is, as it is and with a temperature, over how many images."""

    def draw(figure):
        grid = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
        titles = ("as it is", f"temperature {temperature:.2f}")
        for (upper, lower), found, title in zip(grid.T, (before, after), titles, strict=True):
            bins = len(found.counts)
            edges = np.arange(bins) / bins
            full = found.counts > 0
            upper.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle="--", label="calibrated")
            upper.bar(edges[full], found.accuracy[full], 1 / bins, align="edge", edgecolor="white", label="right")
            upper.plot(
                found.confidence[full], found.accuracy[full], "ko", markersize=3, clip_on=False, label="at their mean"
            )
            upper.set_title(f"{title}: calibration error {100 * found.error:.2f} %")
            upper.set_ylim(0, 1)
            lower.bar(edges, found.counts / found.counts.sum(), 1 / bins, align="edge", edgecolor="white", color="0.6")
            lower.set_xlim(0, 1)
            lower.set_xlabel("probability of the predicted class")
        grid[0, 0].set_ylabel("fraction that is right")
        grid[1, 0].set_ylabel("fraction of images")
        grid[0, 0].legend(loc="upper left")

    return png(draw, (8.4, 5), "Reliability", about, _DPI)


def draw_confusion(confusion: np.ndarray, class_names: Sequence[str], about: str) -> bytes:
    """True classes (rows) by predicted classes, in percent of the row; of many classes those with the most mistakes."""
    chosen = np.arange(len(class_names))
    if len(chosen) > _MOST_CLASSES:
        mistakes = confusion.sum(0) + confusion.sum(1) - 2 * confusion.diagonal()
        chosen = np.sort(np.argsort(-mistakes, kind="stable")[:_MOST_CLASSES])
        about += f"; {len(chosen)} of {len(class_names)} classes: those with the most mistakes"
    fractions = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    shown = fractions[np.ix_(chosen, chosen)]

    def draw(figure):
        axes = figure.subplots()
        # Mistakes are few; a root makes them visible beside the diagonal.
        image = axes.imshow(np.sqrt(shown), cmap="Blues", vmin=0, vmax=10)
        names = [printable(str(class_names[i]), 20) for i in chosen]
        axes.set_xticks(range(len(chosen)), names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(len(chosen)), names, parse_math=False)
        axes.set(xlabel="predicted", ylabel="true")
        axes.grid(False)
        if len(chosen) <= _MOST_NUMBERED:
            for row, column in np.argwhere(shown >= 0.05):
                value = shown[row, column]
                text = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
                color = "white" if value > 36 else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
        bar = figure.colorbar(image, ax=axes, shrink=0.8)
        ticks = (0, 1, 5, 20, 50, 100)
        bar.set_ticks([math.sqrt(value) for value in ticks], labels=[*map(str, ticks[:-1]), "100 %"])

    side = max(3.2, 0.42 * len(chosen) + 1.6)
    return png(draw, (side + 0.8, side + 0.4), "True and predicted classes", about, _DPI)
