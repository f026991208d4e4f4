"""Loss against the learning rate for several depths and widths, from the workdirs of finished runs."""

import dataclasses
import functools
import itertools
import re
from typing import Literal

import numpy as np

from experiments.configs.named import network_text
from experiments.configs.programs import CIFAR, IMAGENET
from experiments.evaluation.trained import image_shape
from experiments.runtime.figures import look
from experiments.studies.study import AGREES, DIFFERS, OPEN, Measurements, Study, Verdict, about_runs
from experiments.training.workdir import Workdir, read_saved_run
from resjax import analysis
from resjax.errors import InputError
from resjax.models import weighted_layers

_LABELS = {"train_loss": "training loss", "test_loss": "test loss", "test_error": "test error (%)"}
_SCALED = "exponent 0.5"  # in the name of a network whose branches are scaled by 1 / sqrt(depth)
# What makes a network deeper or wider, and changes nothing else.
_SIZES = {"stage_sizes", "widths", "depth", "widening_factor"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compared."""

    metric: Literal["train_loss", "test_loss", "test_error"] = "train_loss"
    """Of the last epoch."""


def measure(measurements: Measurements):
    options = measurements.options
    runs = options.compared
    if len(runs) < 2:
        raise InputError("name the workdirs of networks of several depths at several learning rates: RUN RUN ..")
    rows, conditions = [], {}
    depth_of = functools.cache(weighted_layers)  # most runs differ in the learning rate alone
    for run in runs:
        config = read_saved_run(run, CIFAR, IMAGENET).config
        conditions[config.dataset, config.epochs, config.batch_size, config.optimizer.kind] = run
        model = config.create_model(10)  # depth and width do not depend on the number of classes
        records = Workdir(run).records()
        done = bool(records) and records[-1]["epoch"] >= config.epochs
        rows.append(
            {
                "parametrisation": _without_sizes(config.identity()),
                "depth": depth_of(model, image_shape(config)),
                "width": _width(model),
                "learning_rate": config.optimizer.learning_rate,
                "value": records[-1][options.depth_scaling.metric] if done else None,
            }
        )
    if len(conditions) > 1:
        first, second, *_ = conditions.values()
        raise InputError(
            f"{first} and {second} differ in dataset, epochs, batch size or kind of optimizer: compare runs that differ"
            " in network and learning rate"
        )
    rows.sort(key=lambda row: (row["parametrisation"], row["depth"], row["width"], row["learning_rate"]))
    return {"metric": options.depth_scaling.metric, "runs": rows, "transfer": list(_transfers(rows))}


def _without_sizes(fields):
    kept = {key: value for key, value in fields.items() if key.removeprefix("model.") not in _SIZES}
    family = re.sub(r"_\d+", "", kept["model.name"])
    return network_text(kept | {"model.name": family})


def _width(model):
    stages = getattr(model, "stages", None)
    return stages()[-1].block.features if stages else 0


def _transfers(rows):
    """Of each parametrisation, over depth at each width and over width at each depth."""
    for name, (size, other) in itertools.product(
        dict.fromkeys(row["parametrisation"] for row in rows), (("depth", "width"), ("width", "depth"))
    ):
        of_name = [row for row in rows if row["parametrisation"] == name]
        for fixed in sorted({row[other] for row in of_name}):
            same = [row for row in of_name if row[other] == fixed]
            values = [np.inf if row["value"] is None else row["value"] for row in same]
            found = analysis.learning_rate_transfer(
                [row[size] for row in same], [row["learning_rate"] for row in same], values
            )
            if size == "depth" or len(found.sizes) > 1:
                about = {"parametrisation": name, "over": size, "at": fixed, "factor": found.factor}
                yield about | {"ended": int(np.isfinite(values).sum()), "runs": len(same)} | dataclasses.asdict(found)


def draw(figure, result):
    names = list(dict.fromkeys(row["parametrisation"] for row in result["runs"]))
    sizes = sorted({(row["depth"], row["width"]) for row in result["runs"]})
    widths = {width for _, width in sizes}
    panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        curves = {}
        for row in result["runs"]:
            if row["parametrisation"] == name and row["value"] is not None and np.isfinite(row["value"]):
                curves.setdefault((row["depth"], row["width"]), []).append((row["learning_rate"], row["value"]))
        for (depth, width), points in sorted(curves.items()):
            i, (rates, values) = sizes.index((depth, width)), np.array(points).T  # one look in all panels
            grid = np.unique(rates)
            means = [values[rates == rate].mean() for rate in grid]
            label = f"{depth} layers" + (f", width {width}" if len(widths) > 1 else "")
            panel.plot(grid, means, ms=3, label=label, **look(i))
            panel.plot(rates, values, ".", ms=3, color=look(i)["color"], alpha=0.5)
            for found in result["transfer"]:
                if (found["parametrisation"], found["over"], found["at"]) == (name, "depth", width):
                    k = found["sizes"].index(depth)
                    panel.plot(found["rates"][k], found["values"][k], "*", ms=11, color=look(i)["color"])
        panel.set(xscale="log", xlabel="learning rate", title=name)
        panel.legend(title="star: best rate", title_fontsize=7)
    figure.axes[0].set_ylabel(_LABELS[result["metric"]])


def shows(result):
    sentences = []
    for found in result["transfer"]:
        unit = "layers" if found["over"] == "depth" else "channels"
        at = f"width {found['at']}" if found["over"] == "depth" else f"{found['at']} layers"
        lost = found["runs"] - found["ended"]
        known = [
            f"{rate:.2g}{'' if inside else ' (at the end of those tried)'} at {size:.0f} {unit}"
            for size, rate, inside in zip(found["sizes"], found["rates"], found["inside"], strict=True)
            if rate is not None and np.isfinite(rate)
        ]
        text = f"{found['parametrisation']}, {at}: the best learning rate is {', '.join(known) or 'unknown'}."
        if len(known) > 1:
            text += (
                f" It moves by a factor of {found['factor']:.2f}, as {found['over']} to the power"
                f" {found['exponent']:.2f}{'' if all(found['inside']) else ', as far as the rates tried show'}."
            )
        sentences.append(text + (f" {lost} of {found['runs']} runs did not end and count as diverged." if lost else ""))
    return sentences


def judge(result):
    over_depth = [found for found in result["transfer"] if found["over"] == "depth" and len(found["sizes"]) > 1]
    factors = {
        scaled: [
            found["factor"]
            for found in over_depth
            if (_SCALED in found["parametrisation"]) == scaled and found["factor"] is not None
        ]
        for scaled in (True, False)
    }
    if not all(factors.values()):
        return Verdict(OPEN, f"networks of two depths with {_SCALED} and with branches of one scale are missing")
    scaled, unscaled = (max(factors[key]) for key in (True, False))
    why = f"the best learning rate moves by a factor of {scaled:.2f} at most where branches are scaled, of"
    return Verdict(AGREES if scaled < unscaled else DIFFERS, f"{why} {unscaled:.2f} where not")


STUDY = Study(
    "Learning-rate transfer: loss against the learning rate, over depth and width",
    "Bordelon et al. 2023, arXiv 2309.16620",
    "With branches scaled by 1 / sqrt(depth), together with the scaling of muP over width, the best learning rate of"
    " residual networks on CIFAR-10 stays the same over depth and width. With branches of one scale it falls with"
    " depth.",
    "Each curve is a network; its star is the best learning rate. Stars above each other mean that a rate found on a"
    " small network serves a large one. Stars that go to the left mean that deeper networks need smaller rates.",
    f"Agrees if over depth the best learning rate moves by a smaller factor with branches scaled by 1 / sqrt(depth)"
    f" ({_SCALED}) than with branches of one scale.",
    judge,
    measure,
    draw,
    shows,
    place=75,
    about=about_runs,
    options=Options,
    compares_runs=True,
)
