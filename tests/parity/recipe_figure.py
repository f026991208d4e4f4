"""The figure of `recipes`: loss curves of both sides over each other."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.figures import STYLE

WINDOW = 10


def smoothed(losses) -> np.ndarray:
    """Means of WINDOW consecutive losses."""
    return np.convolve(losses, np.full(WINDOW, 1 / WINDOW), "valid")


def draw(results: dict[str, dict[str, Any]]) -> bytes:
    """A panel for each recipe, as PNG: losses of both, and the distance of their means beside that of chaos."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.1 * -(-len(results) // 3)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(-(-len(results) // 3), 3, squeeze=False).ravel()
        for axes, (name, result) in zip(panels, results.items(), strict=False):
            _panel(axes, name, result)
        for axes in panels[len(results) :]:
            axes.set_visible(False)
        panels[0].legend(loc="upper right")
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=90)
    return stream.getvalue()


def _panel(axes, name, result):
    steps = np.arange(WINDOW - 1, len(result["ours"])) - (WINDOW - 1) / 2
    theirs = smoothed(result["pytorch"])
    axes.plot(result["ours"], color="tab:blue", lw=0.6, alpha=0.35)
    axes.plot(result["pytorch"], color="tab:orange", lw=0.6, alpha=0.35)
    if "perturbed" in result:
        chaos = np.maximum.accumulate(np.abs(smoothed(result["perturbed"]) - theirs))
        axes.fill_between(steps, theirs - chaos, theirs + chaos, color="tab:gray", alpha=0.3, lw=0, label="chaos band")
    axes.plot(steps, theirs, color="tab:orange", label=f"PyTorch, mean of {WINDOW}")
    axes.plot(steps, smoothed(result["ours"]), color="tab:blue", ls="--", label=f"resjax, mean of {WINDOW}")
    axes.set_title(f"{name}, batch {result['batch_size']}")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
