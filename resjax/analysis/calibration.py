"""Whether a classifier's probabilities mean what they say (Guo et al. 2017, arXiv 1706.04599)."""

from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax, softmax

from resjax.errors import InputError


class Calibration(NamedTuple):
    """How often a classifier is right, by how sure it is. Of B bins of equal width between 0 and 1.

    Attributes:
      error: expected calibration error, the mean of |accuracy - confidence| over images, in [0, 1].
      counts: images in each bin, int64 [B].
      confidence, accuracy: mean of each bin, in [0, 1], float64 [B]; NaN in an empty bin.
    """

    error: float
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def calibration(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> Calibration:
    """The reliability diagram and the expected calibration error (section 2).

    Args:
      logits: [N, K]; log-probabilities are logits, too.
      labels: int [N].
      bins: number of bins of the largest probability, (0, 1 / bins], ...

    Raises:
      InputError: for shapes that do not fit, no images, or fewer than one bin.

    Example:
      >>> round(calibration(np.log([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1])).error, 3)  # sure to 0.8, half right
      0.3
    """
    logits, labels = _checked(logits, labels)
    if bins < 1:
        raise InputError(f"bins: expected a positive integer, got {bins}")
    confidence = softmax(logits, axis=-1).max(-1)
    right = logits.argmax(-1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidences, accuracies = (
            np.bincount(place, values, minlength=bins) / counts for values in (confidence, right.astype(float))
        )
    error = float(np.nansum(counts * np.abs(accuracies - confidences)) / len(labels))
    return Calibration(error, counts, confidences, accuracies)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The number T by which logits are divided for the smallest mean negative log-likelihood (section 4.2).

    Fit it on images of which neither training nor the reported numbers know. The predicted classes stay the same.

    Args:
      logits: [N, K].
      labels: int [N].

    Returns:
      T, from 0.01 to 100; the bounds are reached where all images are right, or no better than chance.

    Raises:
      InputError: for shapes that do not fit, or no images.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = _checked(logits, labels)
    # Convex in 1 / T, hence with a single minimum also in its logarithm.
    bounds = np.log([0.01, 100])
    found = minimize_scalar(
        lambda power: negative_log_likelihoods(logits / np.exp(power), labels).mean(), bounds=bounds, method="bounded"
    )
    return float(np.exp(found.x))


def negative_log_likelihoods(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log of the probability of each label: float64 [N], of logits [N, K] and labels int [N]."""
    logits, labels = _checked(logits, labels)
    return -np.take_along_axis(log_softmax(logits, axis=-1), labels[:, None], -1)[:, 0]


def _checked(logits, labels):
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not labels.size:
        raise InputError(f"expected logits [N, K] and labels [N], got {list(logits.shape)} and {list(labels.shape)}")
    return logits, labels
