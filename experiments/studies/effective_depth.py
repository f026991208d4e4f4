"""How far the gradient of each block has come: the sub-networks that contribute to it."""

import numpy as np

from experiments.studies.study import Bench, Study
from resjax import analysis


def measure(bench: Bench):
    subject, options = bench.residual(), bench.options
    n = subject.model.num_blocks
    images, labels = subject.images[: options.path_images], subject.labels[: options.path_images]
    paths = analysis.paths_behind_each_block(options.seed, n, max(1, options.path_draws // 2))
    norms = analysis.block_gradient_norms(subject.model, subject.variables, images, labels, paths)
    means = analysis.norms_by_length(norms, paths)
    contributions = analysis.block_contributions(means)
    # One rate of decay for all: norms relative to those of the same block without any later one.
    rate = analysis.decay_rate(np.nanmean(means / means[:, :1], axis=0))
    return {
        "name": subject.name,
        "contributions": contributions / contributions.sum(1, keepdims=True),
        "effective_depth": analysis.effective_depths(contributions),
        "decay_rate": rate,
        "predicted_depth": analysis.predicted_depths(n, rate),
    }


def draw(figure, result):
    shares, depth = figure.subplots(1, 2)
    contributions = 100 * np.array(result["contributions"])
    n = len(contributions)
    image = shares.imshow(
        contributions.T, origin="lower", aspect="auto", cmap="viridis", extent=(0.5, n + 0.5, -0.5, n - 0.5)
    )
    figure.colorbar(image, ax=shares, label="share of the block's gradient (%)")
    shares.set(xlabel="block", ylabel="later blocks on the path", title="sub-networks that contribute")
    shares.grid(False)
    block = np.arange(1, n + 1)
    depth.plot(block, result["effective_depth"], "o-", ms=3, label="measured")
    depth.plot(block, result["predicted_depth"], "k--", lw=1, label="unravelled view, one rate of decay")
    depth.plot(block, n - block, color="0.6", ls=":", label="all later blocks")
    depth.set(xlabel="block", ylabel="blocks behind it", title="mean path of a block's gradient")
    depth.legend()


def shows(result):
    measured, predicted = np.array(result["effective_depth"]), np.array(result["predicted_depth"])
    n = len(measured)
    return [
        f"{result['name']}: the gradient of the first block came through {measured[0]:.1f} of the {n - 1} later blocks"
        f" in the mean; the unravelled view with gradients that go as {result['decay_rate']:.2f}^length predicts"
        f" {predicted[0]:.1f}.",
        f"Over all blocks measured and predicted differ by {np.abs(measured - predicted).mean():.2f} blocks in the"
        f" mean.",
    ]


STUDY = Study(
    "Effective depth of each block's gradient",
    "Wu et al. 2016, arXiv 1611.10080, section 2",
    "Unravelled, a residual network is an ensemble of sub-networks. Those deeper than an effective depth hardly"
    " contribute to gradients: blocks are not trained end-to-end through all others, and beyond that depth more width"
    " serves better than more blocks.",
    measure,
    draw,
    shows,
)
