"""The one style of all figures: colours that everybody can tell apart, whole numbers on axes that count."""

import io
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # matplotlib takes half a second to import: only what draws does
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's, which differ for colour-blind readers and in brightness, without black and yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
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
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Figure and Agg directly, not pyplot: no window system. matplotlib's settings are global: one thread draws.
    with matplotlib.rc_context(style()):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            lines = textwrap.fill(below, int(size[0] * 13))
            heading = figure.suptitle(f"{title}\n{lines}" if below else title, fontsize=10, parse_math=False)
            heading.set_linespacing(1.3)
        draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


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
