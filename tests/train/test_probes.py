"""Classifiers of features, against scikit-learn and against votes counted one by one."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from resjax import InputError, train


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    return images[:400], labels[:400], images[400:600], labels[400:600]


def test_the_linear_probe_is_scikit_learns_logistic_regression(digits):
    known, labels, queries, _ = digits
    weight_decay = 1e-2
    probe = train.fit_linear_probe(known, labels, 10, (weight_decay,))
    mean, std = known.mean(0), known.std(0)
    std = np.where(std == 0, 1, std)
    theirs = LogisticRegression(C=1 / (weight_decay * len(known)), max_iter=5000, tol=1e-7)
    theirs.fit((known - mean) / std, labels)
    expected, got = theirs.decision_function((queries - mean) / std), probe.logits(queries)
    centred = [logits - logits.mean(1, keepdims=True) for logits in (expected, got)]
    # Pixels that are black in all known images have no weight.
    seen = (queries[:, known.std(0) == 0] == 0).all(1)
    np.testing.assert_allclose(centred[1][seen], centred[0][seen], atol=0.05)
    assert (got.argmax(1) == expected.argmax(1))[seen].mean() > 0.99


def test_the_weight_decay_is_chosen_by_errors_on_a_fifth(digits):
    known, labels, _, _ = digits
    probe = train.fit_linear_probe(known, labels, 10, (1e4, 1e-2))
    assert probe.weight_decay == 1e-2
    assert train.fit_linear_probe(known, labels, 10, (1e-2, 1e4)).weight_decay == 1e-2


def test_votes_are_those_of_the_nearest_images_counted_one_by_one(digits):
    known, labels, queries, truth = digits
    votes = train.nearest_neighbours(known, labels, queries[:5], 10, neighbours=7, temperature=0.1)
    for query, got in zip(queries[:5], votes, strict=True):
        similarity = known @ query / np.linalg.norm(known, axis=1) / np.linalg.norm(query)
        expected = np.zeros(10)
        for nearest in np.argsort(-similarity)[:7]:
            expected[labels[nearest]] += np.exp(similarity[nearest] / 0.1)
        np.testing.assert_allclose(got, expected / expected.sum(), atol=1e-4)
    few = train.nearest_neighbours(known[:3], labels[:3], queries, 10)
    assert few.shape == (200, 10)
    np.testing.assert_allclose(few.sum(1), 1, rtol=1e-5)
    assert (train.nearest_neighbours(known, labels, queries, 10).argmax(1) != truth).mean() < 0.2


def test_features_that_do_not_fit_are_refused(digits):
    known, labels, queries, _ = digits
    with pytest.raises(InputError, match="expected 5 images or more, got 4"):
        train.fit_linear_probe(known[:4], labels[:4], 10)
    with pytest.raises(InputError, match="labels: expected 0 to 4, got 0 to 9"):
        train.fit_linear_probe(known, labels, 5)
    with pytest.raises(InputError, match="expected float .N, C. and int .N."):
        train.nearest_neighbours(known, labels[1:], queries, 10)
    with pytest.raises(InputError, match="queries: expected float .M, 64."):
        train.nearest_neighbours(known, labels, queries[:, 1:], 10)
