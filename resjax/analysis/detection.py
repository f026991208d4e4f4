"""How well a classifier's own scores tell the images that it knows from others."""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, softmax

from resjax.errors import InputError


class Detection(NamedTuple):
    """How well a score tells known images, which should have the larger ones, from unknown images.

    Attributes:
      auroc: probability that a known image has a larger score than an unknown one, ties counting half, in [0, 1].
      fpr95: fraction of the unknown images that pass a threshold that 95 % of the known images pass.
    """

    auroc: float
    fpr95: float


def detection(known: np.ndarray, unknown: np.ndarray) -> Detection:
    """AUROC and false positive rate at 95 % true positives (Hendrycks & Gimpel 2017, arXiv 1610.02136).

    Args:
      known, unknown: scores of the images of each kind, [N] and [M].

    Raises:
      InputError: for no scores of a kind, or scores that are not finite.

    Example:
      >>> detection(np.array([3.0, 2.0, 1.0]), np.array([2.5, 0.5]))
      Detection(auroc=0.6666666666666666, fpr95=0.5)
    """
    from scipy.stats import mannwhitneyu

    known, unknown = np.asarray(known, np.float64), np.asarray(unknown, np.float64)
    if not (known.size and unknown.size and np.isfinite(known).all() and np.isfinite(unknown).all()):
        raise InputError("scores: expected finite numbers of both known and unknown images")
    pairs = len(known) * len(unknown)
    auroc = float(mannwhitneyu(known, unknown, method="asymptotic").statistic) / pairs
    # The largest threshold that at least 95 % of the known images reach.
    threshold = np.quantile(known, 0.05, method="lower")
    return Detection(auroc, float((unknown >= threshold).mean()))


def largest_probability(logits: np.ndarray) -> np.ndarray:
    """The largest probability of each image, the score of Hendrycks & Gimpel 2017: [N, K] -> float64 [N]."""
    return softmax(np.asarray(logits, np.float64), axis=-1).max(-1)


def negative_energy(logits: np.ndarray) -> np.ndarray:
    """log sum exp of the logits, Liu et al. 2020 (arXiv 2010.03759) at temperature 1: [N, K] -> float64 [N]."""
    return logsumexp(np.asarray(logits, np.float64), axis=-1)
