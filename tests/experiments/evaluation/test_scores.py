"""Numbers of a classifier's outputs, beside scikit-learn and draws of images."""

import numpy as np
import pytest
from sklearn import metrics

from experiments.evaluation.scores import class_table, confusion_matrix, scores, temperature_scaling, together

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(400, 8)).astype(np.float32) * 2
LABELS = (LOGITS + RNG.gumbel(size=LOGITS.shape)).argmax(-1).astype(np.int32)


def test_errors_and_loss_are_those_of_scikit_learn():
    found = scores(LOGITS, LABELS)
    probabilities = np.exp(np.float64(LOGITS)) / np.exp(np.float64(LOGITS)).sum(-1, keepdims=True)
    assert found["test_error"] == pytest.approx(100 * (1 - metrics.accuracy_score(LABELS, LOGITS.argmax(-1))))
    top = metrics.top_k_accuracy_score(LABELS, LOGITS, k=5, labels=range(8))
    assert found["test_top5_error"] == pytest.approx(100 * (1 - top))
    assert found["test_loss"] == pytest.approx(metrics.log_loss(LABELS, probabilities, labels=range(8)))
    assert found["errors"] == (LOGITS.argmax(-1) != LABELS).sum() and found["test_images"] == 400


def test_intervals_are_the_quantiles_of_images_drawn_with_replacement():
    found = scores(LOGITS, LABELS)
    wrong = LOGITS.argmax(-1) != LABELS
    draws = 100 * wrong[np.random.default_rng(5).integers(400, size=(20_000, 400))].mean(1)
    np.testing.assert_allclose(found["test_error_interval"], np.quantile(draws, [0.025, 0.975]), atol=0.26)
    # Of a mean, 1.96 standard errors to each side.
    losses = -np.log(np.exp(LOGITS)[range(400), LABELS] / np.exp(LOGITS).sum(-1))
    expected = losses.mean() + np.array([-1.96, 1.96]) * losses.std() / 20
    np.testing.assert_allclose(found["test_loss_interval"], expected, atol=0.012)


def test_parts_together_are_the_whole():
    parts = [scores(LOGITS[part], LABELS[part], whole=False) for part in (slice(0, 150), slice(150, None))]
    found, whole = together(parts), scores(LOGITS, LABELS, whole=False)
    assert found.keys() == whole.keys() and found["errors"] == whole["errors"]
    for key, value in whole.items():
        assert found[key] == pytest.approx(value)
    assert "test_top5_error" not in scores(LOGITS[:, :5], LABELS % 5)


def test_the_table_of_classes_is_that_of_scikit_learn():
    predicted, names = LOGITS.argmax(-1), list("abcdefgh")
    confusion = confusion_matrix(predicted, LABELS, 8)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(LABELS, predicted))
    table = class_table(confusion, names, "pixels")
    precision, recall, _, support = metrics.precision_recall_fscore_support(LABELS, predicted)
    iou = metrics.jaccard_score(LABELS, predicted, average=None)
    for i, row in enumerate(table):
        assert (row["class"], row["pixels"]) == (names[i], support[i])
        expected = (100 * (1 - recall[i]), 100 * precision[i], 100 * iou[i])
        assert (row["error"], row["precision"], row["iou"]) == pytest.approx(expected)
        assert row["mostly_taken_for"] == names[np.where(np.arange(8) == i, 0, confusion[i]).argmax()]
    absent = class_table(np.diag([3, 0]), "ab")
    assert absent[1] == {"class": "b", "images": 0, "error": None, "precision": None, "mostly_taken_for": None}


def test_the_temperature_is_measured_on_images_that_it_was_not_fitted_to():
    found, before, after = temperature_scaling(3 * LOGITS, LABELS)
    assert found["temperature"] == pytest.approx(3, rel=0.2) and found["images"] == 200
    assert found["scaled_loss"] < found["loss"] and after.error < before.error
    # The images of the other half, spoilt, change the temperature only.
    order = np.random.default_rng(0).permutation(400)
    spoilt = LABELS.copy()
    spoilt[order[:200]] = RNG.permutation(LABELS[order[:200]])
    other, unchanged, _ = temperature_scaling(3 * LOGITS, spoilt)
    assert other["temperature"] > 2 * found["temperature"] and unchanged.error == before.error
