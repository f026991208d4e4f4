"""The effective depth of each block's gradient: which sub-networks contribute to it."""

import numpy as np

from experiments.runtime.figures import whole_numbers
from experiments.studies.study import AGREES, DIFFERS, PARTLY, Measurements, Study, Verdict, about_paths
from resjax import analysis


def measure(measurements: Measurements):
    network, options = measurements.residual(), measurements.options
    n = network.model.num_blocks
    images, labels = network.images[: options.path_images], network.labels[: options.path_images]
    paths = analysis.paths_behind_each_block(options.seed, n, max(1, options.path_draws // 2))
    norms = analysis.block_gradient_norms(network.model, network.variables, images, labels, paths)
    means = analysis.norms_by_length(norms, paths)
    contributions = analysis.block_contributions(means)
    # One decay rate for all blocks: each norm is relative to the norm of the same block without later blocks.
    rate = analysis.decay_rate(np.nanmean(means / means[:, :1], axis=0))
    return {
        "name": network.name,
        "contributions": contributions / contributions.sum(1, keepdims=True),
        "effective_depth": analysis.effective_depths(contributions),
        "decay_rate": rate,
        "predicted_depth": analysis.predicted_depths(n, rate),
    }


def draw(figure, result):
    fractions, depth = figure.subplots(1, 2)
    contributions = 100 * np.array(result["contributions"], float)
    n = len(contributions)
    # Block i has n - i later blocks: there is no path through more of them, which is not a fraction of 0 %.
    impossible = np.arange(n)[None, :] > (n - np.arange(1, n + 1))[:, None]
    contributions = np.ma.masked_array(contributions, impossible)
    image = fractions.imshow(contributions.T, origin="lower", aspect="auto", extent=(0.5, n + 0.5, -0.5, n - 0.5))
    figure.colorbar(image, ax=fractions, label="fraction of the block's gradient (%)")
    fractions.set(xlabel="block", ylabel="later blocks on the path", title="sub-networks that contribute")
    fractions.set_facecolor("0.9")
    fractions.text(0.97, 0.95, "no such paths", transform=fractions.transAxes, ha="right", va="top", fontsize=8)
    fractions.grid(False)
    block = np.arange(1, n + 1)
    depth.plot(block, result["effective_depth"], "o-", ms=3, label="measured")
    depth.plot(block, result["predicted_depth"], "k--", lw=1, label="unravelled view, one decay rate")
    depth.plot(block, n - block, color="0.6", ls=":", label="all later blocks")
    depth.set(xlabel="block", ylabel="later blocks", title="mean path of a block's gradient")
    whole_numbers(depth)
    whole_numbers(fractions)
    depth.legend()


def shows(result):
    measured, predicted = np.array(result["effective_depth"]), np.array(result["predicted_depth"])
    n = len(measured)
    return [
        f"{result['name']}: the gradient of the first block came through {measured[0]:.1f} of the {n - 1} later blocks"
        f" on average. The unravelled view predicts {predicted[0]:.1f}, with gradients that go as"
        f" {result['decay_rate']:.2f}^length.",
        f"Measured and predicted depth differ by {np.abs(measured - predicted).mean():.2f} blocks, averaged over all"
        f" blocks.",
    ]


def judge(result):
    measured, predicted = np.array(result["effective_depth"]), np.array(result["predicted_depth"])
    n = len(measured)
    share = measured[0] / (n - 1) if n > 1 else 0.0
    off = np.abs(measured - predicted).mean() / n
    why = f"the first block's gradient came through {measured[0]:.1f} of {n - 1} later blocks on average, and the"
    why += f" unravelled view is off by {np.abs(measured - predicted).mean():.2f} blocks"
    return Verdict(AGREES if share < 0.5 and off < 0.1 else PARTLY if share < 0.5 or off < 0.1 else DIFFERS, why)


STUDY = Study(
    "Effective depth of each block's gradient",
    "Wu et al. 2016, arXiv 1611.10080, section 2",
    "Unravelled, a residual network is an ensemble of sub-networks. Those deeper than an effective depth hardly"
    " contribute to gradients. Blocks are therefore not trained end-to-end through all others, and beyond that depth"
    " more width serves better than more blocks.",
    "Right: a curve far below the dotted line means that a block's gradient arrives through few of the blocks behind"
    " it. Where it follows the dashed line, one decay rate explains all blocks. Left: for each block, the numbers of"
    " later blocks that its gradient came through.",
    "Agrees if the first block's gradient comes through less than half of the later blocks on average, and measured and"
    " predicted depth differ by less than a tenth of the blocks; in part if one of the two holds.",
    judge,
    measure,
    draw,
    shows,
    place=40,
    about=about_paths,
    no_plain="In a plain network, every gradient comes through all later layers.",
)
