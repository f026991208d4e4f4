"""Learning rates at the steps where papers say that they change."""

import numpy as np
import pytest

from resjax import InputError
from resjax.train import learning_rate_schedule


def _rates(kind, epochs=10, steps_per_epoch=10, **options):
    schedule = learning_rate_schedule(kind, 0.1, steps_per_epoch, epochs, **options)
    return np.array([schedule(step) for step in range(steps_per_epoch * epochs)])


@pytest.mark.quick
def test_piecewise_drops_at_the_first_step_after_the_completed_epochs():
    rates = _rates("piecewise", boundaries=(3, 6), factor=0.2)
    np.testing.assert_allclose(rates, [0.1] * 30 + [0.02] * 30 + [0.004] * 40, rtol=1e-6)


def test_poly_falls_with_a_power_of_what_is_left():
    left = 1 - np.arange(100) / 100
    np.testing.assert_allclose(_rates("poly", power=0.9, final=0.02), 0.02 + 0.08 * left**0.9, rtol=1e-5)


def test_boundaries_are_absolute_whatever_the_length_of_training():
    np.testing.assert_allclose(_rates("piecewise", epochs=2, boundaries=(3, 6)), 0.1, rtol=1e-6)


def test_boundaries_count_from_the_start_of_training_under_warmup():
    rates = _rates("piecewise", boundaries=(3,), warmup="constant", warmup_from=0.01, warmup_epochs=1.5)
    np.testing.assert_allclose(rates, [0.01] * 15 + [0.1] * 15 + [0.01] * 70, rtol=1e-6)


def test_a_drop_within_the_warmup_is_in_force_after_it():
    rates = _rates("piecewise", boundaries=(1,), warmup_epochs=2)
    np.testing.assert_allclose(rates[20:], 0.01, rtol=1e-6)


def test_linear_warmup_rises_from_the_given_rate_to_the_peak():
    rates = _rates("constant", warmup_epochs=2, warmup_from=0.02)
    np.testing.assert_allclose(rates[:20], 0.02 + 0.08 * np.arange(20) / 20, rtol=1e-5)
    np.testing.assert_allclose(rates[20:], 0.1, rtol=1e-6)


def test_cosine_and_linear_end_at_the_final_rate():
    cosine = _rates("cosine", final=0.01)
    np.testing.assert_allclose(cosine, 0.01 + 0.09 * (1 + np.cos(np.pi * np.arange(100) / 100)) / 2, rtol=1e-5)
    np.testing.assert_allclose(_rates("linear", final=0.01), 0.1 - 0.09 * np.arange(100) / 100, rtol=1e-5)


def test_one_cycle_rises_for_30_percent_and_falls_to_the_end():
    rates = _rates("one_cycle")
    assert rates.argmax() == 30 and np.isclose(rates[30], 0.1)
    assert np.all(np.diff(rates[:31]) > 0) and np.all(np.diff(rates[30:]) < 0)
    np.testing.assert_allclose(rates[99], 0.1 / 70, rtol=1e-4)


def test_a_cooldown_falls_from_the_rate_that_it_starts_with_to_the_final_one():
    rates = _rates("piecewise", boundaries=(6,), factor=0.5, cooldown_epochs=4, final=0.01)
    np.testing.assert_allclose(rates, [0.1] * 60 + list(0.01 + 0.04 * (1 - np.arange(40) / 40)), rtol=1e-5)
    np.testing.assert_allclose(_rates("constant", cooldown_epochs=99), 0.1 * (1 - np.arange(100) / 100), rtol=1e-5)


def test_per_epoch_holds_the_first_value_of_each_epoch():
    rates, smooth = _rates("cosine", per_epoch=True), _rates("cosine")
    np.testing.assert_array_equal(rates, np.repeat(smooth[::10], 10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cosin"}, "expected one of constant, piecewise"),
        ({"kind": "piecewise", "boundaries": (60, 30)}, "ascending"),
        ({"kind": "cosine", "cooldown_epochs": 3}, "cooldown_epochs: only for constant and piecewise schedules"),
        ({"kind": "constant", "warmup": "square"}, "'linear' or 'constant', got 'square'"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(InputError, match=message):
        _rates(**options)
