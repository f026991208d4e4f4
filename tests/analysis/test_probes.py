"""Probes against SciPy's least squares, and features against the network's own intermediates."""

import jax
import numpy as np
import pytest
from scipy import optimize

from resjax import InputError, analysis
from resjax.models import ResNet

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(11, 8, 8, 3)).astype(np.float32)


def test_features_are_the_means_of_the_blocks_outputs(draw_variables):
    """Ten blocks and more, in their order and not in that of their names."""
    model = ResNet(stage_sizes=(11, 1), widths=(3, 4), shortcut="B")
    variables = draw_variables(model, IMAGES)
    features = analysis.pooled_features(model, variables, IMAGES, batch_size=8)
    assert list(features) == [f"stage_1/block_{i + 1}" for i in range(11)] + ["stage_2/block_1"]
    stages = jax.jit(model.clone(features_only=True).apply)(variables, IMAGES)
    for block, stage in (("stage_1/block_11", "stage_1"), ("stage_2/block_1", "stage_2")):
        np.testing.assert_allclose(features[block], np.asarray(stages[stage]).mean((1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.quick
def test_the_closed_form_is_the_minimum():
    features, labels = RNG.normal(size=(60, 4)) * [1, 10, 0.1, 3] + 2, RNG.integers(0, 3, 60)
    kernel, bias = analysis.ridge_classifier(features, labels, 3, weight_decay=0.1)
    deviation = features.std(0)

    def loss(flat):
        k, b = flat[:12].reshape(4, 3), flat[12:]
        error = (features - features.mean(0)) / deviation @ k + b - np.eye(3)[labels]
        return np.square(error).sum() / 60 + 0.1 * np.square(k).sum()

    found = optimize.minimize(loss, np.zeros(15), tol=1e-12).x
    expected = found[:12].reshape(4, 3) / deviation[:, None]
    np.testing.assert_allclose(kernel, expected, atol=1e-4)
    np.testing.assert_allclose(bias, found[12:] - features.mean(0) @ expected, atol=1e-4)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((3, 2)), np.zeros(4, int), 2), r"expected float \[N, C\] and int \[N\]"),
        ((np.ones((3, 2)), np.array([0, 1, 2]), 2), "labels: expected 0 to 1, got 0 to 2"),
        ((np.ones((3, 2)), np.zeros(3, int), 2, 0.0), "weight_decay: expected a positive number"),
    ],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        analysis.ridge_classifier(*arguments)
