"""Training and test error against depth, from the workdirs of finished runs."""

import numpy as np

from experiments.configs.named import network_text
from experiments.configs.programs import CIFAR, IMAGENET
from experiments.evaluation.trained import image_shape, read_records
from experiments.studies.study import AGREES, DIFFERS, OPEN, PARTLY, Measurements, Study, Verdict, about_runs
from experiments.training.workdir import read_saved_run
from resjax.errors import InputError
from resjax.models import weighted_layers


def measure(measurements: Measurements):
    runs = measurements.options.compared
    if len(runs) < 2:
        raise InputError("name the workdirs of plain and residual networks of several depths: RUN RUN ..")
    rows = []
    for run in runs:
        config = read_saved_run(run, CIFAR, IMAGENET).config
        model = config.create_model(10)  # depth and skips do not depend on the number of classes
        if model.stochastic_depth is not None:
            continue
        last = read_records(run)[-1]
        rows.append(
            {
                "model": network_text(config.identity()),
                "kind": "residual" if model.has_skips else "plain",
                "depth": weighted_layers(model, image_shape(config)),
                "epochs": last["epoch"],
                "train_error": 100 * (1 - last["train_accuracy"]),
                "test_error": last["test_error"],
            }
        )
    if len(rows) < 2:
        raise InputError("fewer than two of these runs trained all of their blocks")
    return {"runs": sorted(rows, key=lambda row: (row["kind"], row["depth"]))}


def draw(figure, result):
    plain, residual = figure.subplots(1, 2, sharex=True, sharey=True)
    extent = np.ptp([row["depth"] for row in result["runs"]])
    for axes, kind in ((plain, "plain"), (residual, "residual")):
        rows = [row for row in result["runs"] if row["kind"] == kind]
        if not rows:
            axes.text(0.5, 0.5, f"no {kind} network among the runs", transform=axes.transAxes, ha="center")
        depths = sorted({row["depth"] for row in rows})
        of_depth = [[row for row in rows if row["depth"] == depth] for depth in depths]
        for key, label, marks in (("test_error", "test", "C1o-"), ("train_error", "training (as augmented)", "C0s--")):
            # Several runs of one depth are points beside each other, with a line through their means.
            for depth, same in zip(depths, of_depth, strict=True):
                beside = depth + (0.013 * extent or 1) * (np.arange(len(same)) - (len(same) - 1) / 2)
                axes.plot(beside, [row[key] for row in same], marks[2], color=marks[:2], ms=3.5)
            axes.plot(depths, [np.mean([row[key] for row in same]) for same in of_depth], marks[3:], color=marks[:2])
            axes.plot([], [], marks[2:], color=marks[:2], label=label)
        axes.set(xlabel="layers", title=f"{kind} networks")
        if rows:
            axes.legend()
    plain.set_xticks(sorted({row["depth"] for row in result["runs"]}))
    plain.set_ylabel("error (%)")


def shows(result):
    sentences = []
    for kind in ("plain", "residual"):
        rows = [row for row in result["runs"] if row["kind"] == kind]
        if rows:
            listed = "; ".join(
                f"{row['model']} {row['train_error']:.1f} % / {row['test_error']:.1f} % after {row['epochs']}"
                f" epoch{'s' if row['epochs'] > 1 else ''}"
                for row in rows
            )
            sentences.append(f"{kind}, training / test error: {listed}.")
        if len(rows) > 1:
            change = rows[-1]["train_error"] - rows[0]["train_error"]
            sentences.append(
                f"From the shallowest to the deepest the {kind} training error changes by {change:+.1f} points."
            )
    return sentences


def judge(result):
    changes = {}
    for kind in ("plain", "residual"):
        rows = [row for row in result["runs"] if row["kind"] == kind]
        if len({row["depth"] for row in rows}) < 2:
            return Verdict(OPEN, f"{kind} networks of two depths are missing")
        changes[kind] = rows[-1]["train_error"] - rows[0]["train_error"]
    plain, residual = changes["plain"], changes["residual"]
    why = f"with depth, the training error of plain networks changes by {plain:+.1f} points, that of residual ones by"
    why += f" {residual:+.1f}"
    return Verdict(AGREES if residual < 0 < plain else PARTLY if residual < plain else DIFFERS, why)


STUDY = Study(
    "Degradation: error against depth",
    "He et al. 2015, arXiv 1512.03385, section 4.2, figure 6",
    "Training and test errors of plain networks with 20, 32, 44 and 56 layers rise with depth. Those of residual"
    " networks fall: 8.75, 7.51, 7.17 and 6.97 % test error.",
    "Curves that rise to the right are networks that get worse as layers are added, on the training images, too, so"
    " that it is no overfitting. With skips they should fall.",
    "Agrees if from the shallowest to the deepest the training error of plain networks rises and that of residual ones"
    " falls; in part if it only changes more for plain ones.",
    judge,
    measure,
    draw,
    shows,
    place=70,
    about=about_runs,
    compares_runs=True,
)
