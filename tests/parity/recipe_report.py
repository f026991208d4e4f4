"""What `recipes` found: the largest differences, a table of them, and the loss curves of both sides."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.runtime.figures import style

WINDOW = 10

# Of a single step in float32, see `_compare`. Rounding moves a pre-activation near zero to the other side of its ReLU:
# that changes the gradient, and so momentum and update, by up to some 1e-3, where all else agrees to 1e-6.
TOLERANCE = {"loss": 1e-5, "weights": 1e-4, "statistics": 1e-5, "momentum": 1e-2, "update": 1e-2, "decay": 1e-2}
# In deep networks such changes are many: there the limit is this times PyTorch's own distance from float64.
ROUNDINGS = 3


def smoothed(losses) -> np.ndarray:
    """Means of WINDOW consecutive losses."""
    return np.convolve(losses, np.full(WINDOW, 1 / WINDOW), "valid")


def exceeded(step: dict[str, float]) -> dict[str, float]:
    """The differences of a single step that are no rounding."""
    least = dict.fromkeys(("momentum", "update"), ROUNDINGS * step["rounding"])
    return {key: step[key] for key, limit in TOLERANCE.items() if not step[key] < max(limit, least.get(key, 0))}


def summary(result: dict[str, Any]) -> dict[str, float]:
    """The largest of each difference of single steps; of means of ten losses, that of both sides, and that of chaos."""
    keys = [key for key in result["single_steps"][0] if key not in ("step", "rate")]
    largest = {key: max(step[key] for step in result["single_steps"]) for key in keys}
    for name, other in (("curves", "ours"), ("chaos", "perturbed")):
        if "pytorch" in result and other in result:
            curves = (smoothed(result[side]) for side in (other, "pytorch"))
            largest[name] = float(np.abs(np.subtract(*curves)).max())
    return {key: float(f"{value:.2g}") for key, value in largest.items()}


_EXPLAINED = f"""# Recipes beside PyTorch

`python -m tests.parity.recipes --data_dir DIR --folder results` trains our configs and a PyTorch program
that is written apart from them (`tests/parity/torch_program.py`) on the real CIFAR-10, in float32, with the same
initial weights, order of images, crops and flips.

loss .. decay: the largest relative difference after one step of both from the same state (weights, BN statistics and
momentum before every tenth step of ours, and before those around each change of the rate); decay is the share of the
weight decay that one of them has more. Expected below: {", ".join(f"{k} {v:g}" for k, v in TOLERANCE.items())}.
rounding: the distance between PyTorch's momentum and that of the same step in float64, where it was measured; momentum
and update may be {ROUNDINGS} times as far apart.
curves: the largest distance between the means of {WINDOW} losses, each side on its own from the initial weights. chaos:
the same of PyTorch and PyTorch from initial weights that are off by 1e-7; curves are expected within three times that,
as both are a single draw of the same chaos. Compressed: the schedule squeezed into the steps shown, with its warm-up
and drops; of these, single steps alone are compared.

"""


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The table of all results, and what its columns are."""
    columns = (*TOLERANCE, "rounding", "curves", "chaos")
    lines = [f"| recipe | batch | steps | {' | '.join(columns)} |", f"|{'---|' * (3 + len(columns))}"]
    for kind, cases in results.items():
        for name, result in cases.items():
            largest = summary(result)
            cells = [name + (", compressed" if kind == "compressed" else ""), result["batch_size"], len(result["ours"])]
            cells += [largest.get(column, "") for column in columns]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    machines = sorted({result["machine"] for cases in results.values() for result in cases.values()})
    return _EXPLAINED + "\n".join(
        [*lines, "", f"Measured on {'; '.join(machines)}.", "", "![Loss curves](parity.png)", ""]
    )


def draw(results: dict[str, dict[str, Any]]) -> bytes:
    """A panel for each recipe, as PNG: losses of both, and the distance of their means beside that of chaos."""
    with matplotlib.rc_context(style()):
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
