"""Calibration and detection, beside scikit-learn, PyTorch's formula and plain loops."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score, roc_curve

from resjax import InputError
from resjax.analysis import (
    calibration,
    detection,
    fit_temperature,
    largest_probability,
    negative_energy,
    negative_log_likelihoods,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(500, 7)).astype(np.float32) * 3


def _drawn(logits):
    """Labels drawn from the probabilities that logits stand for."""
    return (logits + RNG.gumbel(size=logits.shape)).argmax(-1)


LABELS = _drawn(LOGITS)
PROBABILITIES = np.exp(np.float64(LOGITS)) / np.exp(np.float64(LOGITS)).sum(-1, keepdims=True)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_a_loop_over_bins(bins):
    confidence, right = PROBABILITIES.max(-1), PROBABILITIES.argmax(-1) == LABELS
    expected = 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration(LOGITS, LABELS, bins).error == pytest.approx(expected, abs=1e-6)


def test_the_reliability_diagram_is_that_of_scikit_learn():
    found = calibration(LOGITS, LABELS)
    right = PROBABILITIES.argmax(-1) == LABELS
    accuracy, confidence = calibration_curve(right, PROBABILITIES.max(-1), n_bins=15)
    full = found.counts > 0
    np.testing.assert_allclose(found.accuracy[full], accuracy, atol=1e-6)
    np.testing.assert_allclose(found.confidence[full], confidence, atol=1e-6)
    assert found.counts.sum() == 500 and np.isnan(found.accuracy[~full]).all()


def test_labels_drawn_from_the_probabilities_have_temperature_1_and_overconfidence_is_found_again():
    logits = np.random.default_rng(1).normal(size=(20_000, 5)) * 2
    labels = _drawn(logits)
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.03)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, abs=0.09)
    assert calibration(3 * logits, labels).error > 0.1 > 0.02 > calibration(logits, labels).error


def test_the_temperature_is_the_best_of_a_grid():
    def loss(temperature):
        return negative_log_likelihoods(LOGITS / temperature, LABELS).mean()

    found = fit_temperature(LOGITS, LABELS)
    assert loss(found) <= min(map(loss, np.geomspace(0.1, 10, 400))) + 1e-9
    assert fit_temperature(LOGITS, LOGITS.argmax(-1)) == pytest.approx(0.01, rel=0.05)


def test_the_likelihood_is_that_of_scikit_learn_also_of_large_logits():
    assert negative_log_likelihoods(LOGITS, LABELS).mean() == pytest.approx(
        log_loss(LABELS, PROBABILITIES, labels=range(7)), rel=1e-5
    )
    assert negative_log_likelihoods(np.array([[1000.0, 0.0]]), np.array([1])) == [1000.0]


def test_detection_is_that_of_scikit_learn_with_ties():
    known, unknown = np.round(RNG.normal(1, 1, 300), 1), np.round(RNG.normal(0, 1, 200), 1)
    truth, scores = np.repeat([1, 0], [300, 200]), np.concatenate([known, unknown])
    found = detection(known, unknown)
    assert found.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    false_positive, true_positive, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(false_positive[true_positive >= 0.95].min())
    assert detection(known + 10, unknown) == (1.0, 0.0)


def test_scores_are_those_of_their_papers():
    np.testing.assert_allclose(largest_probability(LOGITS), PROBABILITIES.max(-1), rtol=1e-5)
    np.testing.assert_allclose(negative_energy(LOGITS), np.log(np.exp(np.float64(LOGITS)).sum(-1)), rtol=1e-6)
    # Adding a number to all logits changes the energy, not the probabilities.
    np.testing.assert_allclose(negative_energy(LOGITS + 5), negative_energy(LOGITS) + 5, rtol=1e-6)


@pytest.mark.parametrize("logits, labels", [(LOGITS[0], LABELS), (LOGITS, LABELS[1:]), (LOGITS[:0], LABELS[:0])])
def test_shapes_that_do_not_fit_are_named(logits, labels):
    for function in (calibration, fit_temperature, negative_log_likelihoods):
        with pytest.raises(InputError, match=r"expected logits \[N, K\] and labels \[N\]"):
            function(logits, labels)


def test_impossible_arguments_are_named():
    with pytest.raises(InputError, match="bins: expected a positive integer, got 0"):
        calibration(LOGITS, LABELS, 0)
    with pytest.raises(InputError, match="expected finite numbers of both"):
        detection(np.array([1.0]), np.array([np.nan]))
