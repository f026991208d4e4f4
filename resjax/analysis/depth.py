"""The effective depth of a network: under stochastic depth, and for the gradient of each block."""

import math

import numpy as np


def depth_distribution(survival_probabilities: np.ndarray) -> np.ndarray:
    """Fraction of mini-batches with 0 .. n active blocks: p_l [n] -> [n + 1].

    This is the sum of independent Bernoulli variables. Its mean, sum(p), is the expected depth of Huang et al. 2016
    (arXiv 1603.09382, section 3).
    """
    shares = np.ones(1)
    for p in survival_probabilities:
        shares = np.convolve(shares, [1 - p, p])
    return shares


def paths_behind_each_block(seed: int, num_blocks: int, draws: int) -> np.ndarray:
    """Paths on which every block is followed by few, some and all of the later blocks: bool [P, num_blocks].

    The gradient along one path gives a value for every block on it. Blocks are therefore divided at random into paths
    of 1, 2, 4, .. blocks, `draws` times for each size. One path has all blocks. A draw gives about 2 n paths.
    """
    rng = np.random.default_rng(seed)
    paths = [np.ones((1, num_blocks), bool)]
    size = 1
    while size < num_blocks:
        for _ in range(draws):
            owner = np.empty(num_blocks, int)
            owner[rng.permutation(num_blocks)] = np.arange(num_blocks) // size
            paths.append(owner == np.arange(-(-num_blocks // size))[:, None])
        size *= 2
    return np.concatenate(paths)


def norms_by_length(norms: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """The mean gradient that reaches each block through each number of later blocks.

    Args:
      norms: [P, n], from `block_gradient_norms`.
      paths: bool [P, n], the paths of `norms`.

    Returns:
      [n, n]: at (i, k) the mean norm at block i along the paths through it and k later blocks. Missing values are
      interpolated in the logarithm; NaN outside the measured lengths.
    """
    n = paths.shape[1]
    later = np.cumsum(paths[:, ::-1], axis=1)[:, ::-1] - paths
    means = np.full((n, n), np.nan)
    for i, k in np.ndindex(n, n):
        chosen = paths[:, i] & (later[:, i] == k)
        if chosen.any():
            means[i, k] = norms[chosen, i].mean()
    for row in means:
        measured = np.flatnonzero(~np.isnan(row))
        if measured.size:
            between = np.arange(measured[0], measured[-1] + 1)
            logarithms = np.log(np.maximum(row[measured], np.finfo(float).tiny))
            row[between] = np.where(
                np.isnan(row[between]), np.exp(np.interp(between, measured, logarithms)), row[between]
            )
    return means


def block_contributions(means: np.ndarray) -> np.ndarray:
    """The contribution of the sub-networks of each length to each block: means [n, n] of `norms_by_length` -> [n, n].

    At (i, k): the number of paths through k of the n - 1 - i later blocks, times the mean norm along one path.
    """
    n = len(means)
    counts = np.array([[math.comb(n - 1 - i, k) for k in range(n)] for i in range(n)], np.float64)
    return np.where(counts > 0, counts * means, 0)


def effective_depths(contributions: np.ndarray) -> np.ndarray:
    """Mean number of later blocks that a block's gradient passes through, weighted by contribution: [n, n] -> [n]."""
    return (contributions * np.arange(contributions.shape[1])).sum(1) / contributions.sum(1)


def decay_rate(norms: np.ndarray) -> float:
    """The r of r^k that best fits the norms [n + 1] at lengths k = 0 .. n in the logarithm; NaN and 0 are left out."""
    norms = np.asarray(norms, np.float64)
    lengths = np.flatnonzero(norms > 0)
    return float(np.exp(np.polyfit(lengths, np.log(norms[lengths]), 1)[0]))


def predicted_depths(num_blocks: int, rate: float) -> np.ndarray:
    """Effective depth of each block in the unravelled view, [n].

    With C(m, k) paths through k of m later blocks, and gradients that fall as rate^k, contributions are binomial with
    mean m rate / (1 + rate).
    """
    return np.arange(num_blocks - 1, -1, -1) * rate / (1 + rate)
