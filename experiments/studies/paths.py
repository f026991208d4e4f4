"""Path lengths, gradients along paths, and the range of effective paths."""

import jax
import numpy as np

from experiments.runtime.figures import whole_numbers
from experiments.studies.study import AGREES, DIFFERS, PARTLY, Measurements, Study, Verdict, about_paths, percent
from resjax import analysis

ENUMERATED_BLOCKS = 12
"""Up to this number of blocks, all 2^n paths are followed as well."""


def measure(measurements: Measurements):
    network, options = measurements.residual(), measurements.options
    model, n = network.model, network.model.num_blocks
    images, labels = network.images[: options.path_images], network.labels[: options.path_images]
    lengths = np.broadcast_to(np.arange(n + 1)[:, None, None], (n + 1, options.path_draws, len(images)))
    paths = np.moveaxis(analysis.random_paths(options.seed, n, lengths), -1, -2).reshape(-1, n, len(images))
    norms = analysis.path_gradient_norms(model, network.variables, images, labels, paths).reshape(n + 1, -1)
    shares, mean = analysis.path_length_distribution(n), norms.mean(1)
    weights = shares * mean
    low, high = analysis.effective_lengths(weights)
    result = {
        "name": network.name,
        "share_of_paths": shares,
        "gradient_norm": mean,
        "quartiles": np.percentile(norms, [25, 50, 75], axis=1),
        "share_of_gradient": weights / weights.sum(),
        "effective": [low, high],
        "paths_in_range": shares[low : high + 1].sum(),
        "decay_rate": analysis.decay_rate(mean),
        "exact_gradient_norm": None,
    }
    if n <= ENUMERATED_BLOCKS:
        devices = jax.device_count()
        few = min(len(images), -(-8 // devices) * devices)
        every = np.broadcast_to(analysis.all_paths(n)[:, :, None], (2**n, n, few))
        exact = analysis.path_gradient_norms(model, network.variables, images[:few], labels[:few], every).mean(1)
        length = analysis.all_paths(n).sum(1)
        result["exact_gradient_norm"] = [exact[length == k].mean() for k in range(n + 1)]
    return result


def draw(figure, result):
    counts, norms, product = figure.subplots(1, 3)
    lengths = np.arange(len(result["share_of_paths"]))
    counts.bar(lengths, 100 * np.array(result["share_of_paths"]), color="C0")
    counts.set(ylabel="fraction of paths (%)", title="how many there are")
    mean, (low, median, high) = np.array(result["gradient_norm"]), np.array(result["quartiles"])
    # Few paths carry much of the gradient: their mean may lie above the upper quartile, where it would look wrong.
    steep = " (above the quartiles: a few steep paths)" if (mean > high).any() else ""
    norms.semilogy(lengths, mean, "o-", ms=3, color="C1", label=f"mean{steep}")
    norms.semilogy(lengths, median, color="C1", ls=":", label="median")
    floor = mean[mean > 0].min() * 1e-3 if (mean > 0).any() else 1e-12
    norms.fill_between(lengths, np.maximum(low, floor), high, color="C1", alpha=0.2, lw=0, label="quartiles")
    if result["exact_gradient_norm"]:
        norms.semilogy(lengths, result["exact_gradient_norm"], "k+", label="all paths, fewer images")
    norms.set(ylabel="gradient norm at the input", title="gradient of one")
    norms.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15))  # the band may be anywhere in the axes
    product.bar(lengths, 100 * np.array(result["share_of_gradient"]), color="C2")
    first, last = result["effective"]
    product.axvspan(first - 0.5, last + 0.5, color="C2", alpha=0.15)
    product.set(ylabel="fraction of gradient (%)", title=f"their product; shaded: 95 %, {first} to {last} blocks")
    for axes in (counts, norms, product):
        axes.set_xlabel("path length (blocks)")
        whole_numbers(axes)


def shows(result):
    low, high = result["effective"]
    n = len(result["share_of_paths"]) - 1
    mean, rate = np.array(result["gradient_norm"]), result["decay_rate"]
    direction = "falls" if rate < 1 else "rises (unlike in the paper's deeper network)"
    return [
        f"{result['name']}: along a path the gradient norm {direction} as {rate:.2f} to the power of its length, from"
        f" {mean[0]:.2g} past all {n} blocks to {mean[-1]:.2g} through all.",
        f"95 % of the gradient comes through paths of {low} to {high} blocks. These are"
        f" {percent(result['paths_in_range'])} of all paths; the binomial centre is {n / 2:g}.",
    ]


def judge(result):
    low, high = result["effective"]
    n, rate = len(result["share_of_paths"]) - 1, result["decay_rate"]
    falls, shorter = rate < 1, (low + high) / 2 < n / 2
    why = f"the gradient changes by a factor of {rate:.2f} for each block on the path, and the paths that carry 95 % of"
    why += f" it have {low} to {high} of {n} blocks"
    return Verdict(AGREES if falls and shorter else PARTLY if falls or shorter else DIFFERS, why)


STUDY = Study(
    "Paths: how many, and how much gradient",
    "Veit et al. 2016, arXiv 1605.06431, sections 3 and 4.3, figure 6",
    "Of the 2^54 paths of 54 blocks, over 95 % are 19 to 35 blocks long. Along a path the gradient norm falls"
    " exponentially with its length. Nearly all of the gradient therefore comes through paths of 5 to 17 blocks, 0.45"
    " % of all paths. A network trained with exactly 23 random blocks per mini-batch"
    " (--model.stochastic_depth.active_blocks 23) reaches 5.96 % error, against 6.10 % with all blocks.",
    "Left: most paths go through about half of the blocks. Middle: a line that falls on the logarithmic axis is a"
    " gradient that shrinks by one factor for each block. Right: the product of both. Where its hump is left of that of"
    " the first panel, short paths train the network.",
    "Agrees if the gradient falls with length and the centre of the lengths that carry 95 % of it is below half of the"
    " blocks; in part if one of the two holds.",
    judge,
    measure,
    draw,
    shows,
    place=30,
    about=about_paths,
    no_plain="A plain network has one path.",
)
