"""Residual networks as ensembles of their paths (Veit et al. 2016, arXiv 1605.06431, section 4)."""

import numpy as np


def valid_paths(num_blocks: int) -> np.ndarray:
    """Binary logarithm of the number of paths without 0 .. n blocks: n .. 0."""
    return np.arange(num_blocks, -1, -1)


def smoothness_index(errors: np.ndarray) -> float:
    """How evenly the error [n + 1] rises as 0 .. n parts are removed: 1 - largest step / whole rise.

    0: one removal does all the damage. 1 - 1/n, the maximum: each removal does the same damage.
    """
    errors = np.asarray(errors, np.float64)
    rise = errors.max() - errors[0]
    return float(1 - min(np.diff(errors).max() / rise, 1)) if rise > 0 else 1.0


def disagreement(predictions: np.ndarray) -> float:
    """Fraction of images on which two of V networks differ, mean over pairs: int [V, N] -> [0, 1]; NaN for V = 1."""
    v = len(predictions)
    if v < 2:
        return float("nan")
    counts = _votes(predictions)
    agreeing = (counts * (counts - 1)).sum(0) / (v * (v - 1))
    return float(1 - agreeing.mean())


def majority_vote(predictions: np.ndarray) -> np.ndarray:
    """The class that most of V networks predict for each image, the smallest of ties: int [V, N] -> [N]."""
    return _votes(predictions).argmax(0)


def _votes(predictions):
    """Number of networks that predict each class for each image: [K, N]."""
    return np.stack([(predictions == label).sum(0) for label in range(int(predictions.max()) + 1)])
