"""Batch normalisation against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import InputError, train
from resjax.layers import MOMENTS, BatchNorm, empty_moments

EPSILON, MOMENTUM = 1e-3, 0.7


def _variables(channels, seed=0):
    """Random parameters and running statistics, so that none of them can be left out unseen."""
    rng = np.random.default_rng(seed)
    draw = lambda low, high: rng.uniform(low, high, channels).astype(np.float32)  # noqa: E731
    return {
        "params": {"scale": draw(0.5, 2), "bias": draw(-1, 1)},
        "batch_stats": {"mean": draw(-1, 1), "var": draw(0.5, 2)},
    }


def _images(shape=(3, 5, 4, 6), mean=0.5, std=2.0, seed=1):
    rng = np.random.default_rng(seed)
    offsets = rng.normal(size=shape[-1])  # each channel has its own mean
    return (mean + offsets + std * rng.normal(size=shape)).astype(np.float32)


def _normalise(x, mean, var, params):
    return (x - mean) / np.sqrt(var + EPSILON) * params["scale"] + params["bias"]


def _train(layer, variables, x):
    return jax.jit(lambda variables, x: layer.apply(variables, x, True, mutable=["batch_stats"]))(variables, x)


@pytest.mark.quick
@pytest.mark.parametrize("unbiased", [True, False])
def test_training_normalises_by_the_batch_and_moves_the_running_statistics(unbiased):
    """`momentum` weighs the old value; the stored variance has n - 1 or n below, the normalising one always n."""
    x, variables = _images(), _variables(6)
    layer = BatchNorm(momentum=MOMENTUM, epsilon=EPSILON, unbiased_running_variance=unbiased)
    y, new = _train(layer, variables, x)
    exact, old = x.astype(np.float64), variables["batch_stats"]
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    np.testing.assert_allclose(y, _normalise(exact, mean, var, variables["params"]), atol=3e-6)
    stored = exact.var((0, 1, 2), ddof=1 if unbiased else 0)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.7 * old["mean"] + 0.3 * mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.7 * old["var"] + 0.3 * stored, rtol=1e-6)


@pytest.mark.quick
def test_a_large_mean_costs_no_digits_of_the_variance():
    """Mean 1e4, standard deviation 1: E[x^2] - E[x]^2 in float32 would be off by up to 16."""
    x, variables = _images((8, 32, 32, 4), mean=1e4, std=1.0), _variables(4)
    y, new = _train(BatchNorm(momentum=0.0, epsilon=EPSILON, unbiased_running_variance=False), variables, x)
    exact = x.astype(np.float64)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    np.testing.assert_allclose(new["batch_stats"]["var"], var, rtol=2e-5)
    # The mean itself is rounded to float32, whose spacing at 1e4 is 1e-3.
    np.testing.assert_allclose(y, _normalise(exact, mean, var, variables["params"]), atol=4e-3)


def test_evaluation_normalises_by_the_running_statistics_alone():
    x, variables = _images(), _variables(6)
    layer = BatchNorm(epsilon=EPSILON)
    y, new = jax.jit(lambda x: layer.apply(variables, x, False, mutable=["batch_stats"]))(x)
    stats = variables["batch_stats"]
    expected = _normalise(x.astype(np.float64), stats["mean"], stats["var"], variables["params"])
    np.testing.assert_allclose(y, expected, atol=3e-6)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], stats)
    np.testing.assert_allclose(layer.apply(variables, x[:1], False), y[:1], atol=1e-6)  # an image stands alone


@pytest.mark.quick
@pytest.mark.parametrize("mean", [0.5, 100.0])
def test_gradients_are_the_papers(mean):
    """Ioffe & Szegedy 2015, section 3: with g = dy scale, dx = (g - mean(g) - xhat mean(g xhat)) / sqrt(var + eps)."""
    x, variables = _images(mean=mean), _variables(6)
    dy = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    layer = BatchNorm(epsilon=EPSILON)

    @jax.jit
    def gradients(params, x):
        def output(params, x):
            return layer.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])[0]

        return jax.vjp(output, params, x)[1](dy)

    got_params, got_x = gradients(variables["params"], x)
    exact, axes = x.astype(np.float64), (0, 1, 2)
    inverse = 1 / np.sqrt(exact.var(axes) + EPSILON)
    xhat, g = (exact - exact.mean(axes)) * inverse, dy * variables["params"]["scale"].astype(np.float64)
    expected = (g - g.mean(axes) - xhat * (g * xhat).mean(axes)) * inverse
    np.testing.assert_allclose(got_x, expected, atol=2e-5)
    np.testing.assert_allclose(got_params["scale"], (dy * xhat).sum(axes), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(got_params["bias"], dy.astype(np.float64).sum(axes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_initialisation_does_not_move_the_running_statistics(train):
    variables = jax.jit(BatchNorm().init, static_argnums=2)(jax.random.key(0), _images(), train)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(6))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(6))
    np.testing.assert_array_equal(variables["params"]["scale"], np.ones(6))
    np.testing.assert_array_equal(variables["params"]["bias"], np.zeros(6))


@pytest.mark.quick
def test_training_without_mutable_statistics_says_how():
    with pytest.raises(InputError, match=r"mutable=\['batch_stats'\]"):
        BatchNorm().apply(_variables(6), _images(), True)


def test_bfloat16_input_keeps_float32_statistics():
    """The statistics are those of the rounded input in full precision; only the result is rounded."""
    x, variables = jnp.asarray(_images((4, 16, 16, 6), mean=20.0, std=0.5), jnp.bfloat16), _variables(6)
    layer = BatchNorm(momentum=0.0, epsilon=EPSILON, unbiased_running_variance=False, dtype=jnp.bfloat16)
    y, new = _train(layer, variables, x)
    exact = np.asarray(x, np.float64)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    assert y.dtype == jnp.bfloat16
    assert {array.dtype for array in jax.tree.leaves(new)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(new["batch_stats"]["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], var, rtol=1e-4)
    np.testing.assert_allclose(
        np.asarray(y, np.float64), _normalise(exact, mean, var, variables["params"]), rtol=2**-8, atol=1e-3
    )


def test_one_value_per_channel_stays_finite():
    """n = 1: there is no unbiased variance; the stored one is the biased one, 0."""
    _, new = _train(BatchNorm(momentum=0.0), _variables(6), _images((1, 1, 1, 6)))
    np.testing.assert_array_equal(new["batch_stats"]["var"], np.zeros(6))


@pytest.mark.quick
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_ghost_batches_normalise_on_their_own_and_move_the_statistics_together_on_any_number_of_devices(devices):
    """Groups of 4 images: also where a device holds 2 of them. The stored variance holds the spread of their means."""
    x, variables = _images((16, 5, 4, 6)), _variables(6)
    x += np.arange(4, dtype=np.float32).repeat(4)[:, None, None, None]  # groups of different means
    layer = BatchNorm(momentum=MOMENTUM, epsilon=EPSILON, norm_scope=4)
    mesh = train.data_mesh(jax.devices()[:devices])
    variables = jax.device_put(variables, train.replicated(mesh))
    y, new = _train(layer, variables, jax.device_put(x, train.batch_sharding(mesh)))
    exact, old = x.astype(np.float64), variables["batch_stats"]
    for group in range(4):
        part = slice(4 * group, 4 * group + 4)
        mean, var = exact[part].mean((0, 1, 2)), exact[part].var((0, 1, 2))
        np.testing.assert_allclose(y[part], _normalise(exact[part], mean, var, variables["params"]), atol=3e-6)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.7 * old["mean"] + 0.3 * mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.7 * old["var"] + 0.3 * var, rtol=2e-6)


@pytest.mark.quick
def test_calls_that_share_moments_move_the_running_statistics_as_one_call_with_all_images():
    x, variables = _images((12, 5, 4, 6)), _variables(6)
    x += np.arange(3, dtype=np.float32).repeat(4)[:, None, None, None]
    layer = BatchNorm(momentum=MOMENTUM, epsilon=EPSILON)
    _, whole = _train(layer, variables, x)
    stats, moments = variables["batch_stats"], empty_moments(variables["batch_stats"])
    for part in np.split(x, 3):
        shared = {"params": variables["params"], "batch_stats": stats, MOMENTS: moments}
        y, new = layer.apply(shared, part, True, mutable=["batch_stats", MOMENTS])
        np.testing.assert_allclose(y, layer.apply(variables, part, True, mutable=["batch_stats"])[0], atol=1e-6)
        stats, moments = new["batch_stats"], new[MOMENTS]
    for name in ("mean", "var"):
        np.testing.assert_allclose(stats[name], whole["batch_stats"][name], rtol=2e-6, atol=1e-6)


def test_a_batch_that_groups_do_not_divide_is_refused():
    with pytest.raises(InputError, match="norm_scope 4: a batch of 3 images"):
        BatchNorm(norm_scope=4).apply(_variables(6), _images(), True, mutable=["batch_stats"])
