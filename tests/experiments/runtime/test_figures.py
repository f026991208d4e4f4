"""The style that all figures share."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.runtime.figures import log_if_spiked, logarithmic, look


def test_no_two_of_36_curves_look_alike():
    looks = [tuple(look(i).values()) for i in range(36)]
    assert len(set(looks)) == 36
    assert len({colour for colour, _ in looks[:6]}) == 6


@pytest.mark.parametrize(
    ("values", "shown"), [([0.4, 3.0], ["0.5", "1", "2"]), ([2e-5, 3e3], ["0.0001", "0.001", "0.01", "1", "1000"])]
)
def test_a_logarithmic_axis_is_labelled_with_numbers(values, shown):
    axes = Figure().subplots()
    axes.plot(values)
    logarithmic(axes, np.array(values))
    axes.figure.canvas.draw()
    labels = [label.get_text() for label in axes.get_yticklabels(which="both")]
    assert set(shown) <= set(labels) and not any("10^" in label for label in labels)


def test_an_axis_is_logarithmic_where_a_spike_would_flatten_the_rest_and_only_there():
    for curve, spiked in (([1, 1.2, 900], True), ([1, 1.2, 9], False), ([0, 1, 900], False)):
        axes = Figure().subplots()
        assert log_if_spiked(axes, np.array(curve, float)) == spiked
        assert (axes.get_yscale() == "log") == spiked
