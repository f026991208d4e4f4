"""How figures look, and how they and their numbers are written."""

import io
import json
import math
import os
import pathlib
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.studies import Study

STYLE = {
    "axes.grid": True,
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
}


def render(study: Study, result: dict[str, Any]) -> bytes:
    """The figure of a study, as PNG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=study.size, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(study.title, fontsize=11)
        study.draw(figure, result)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def to_json(value: Any) -> Any:
    """Arrays as lists, numbers of NumPy as Python's, and what is not finite as null."""
    if isinstance(value, dict):
        return {str(key): to_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(part) for part in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return to_json(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(path: pathlib.Path, contents: bytes | str | dict) -> None:
    """Writes a file, which appears whole or not at all; dictionaries as JSON."""
    if isinstance(contents, dict):
        contents = json.dumps(contents, indent=1) + "\n"
    temporary = path.with_suffix(f".tmp{path.suffix}")
    temporary.write_bytes(contents.encode() if isinstance(contents, str) else contents)
    os.replace(temporary, path)
