"""Swaps blocks of one shape."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from experiments.studies.study import AGREES, DIFFERS, OPEN, PARTLY, Measurements, Study, Verdict, percent
from resjax import analysis


def measure(measurements: Measurements):
    result = {"network": _errors(measurements, measurements.residual())}
    plain = measurements.plain
    # A VGG has layers, which are no blocks.
    if plain is not None and any(map(len, analysis.exchangeable_blocks(plain.variables))):
        result["plain"] = _errors(measurements, plain)
    return result


def _errors(measurements, network):
    options = measurements.options
    groups = analysis.exchangeable_blocks(network.variables)
    n = sum(1 + len(group) for group in groups)
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
    panels = figure.subplots(1, len(result), sharey=True, squeeze=False)[0]
    for axes, found in zip(panels, result.values(), strict=True):
        _draw(figure, axes, found)
        axes.set_title(found["name"], fontsize=8)
    panels[0].set_ylabel("test error (%)")


def _draw(figure, axes, found):
    tau, error = np.array(found["kendall_tau"]), 100 * np.array(found["error"])
    # Orders of one tau and error lie on top of each other: their number is the size of the point.
    places = np.stack([tau, error])
    (tau_of, error_of), which, counts = np.unique(places, axis=1, return_inverse=True, return_counts=True)
    swaps = np.bincount(which.ravel(), found["swaps"]) / counts
    order = np.argsort(-counts)  # small points on top
    points = axes.scatter(
        *(tau_of[order], error_of[order]), c=swaps[order], s=24 * counts[order], alpha=0.8, edgecolors="white", lw=0.4
    )
    sizes = " (mean over the orders of a larger point)" if (counts > 1).any() else ""
    figure.colorbar(points, ax=axes, label=f"swaps{sizes}", ticks=MaxNLocator(integer=True, min_n_ticks=1))
    axes.axhline(error[0], color="black", lw=0.8, ls="--", label="in order")
    axes.set_xlabel("Kendall tau with the trained order")
    axes.invert_xaxis()
    axes.legend(loc="upper left")


def shows(result):
    sentences = []
    for found in result.values():
        error, (near, far, median) = found["error"], _near_and_far(found)
        sentences.append(
            f"{found['name']}: error {percent(error[0])} in the trained order. The mean error of orders with tau of"
            f" {median:.2f} and more is {percent(near)}, of the other orders {percent(far)}."
        )
        if np.isfinite(_correlation(found)):
            sentences.append(f"The correlation of error with tau is {_correlation(found):.2f}.")
    return sentences


def judge(result):
    network = result["network"]
    near, _, _ = _near_and_far(network)
    if not np.isfinite(_correlation(network)):
        return Verdict(OPEN, "the error is the same in all orders")
    falls, base = _correlation(network) < -0.5, network["error"][0]
    why = f"orders near the trained one err on {percent(near)}, the trained one on {percent(base)}; the correlation"
    why += f" of error with tau is {_correlation(network):.2f}"
    half = near < (base + max(network["error"])) / 2
    return Verdict(AGREES if falls and half else PARTLY if falls or half else DIFFERS, why)


def _near_and_far(found):
    """Mean errors of the orders of the larger and of the smaller tau, without the trained one, and what parts them."""
    tau, error = np.array(found["kendall_tau"]), np.array(found["error"])
    median = np.median(tau)
    near, far = error[(tau < 1) & (tau >= median)], error[tau < median]
    return *(values.mean() if values.size else error[0] for values in (near, far)), median


def _correlation(found):
    tau, error = np.array(found["kendall_tau"]), np.array(found["error"])
    return np.corrcoef(tau, error)[0, 1] if np.ptp(tau) and np.ptp(error) else np.nan


STUDY = Study(
    "Reordering blocks",
    "Veit et al. 2016, arXiv 1605.06431, section 4.2, figure 5 b",
    "Error grows smoothly as blocks are swapped and the Kendall rank correlation to the trained order falls. The"
    " network can be reconfigured to some extent at run time.",
    "Each point is one order of the blocks; at tau = 1 they are in the trained order. A cloud that rises slowly to the"
    " right means that blocks do not depend strictly on those before them.",
    "Agrees if the error falls with tau (correlation below -0.5) and the half of the orders that is nearer the trained"
    " one has a mean error below the middle of the smallest and the largest; in part if one of the two holds.",
    judge,
    measure,
    draw,
    shows,
    size=(10, 4.2),
    place=20,
)
