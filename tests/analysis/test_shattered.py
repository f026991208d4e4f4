"""Gradients at initialisation: derivatives against differences, statistics of noise, and the theorems' rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import InputError, analysis
from resjax.analysis import RandomNetwork


@pytest.mark.parametrize("residual", [False, True])
def test_derivatives_under_bn_are_those_of_each_output_alone(residual, in_float64):
    """Against central differences, one input moved at a time; the gradient of the sum is another thing."""
    network = RandomNetwork(3, width=7, residual=residual, batch_norm=True, branch_scale=0.5)
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)))

    @jax.jit
    def f(inputs):
        return network(jax.random.key(1), inputs)

    exact = analysis.input_derivatives(f, inputs, coupled=True)
    step = 1e-6
    for i, j in np.ndindex(6, 2):
        move = np.zeros((6, 2))
        move[i, j] = step
        np.testing.assert_allclose(exact[i, j], (f(inputs + move)[i] - f(inputs - move)[i]) / (2 * step), atol=1e-5)
    mixed = analysis.input_derivatives(f, inputs, coupled=False)
    np.testing.assert_allclose(mixed, jax.grad(lambda x: f(x).sum())(inputs))
    assert np.abs(mixed - exact).max() > 1e-2


@pytest.mark.quick
def test_without_bn_the_gradient_of_the_sum_is_each_ones():
    network = RandomNetwork(2, width=5, residual=True)
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    pair = [
        analysis.input_derivatives(lambda x: network(jax.random.key(0), x), inputs, coupled=c) for c in (True, False)
    ]
    np.testing.assert_allclose(*pair, rtol=1e-5)


@pytest.mark.quick
def test_a_residual_network_with_no_branch_is_linear():
    gradients = analysis.grid_derivatives(RandomNetwork(4, 6, residual=True, branch_scale=0.0), 0, 3, 9)
    assert gradients.shape == (3, 9)
    np.testing.assert_allclose(gradients, gradients[:, :1].repeat(9, 1), rtol=1e-5)
    inputs = np.random.default_rng(0).normal(size=(5, 4))
    correlations = analysis.data_correlations(RandomNetwork(4, 6, residual=True, branch_scale=0.0), 0, 3, inputs)
    np.testing.assert_allclose(correlations, np.ones(3), rtol=1e-5)


@pytest.mark.quick
def test_autocorrelation_and_covariance_of_noise():
    """White noise has none beyond lag 0; the covariance of brown noise at s, t is min(s, t)."""
    white, brown = analysis.white_noise(0, 4000, 32), analysis.brown_noise(0, 4000, 32)
    autocorrelation = analysis.autocorrelation(white, 6)
    np.testing.assert_allclose(autocorrelation, [1] + 5 * [0], atol=0.05)
    expected = [
        np.mean([np.sum((r - r.mean())[3:] * (r - r.mean())[:-3]) / np.sum((r - r.mean()) ** 2) for r in brown])
    ]
    np.testing.assert_allclose(analysis.autocorrelation(brown, 4)[3], expected[0])
    np.testing.assert_allclose(analysis.covariance(white), np.eye(32), atol=0.15)
    index = np.arange(1, 33)
    np.testing.assert_allclose(analysis.covariance(brown), np.minimum(index[:, None], index) / index.mean(), atol=0.15)


@pytest.mark.quick
def test_fits_find_the_rates_of_the_theorems():
    depths = np.array([2, 4, 10, 24, 50])
    plain = analysis.fit_decay(depths, 0.8 * 0.5**depths)
    assert plain.base == pytest.approx(0.5) and plain.exponential_residual < 1e-9 < plain.power_residual
    residual = analysis.fit_decay(depths, 0.8 * depths**-0.5)
    assert residual.power == pytest.approx(-0.5) and residual.power_residual < 1e-9 < residual.exponential_residual
    with pytest.raises(InputError, match="at least three positive"):
        analysis.fit_decay(depths, [0.1, 0.1, -1, 0, -1])
    with pytest.raises(InputError, match="depth, width: expected positive integers"):
        RandomNetwork(0)


def test_gradients_shatter_without_skips_and_not_with_them():
    """Theorems 1 and 3: 2^-L without skips, 1 / (beta sqrt(L)) with skips and BN."""
    inputs = np.random.default_rng(0).normal(size=(32, 48))

    def correlation(depth, **options):
        return analysis.data_correlations(RandomNetwork(depth, batch_norm=True, **options), 0, 4, inputs).mean()

    assert correlation(4) == pytest.approx(2**-4, rel=0.3)
    residual = [correlation(depth, residual=True) for depth in (3, 12)]
    assert residual[1] / residual[0] == pytest.approx(1 / 2, abs=0.1)
