"""Swaps blocks of one shape."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from experiments.studies.study import Measurements, Study, percent
from resjax import analysis


def measure(measurements: Measurements):
    network, options = measurements.residual(), measurements.options
    groups = analysis.exchangeable_blocks(network.variables)
    n = network.model.num_blocks
    swaps = np.repeat(np.arange(n + 1), options.draws)[options.draws - 1 :]  # the trained order is tested once
    orders = analysis.swapped_orders(options.seed, groups, n, swaps)
    classes = analysis.predict_reordered(
        network.model, network.variables, network.images, orders, **measurements.predict_options
    )
    return {
        "name": network.name,
        "swaps": swaps,
        "kendall_tau": analysis.kendall_tau(orders),
        "error": analysis.error_rates(classes, network.labels),
    }


def draw(figure, result):
    axes = figure.subplots()
    tau, error = np.array(result["kendall_tau"]), 100 * np.array(result["error"])
    # Orders of one tau and error lie on top of each other: their number is the size of the point.
    places = np.stack([tau, error])
    (tau_of, error_of), which, counts = np.unique(places, axis=1, return_inverse=True, return_counts=True)
    swaps = np.bincount(which.ravel(), result["swaps"]) / counts
    order = np.argsort(-counts)  # small points on top
    points = axes.scatter(
        *(tau_of[order], error_of[order]), c=swaps[order], s=24 * counts[order], alpha=0.8, edgecolors="white", lw=0.4
    )
    sizes = " (mean over the orders of a larger point)" if (counts > 1).any() else ""
    figure.colorbar(points, label=f"swaps{sizes}", ticks=MaxNLocator(integer=True, min_n_ticks=1))
    axes.axhline(error[0], color="black", lw=0.8, ls="--", label="in order")
    axes.set(xlabel="Kendall tau with the trained order", ylabel="test error (%)")
    axes.invert_xaxis()
    axes.legend(loc="upper left")


def shows(result):
    tau, error = np.array(result["kendall_tau"]), np.array(result["error"])
    near = error[(tau < 1) & (tau >= np.median(tau))]
    far = error[tau < np.median(tau)]
    correlation = np.corrcoef(tau, error)[0, 1]
    return [
        f"{result['name']}: error {percent(error[0])} in the trained order. The mean error of orders with tau of"
        f" {np.median(tau):.2f} and more is {percent(near.mean())}, of the other orders {percent(far.mean())}. The"
        f" correlation of error with tau is {correlation:.2f}."
    ]


STUDY = Study(
    "Reordering blocks",
    "Veit et al. 2016, arXiv 1605.06431, section 4.2, figure 5 b",
    "Error grows smoothly as blocks are swapped and the Kendall rank correlation to the trained order falls. The"
    " network can be reconfigured to some extent at run time.",
    measure,
    draw,
    shows,
    size=(6.5, 4.2),
    place=20,
)
