"""Training and test error against depth, from the workdirs of finished runs."""

import re

from experiments.studies.study import Bench, Study
from experiments.subject import read_config, read_records
from resjax.errors import InputError


def measure(bench: Bench):
    runs = bench.options.runs
    if len(runs) < 2:
        raise InputError("give --runs with the workdirs of plain and residual networks of several depths")
    rows = []
    for run in runs:
        config = read_config(run)
        if "stochastic_depth" in config.model.overrides():
            continue
        last = read_records(run)[-1]
        numbers = re.findall(r"\d+", config.model.name)
        if not numbers:
            raise InputError(f"--runs {run}: the name of {config.model.name} has no depth")
        rows.append(
            {
                "model": config.model.name,
                "kind": "plain" if config.model.name.startswith(("plain", "vgg")) else "residual",
                "depth": int(numbers[0]),
                "epochs": last["epoch"],
                "train_error": 100 * (1 - last["train_accuracy"]),
                "test_error": last["test_error"],
            }
        )
    if len(rows) < 2:
        raise InputError("--runs: fewer than two of them trained all of their blocks")
    return {"runs": sorted(rows, key=lambda row: (row["kind"], row["depth"]))}


def draw(figure, result):
    plain, residual = figure.subplots(1, 2, sharey=True)
    for axes, kind in ((plain, "plain"), (residual, "residual")):
        rows = [row for row in result["runs"] if row["kind"] == kind]
        depth = [row["depth"] for row in rows]
        axes.plot(depth, [row["test_error"] for row in rows], "o-", color="C3", label="test")
        axes.plot(depth, [row["train_error"] for row in rows], "o--", color="C0", label="training (as augmented)")
        axes.set(xlabel="layers", title=f"{kind} networks", xticks=depth)
        axes.legend()
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


STUDY = Study(
    "Degradation: error against depth",
    "He et al. 2015, arXiv 1512.03385, section 4.2, figure 6",
    "Plain networks of 20, 32, 44 and 56 layers have training and test errors that rise with depth; those of residual"
    " networks fall: 8.75, 7.51, 7.17, 6.97 % test error.",
    measure,
    draw,
    shows,
)
