"""How far the best learning rate moves with the depth or the width of a network.

Bordelon et al. 2023, Depthwise Hyperparameter Transfer in Residual Networks, arXiv 2309.16620.
"""

import dataclasses

import numpy as np

from resjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class LearningRateTransfer:
    """The best learning rate of each size.

    Attributes:
      sizes: depths or widths, ascending, [S].
      rates: the best learning rate of each, float64 [S]; NaN where no run came to an end.
      values: the loss or error there, as the parabola has it, float64 [S].
      inside: bool [S]: whether a smaller and a larger rate were tried. If not, the best may be beyond.
      exponent: p of the fit rate ~ size ** p; 0 is perfect transfer. NaN for fewer than two sizes.
    """

    sizes: np.ndarray
    rates: np.ndarray
    values: np.ndarray
    inside: np.ndarray
    exponent: float

    @property
    def factor(self) -> float:
        """The largest of the best rates over the smallest: 1 is perfect transfer."""
        return float(np.nanmax(self.rates) / np.nanmin(self.rates)) if np.isfinite(self.rates).any() else float("nan")


def learning_rate_transfer(sizes: np.ndarray, rates: np.ndarray, values: np.ndarray) -> LearningRateTransfer:
    """The best learning rate of each size, and how it moves.

    Runs of one size and rate are averaged. Through the best rate of the grid and its neighbours goes a parabola in
    log(rate); its lowest point is the best rate. Without two neighbours that came to an end, it is that of the grid.

    Args:
      sizes: depth or width of each run, [R].
      rates: its learning rate, [R], positive.
      values: its loss or error, [R]; NaN or infinite for a run that diverged.

    Raises:
      InputError: for arrays of different lengths, no runs, or a rate that is not positive.

    Example:
      >>> found = resjax.analysis.learning_rate_transfer([8] * 3 + [32] * 3, [0.1, 0.2, 0.4] * 2, [2, 1, 2, 1, 2, 4])
      >>> found.rates.round(6).tolist(), found.inside.tolist(), round(found.exponent, 6)
      ([0.2, 0.1], [True, False], -0.5)
    """
    sizes, rates, values = (np.asarray(each, np.float64) for each in (sizes, rates, values))
    if not len(sizes) == len(rates) == len(values) > 0:
        raise InputError(
            f"sizes, rates, values: expected one entry for each run, got {len(sizes)}, {len(rates)} and {len(values)}"
        )
    if not np.all(rates > 0):
        raise InputError(f"rates: expected positive learning rates, got {rates.min():g}")
    found = []
    for size in np.unique(sizes):
        grid = np.unique(rates[sizes == size])
        means = np.array([values[(sizes == size) & (rates == rate)].mean() for rate in grid])
        found.append(_best(grid, np.where(np.isfinite(means), means, np.inf)))
    best, lowest, inside = map(np.array, zip(*found, strict=True))
    known = np.isfinite(best)
    fit = np.polyfit(np.log(np.unique(sizes)[known]), np.log(best[known]), 1)[0] if known.sum() > 1 else np.nan
    return LearningRateTransfer(np.unique(sizes), best, lowest, inside, float(fit))


def _best(grid, means):
    """(rate, value, whether rates on both sides were tried) of the lowest point."""
    k = int(np.argmin(means))
    if not np.isfinite(means[k]):
        return np.nan, np.nan, False
    inside = 0 < k < len(grid) - 1
    around = slice(k - 1, k + 2)
    if not inside or not np.isfinite(means[around]).all() or np.ptp(means[around]) == 0:
        return grid[k], means[k], inside
    a, b, c = np.polyfit(np.log(grid[around] / grid[k]), means[around], 2)
    return grid[k] * np.exp(-b / (2 * a)), c - b**2 / (4 * a), True
