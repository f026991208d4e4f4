"""Blocks of one shape in another order."""

import numpy as np

from experiments.studies.study import Bench, Study, percent
from resjax import analysis


def measure(bench: Bench):
    subject, options = bench.residual(), bench.options
    groups = analysis.exchangeable_blocks(subject.variables)
    n = subject.model.num_blocks
    swaps = np.repeat(np.arange(n + 1), options.draws)[options.draws - 1 :]  # unswapped once
    orders = analysis.swapped_orders(options.seed, groups, n, swaps)
    classes = analysis.predict_reordered(
        subject.model, subject.variables, subject.images, orders, **bench.predict_options
    )
    return {
        "name": subject.name,
        "swaps": swaps,
        "kendall_tau": analysis.kendall_tau(orders),
        "error": analysis.error_rates(classes, subject.labels),
    }


def draw(figure, result):
    axes = figure.subplots()
    tau, error = np.array(result["kendall_tau"]), 100 * np.array(result["error"])
    points = axes.scatter(tau, error, c=result["swaps"], s=14, cmap="viridis", alpha=0.8)
    figure.colorbar(points, label="swaps")
    axes.axhline(error[0], color="black", lw=0.8, ls="--", label="in order")
    axes.set(xlabel="Kendall tau with the trained order", ylabel="test error (%)")
    axes.invert_xaxis()
    axes.legend()


def shows(result):
    tau, error = np.array(result["kendall_tau"]), np.array(result["error"])
    near = error[(tau < 1) & (tau >= np.median(tau))]
    far = error[tau < np.median(tau)]
    correlation = np.corrcoef(tau, error)[0, 1]
    return [
        f"{result['name']}: error {percent(error[0])} in order; {percent(near.mean())} in the mean of the orders with"
        f" tau of {np.median(tau):.2f} and more, {percent(far.mean())} of those with less. Correlation of error with"
        f" tau: {correlation:.2f}."
    ]


STUDY = Study(
    "Reordering blocks",
    "Veit et al. 2016, arXiv 1605.06431, section 4.2, figure 5 b",
    "Error grows smoothly as blocks are swapped, with the Kendall rank correlation to the trained order: the network"
    " can be reconfigured to some extent at run time.",
    measure,
    draw,
    shows,
    (6.5, 4.2),
)
