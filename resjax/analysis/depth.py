"""How deep a network is in effect: while stochastic depth trains it, and for the gradient of each of its blocks."""

import math

import numpy as np


def depth_distribution(survival_probabilities: np.ndarray) -> np.ndarray:
    """The share of mini-batches with 0 .. n active blocks, p_l [n] each -> [n + 1].

    The sum of independent Bernoulli variables; its mean, sum(p), is the expected depth of Huang et al. 2016 (arXiv
    1603.09382, section 3).
    """
    shares = np.ones(1)
    for p in survival_probabilities:
        shares = np.convolve(shares, [1 - p, p])
    return shares


def block_contributions(norms: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """What the sub-networks of each length contribute to the gradient of each block.

    Args:
      norms: [P, n], from `block_gradient_norms`.
      paths: bool [P, n], the same.

    Returns:
      [n, n]: at (i, k) the number of paths through k of the n - 1 - i blocks behind block i, times the mean norm of the
      gradient that reaches it along one of them; NaN where none of `paths` is of that length.
    """
    n = paths.shape[1]
    later = np.cumsum(paths[:, ::-1], axis=1)[:, ::-1] - paths
    result = np.full((n, n), np.nan)
    for i in range(n):
        result[i, n - i :] = 0
        for k in range(n - i):
            sampled = norms[paths[:, i] & (later[:, i] == k), i]
            if len(sampled):
                result[i, k] = math.comb(n - 1 - i, k) * sampled.mean()
    return result


def effective_depths(contributions: np.ndarray) -> np.ndarray:
    """The mean number of later blocks that a block's gradient came through, weighted by contribution: [n, n] -> [n]."""
    known = np.nan_to_num(contributions)
    return (known * np.arange(known.shape[1])).sum(1) / known.sum(1)


def decay_rate(norms: np.ndarray) -> float:
    """r of the exponential norm ~ r^k that fits norms [n + 1] of lengths k = 0 .. n best in the logarithm; NaN and 0
    are left out."""
    norms = np.asarray(norms, np.float64)
    lengths = np.flatnonzero(norms > 0)
    return float(np.exp(np.polyfit(lengths, np.log(norms[lengths]), 1)[0]))


def predicted_depths(num_blocks: int, rate: float) -> np.ndarray:
    """Effective depth of each block in the unravelled view, [n].

    With C(m, k) paths through k of m later blocks, and gradients that fall as rate^k, contributions are binomial with
    mean m rate / (1 + rate).
    """
    return np.arange(num_blocks - 1, -1, -1) * rate / (1 + rate)
