"""Surfaces against moved networks that are evaluated one by one, and directions against their definition."""

import jax
import numpy as np
import pytest

from resjax import InputError, StochasticDepth, analysis, create_model, train
from resjax.models import ResNet, restack

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(9, 8, 8, 3)).astype(np.float32)
LABELS = RNG.integers(0, 10, 9)
MODEL = ResNet(stage_sizes=(1, 1), widths=(3, 4), stochastic_depth=StochasticDepth(0.5))


@pytest.fixture(scope="module")
def variables(draw_variables):
    return draw_variables(MODEL, IMAGES)


@pytest.mark.quick
def test_filters_of_a_direction_are_as_long_as_the_networks(draw_variables):
    model = ResNet(stage_sizes=(3,), widths=(3,), scan=True)
    params = draw_variables(model, IMAGES)["params"]
    direction = analysis.filter_direction(3, params)
    assert jax.tree.map(np.shape, direction) == jax.tree.map(np.shape, params)
    own, drawn = (restack(tree, ()) for tree in (params, direction))
    for layer in (("stem", "conv"), ("stage_1", "block_3", "conv_2"), ("head", "linear")):
        kernels = []
        for tree in (own, drawn):
            for name in layer:
                tree = tree[name]
            kernels.append(np.asarray(tree["kernel"]))
        lengths = [np.sqrt(np.square(kernel).sum(tuple(range(kernel.ndim - 1)))) for kernel in kernels]
        np.testing.assert_allclose(*lengths, rtol=1e-5)
        assert abs(np.corrcoef(kernels[0].ravel(), kernels[1].ravel())[0, 1]) < 0.6
    assert not np.any(drawn["stage_1"]["block_2"]["norm_1"]["scale"]) and not np.any(drawn["head"]["linear"]["bias"])
    assert np.any(direction["stem"]["conv"]["kernel"] != analysis.filter_direction(4, params)["stem"]["conv"]["kernel"])


def test_the_surface_is_that_of_the_moved_networks(variables):
    """Two batches of four on two devices, with their own statistics; the last image is not read."""
    directions = [analysis.filter_direction(seed, variables["params"]) for seed in (0, 1)]
    points = np.array([[0.0, 0.0], [0.5, -0.2]])
    mesh = train.data_mesh(jax.devices()[:2])
    losses, errors = analysis.loss_surface(MODEL, variables, IMAGES, LABELS, directions, points, 4, mesh)
    quiet = MODEL.clone(stochastic_depth=None)
    apply = jax.jit(lambda variables, images: quiet.apply(variables, images, train=True, mutable=["batch_stats"]))
    for i, (a, b) in enumerate(points):
        moved = jax.tree.map(lambda leaf, x, y, a=a, b=b: leaf + a * x + b * y, variables["params"], *directions)
        expected = []
        for batch in (slice(4), slice(4, 8)):
            logits, _ = apply(variables | {"params": moved}, IMAGES[batch])
            logits = np.asarray(logits, np.float64)
            shifted = logits - logits.max(1, keepdims=True)
            log = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
            expected.append((-log[np.arange(4), LABELS[batch]].mean(), (log.argmax(1) != LABELS[batch]).mean()))
        np.testing.assert_allclose((losses[i], errors[i]), np.mean(expected, 0), rtol=1e-4)


@pytest.mark.quick
def test_wrong_input_is_named_and_noise_is_off():
    assert analysis.without_noise(create_model("wrn_16_1", dropout_rate=0.3)).dropout_rate == 0
    with pytest.raises(InputError, match=r"points: expected float \[P, 1\], got shape \(3, 2\)"):
        analysis.loss_surface(MODEL, {}, IMAGES, LABELS, [{}], np.zeros((3, 2)))
    with pytest.raises(InputError, match="expected as many labels as images, got 9 and 3"):
        analysis.loss_surface(MODEL, {}, IMAGES, LABELS[:3], [], np.zeros((3, 0)))
