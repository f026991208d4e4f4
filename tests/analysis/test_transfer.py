"""The best learning rate of each size against curves whose minimum is known."""

import numpy as np
import pytest

from resjax import InputError, analysis

SIZES, RATES = np.array([8, 16, 64]), 2.0 ** np.arange(-8, 3)


def test_the_minimum_of_parabolas_and_its_power_of_the_depth_are_found():
    """Loss = c + (log rate - log best)^2 with best = 0.3 depth^-0.75, whatever the grid, the order and the seeds."""
    sizes, rates = (grid.ravel() for grid in np.meshgrid(SIZES, RATES))
    best = 0.3 * SIZES**-0.75
    losses = sizes / 10 + np.log(rates / best[np.searchsorted(SIZES, sizes)]) ** 2
    noise = np.random.default_rng(0).normal(size=len(losses))
    order = np.random.default_rng(1).permutation(2 * len(losses))
    runs = [np.concatenate(pair)[order] for pair in ((sizes, sizes), (rates, rates), (losses - noise, losses + noise))]
    found = analysis.learning_rate_transfer(*runs)
    np.testing.assert_allclose(found.rates, best)
    np.testing.assert_allclose(found.values, SIZES / 10, atol=1e-9)
    assert found.inside.all() and found.exponent == pytest.approx(-0.75)
    assert found.factor == pytest.approx(8**0.75)


def test_runs_that_diverged_are_no_minimum_but_a_bound():
    """Beside one of them the grid's best stays; a size without others has none; at the end of the grid it is said."""
    sizes = np.repeat([8, 16, 32, 64], 3)
    losses = [2, 1, np.nan, np.inf, np.nan, np.nan, 3, 2, 1, 1, 1, 1]
    found = analysis.learning_rate_transfer(sizes, [0.1, 0.2, 0.4] * 4, losses)
    np.testing.assert_array_equal(found.rates, [0.2, np.nan, 0.4, 0.1])
    assert found.inside.tolist() == [True, False, False, False]
    assert found.factor == pytest.approx(4)
    alone = analysis.learning_rate_transfer([8], [0.1], [np.inf])
    assert np.isnan(alone.exponent) and np.isnan(alone.factor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "expected one entry for each run, got 0, 0 and 0"),
        (([8, 8], [0.1], [1, 2]), "got 2, 1 and 2"),
        (([8, 8], [0.1, 0.0], [1, 2]), "expected positive learning rates, got 0"),
    ],
)
def test_what_is_no_grid_of_runs_is_said(arguments, message):
    with pytest.raises(InputError, match=message):
        analysis.learning_rate_transfer(*arguments)
