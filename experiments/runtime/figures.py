"""The one style of all figures: colours that everybody can tell apart, whole numbers on axes that count."""

import dataclasses
import io
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # matplotlib takes half a second to import: only what draws does
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's, which differ for colour-blind readers and in brightness, without black and yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
_MOST_POINTS, _MOST_CELLS = 200, 4096  # of a curve, or an image, whose numbers are listed
_REACH = 6  # pixels around a point that belong to it
_SPIKE = 20  # an axis of positive numbers whose largest is so many times the median is logarithmic


def style() -> dict[str, object]:
    """matplotlib's settings, for `rc_context`."""
    from cycler import cycler

    return {
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.3,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 7.5,
        "legend.framealpha": 0.85,
        "lines.linewidth": 1.3,
        "image.cmap": "viridis",
    }


@dataclasses.dataclass(frozen=True)
class Number:
    """What a mark of a figure stands for.

    Attributes:
      left, top, width, height: of the place of the mark, in thousandths of the figure's width and height.
      text: what it is, and its numbers.
    """

    left: float
    top: float
    width: float
    height: float
    text: str


def picture(
    draw: Callable[["Figure"], None], size: tuple[float, float], title: str = "", below: str = "", dpi: int = 130
) -> bytes:
    """Draws a figure as PNG.

    Args:
      draw: draws on the figure.
      size: width and height in inches.
      title: title of the figure.
      below: what is shown, in small letters under the title: network, data, number of images.
      dpi: pixels in an inch.
    """
    return picture_and_numbers(draw, size, title, below, dpi)[0]


def picture_and_numbers(
    draw: Callable[["Figure"], None], size: tuple[float, float], title: str = "", below: str = "", dpi: int = 130
) -> tuple[bytes, list[Number]]:
    """As `picture`, and the numbers of its points, bars and cells; surfaces, contours and long curves have none."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Figure and Agg directly, not pyplot: no window system. matplotlib's settings are global: one thread draws.
    with matplotlib.rc_context(style()):
        figure = Figure(figsize=size, layout="constrained", dpi=dpi)
        FigureCanvasAgg(figure)
        if title:
            lines = textwrap.fill(below, int(size[0] * 13))
            heading = figure.suptitle(f"{title}\n{lines}" if below else title, fontsize=10, parse_math=False)
            heading.set_linespacing(1.3)
        draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=dpi)
        return stream.getvalue(), list(_numbers(figure))


def _numbers(figure: "Figure") -> Iterator[Number]:
    scale = 1000 / np.array([figure.bbox.width, figure.bbox.height])
    for axes in figure.axes:
        if axes.name == "3d" or axes.get_label() == "<colorbar>":
            continue
        columns, rows = axes.get_xlabel() or "x", axes.get_ylabel() or "y"
        for corners, name, values in _marks(axes):
            low, high = np.sort(corners, axis=0)
            if not (np.isfinite(low).all() and np.isfinite(high).all() and axes.bbox.overlaps(_box(low, high))):
                continue
            (left, bottom), (right, top) = low * scale, high * scale
            labels = [f"{label}: {value:.4g}" for label, value in zip((columns, rows), values, strict=False)]
            text = "\n".join([*filter(None, [name]), *labels, *(f"value: {value:.4g}" for value in values[2:])])
            yield Number(left, 1000 - top, right - left, top - bottom, text)


def _marks(axes: "Axes") -> Iterator[tuple[np.ndarray, str, tuple[float, ...]]]:
    """Of each mark its corners in pixels [2, 2], the name of its curve, and its numbers."""
    title = axes.get_title()
    for curve in [*axes.lines, *axes.collections]:
        points = _points(curve)
        places = axes.transData.transform(points) if len(points) else points
        for place, point in zip(places, points, strict=True):
            yield np.array([place - _REACH, place + _REACH]), _label(curve) or title, tuple(point)
    for bars in axes.containers:
        for bar in bars:
            (left, low), (right, high) = bar.get_bbox().get_points()
            corners = axes.transData.transform([(left, low), (right, high)])
            yield corners, _label(bars) or title, ((left + right) / 2, high)
    for image in axes.images:
        cells = np.ma.filled(np.ma.asarray(image.get_array(), float), np.nan)
        if cells.ndim != 2 or cells.size > _MOST_CELLS:
            continue
        left, right, bottom, top = image.get_extent()
        first, last = (bottom, top) if image.origin == "lower" else (top, bottom)
        across, along = np.linspace(left, right, cells.shape[1] + 1), np.linspace(first, last, cells.shape[0] + 1)
        for (row, column), value in np.ndenumerate(cells):
            if np.isfinite(value):
                ends = [(across[column], along[row]), (across[column + 1], along[row + 1])]
                yield axes.transData.transform(ends), title, (*np.mean(ends, axis=0), value)


def _points(curve: "Artist") -> np.ndarray:
    """The points [P, 2] of a curve, or of a scatter plot, whose numbers are worth reading."""
    from matplotlib.collections import PathCollection
    from matplotlib.lines import Line2D

    none = np.zeros((0, 2))
    if isinstance(curve, PathCollection):
        return np.ma.filled(np.ma.asarray(curve.get_offsets(), float), np.nan)
    if not isinstance(curve, Line2D):
        return none
    points = np.ma.filled(np.ma.asarray(curve.get_xydata(), float), np.nan)
    is_drawn = curve.get_marker() not in ("None", "none", None, "", " ")
    # Straight lines from end to end are levels and edges; many points without markers are a smooth curve.
    return points if len(points) <= _MOST_POINTS and (is_drawn or len(points) > 2) else none


def _label(artist) -> str:
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _box(low: np.ndarray, high: np.ndarray):
    from matplotlib.transforms import Bbox

    return Bbox([low, high])


def look(i: int) -> dict[str, str]:
    """Colour and marker of the i-th of several curves; of 36 no two have both in common."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]}


def whole_numbers(axes: "Axes") -> None:
    """Puts ticks of the horizontal axis, which counts something, at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def log_if_spiked(axes: "Axes", *curves: np.ndarray) -> bool:
    """Makes the vertical axis logarithmic where one linear spike would flatten everything else; returns whether."""
    values = np.concatenate([np.asarray(curve, float).ravel() for curve in curves])
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0 or values.max() < _SPIKE * np.median(values):
        return False
    logarithmic(axes, values)
    return True


def logarithmic(axes: "Axes", values: np.ndarray) -> None:
    """Makes the vertical axis logarithmic, with ticks as numbers: 0.5, 1, 2; over many decades, powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    few = np.max(values) / np.min(values) < 1000
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
