"""Batch normalisation against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resjax import InputError, train
from resjax.layers import MOMENTS, BatchNorm, empty_moments, max_pool, relu, split_batch
from resjax.train import batch_sharding, data_mesh

EPSILON, MOMENTUM = 1e-3, 0.7
AXES = (0, 1, 2)


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
@given(
    shape=st.sampled_from([(16, 5, 4, 6), (16, 1, 7, 3), (8, 8, 8, 1)]),
    mean=st.sampled_from([0.5, 100.0]),
    momentum=st.sampled_from([0.0, 0.7, 0.9]),
    unbiased=st.booleans(),
    scope=st.sampled_from(["global", 4]),
    devices=st.sampled_from([1, 2, 8]),
)
@example(shape=(16, 5, 4, 6), mean=0.5, momentum=0.7, unbiased=True, scope=4, devices=8)  # devices hold half a group
@example(shape=(16, 5, 4, 6), mean=0.5, momentum=0.7, unbiased=False, scope="global", devices=1)
def test_training_is_the_papers_on_any_number_of_devices(shape, mean, momentum, unbiased, scope, devices):
    """Value, gradients (Ioffe & Szegedy 2015, section 3) and running statistics.

    Groups of a ghost batch normalise on their own, and move the statistics together: the stored variance holds the
    spread of their means. `momentum` weighs the old value; the stored variance has n - 1 or n below, the other n.
    """
    x, variables = _images(shape, mean), _variables(shape[-1])
    x += np.arange(len(x) // 4, dtype=np.float32).repeat(4)[:, None, None, None]  # groups of different means
    variables["batch_stats"]["mean"] += np.float32(mean)  # from which the spread of those means is measured
    dy = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    layer = BatchNorm(momentum=momentum, epsilon=EPSILON, unbiased_running_variance=unbiased, norm_scope=scope)
    mesh = train.data_mesh(jax.devices()[:devices])

    @jax.jit
    def run(variables, x, dy):
        def output(params, x):
            return layer.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])

        y, pull, new = jax.vjp(output, variables["params"], x, has_aux=True)
        return y, new["batch_stats"], *pull(dy)

    split, whole = train.batch_sharding(mesh), train.replicated(mesh)
    y, stored, got_params, got_x = run(*jax.device_put((variables, x, dy), (whole, split, split)))

    exact, old, params = x.astype(np.float64), variables["batch_stats"], variables["params"]
    scale = params["scale"].astype(np.float64)
    xhats, dxs = [], []
    size = len(x) if scope == "global" else scope
    for part, part_dy in zip(exact.reshape(-1, size, *shape[1:]), dy.reshape(-1, size, *shape[1:]), strict=True):
        inverse = 1 / np.sqrt(part.var(AXES) + EPSILON)
        xhat, g = (part - part.mean(AXES)) * inverse, part_dy * scale
        xhats.append(xhat)
        dxs.append((g - g.mean(AXES) - xhat * (g * xhat).mean(AXES)) * inverse)
    xhat = np.concatenate(xhats)
    # float32's spacing at the mean, over the standard deviation of 2.
    np.testing.assert_allclose(y, xhat * scale + params["bias"], atol=1e-5 if mean < 1 else 1e-4)
    np.testing.assert_allclose(got_x, np.concatenate(dxs), atol=2e-5)
    np.testing.assert_allclose(got_params["scale"], (dy * xhat).sum(AXES), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(got_params["bias"], dy.astype(np.float64).sum(AXES), rtol=1e-5, atol=1e-5)
    batch = {"mean": exact.mean(AXES), "var": exact.var(AXES, ddof=int(unbiased))}
    for name, value in batch.items():
        wanted = momentum * old[name] + (1 - momentum) * value
        np.testing.assert_allclose(stored[name], wanted, rtol=2e-6, atol=1e-6)


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


@pytest.mark.parametrize("activation", [relu, None, jnp.tanh], ids=["relu", "linear", "another"])
@pytest.mark.parametrize("scope", ["global", 2])
def test_pooling_that_comes_along_is_pooling_behind_it(activation, scope):
    """Value, running statistics and all gradients, also where a negative scale turns the order of pixels round."""
    x, variables = _images((4, 7, 6, 6)), _variables(6)
    variables["params"]["scale"] *= np.resize([1, -1], 6).astype(np.float32)
    layer = BatchNorm(momentum=MOMENTUM, epsilon=EPSILON, norm_scope=scope)

    def run(params, x, dy, along):
        def apply(params, x):
            variables_ = {"params": params, "batch_stats": variables["batch_stats"]}
            if along:
                return layer.apply(variables_, x, True, activation, max_pool, mutable=["batch_stats"])
            y, new = layer.apply(variables_, x, True, activation, mutable=["batch_stats"])
            return max_pool(y), new

        y, pull, new = jax.vjp(apply, params, x, has_aux=True)
        return y, new, pull(dy)

    run = jax.jit(run, static_argnums=3)
    dy = _images((4, 4, 3, 6), seed=2)
    for ours, plain in zip(
        *(jax.tree.leaves(run(variables["params"], x, dy, along)) for along in (True, False)), strict=True
    ):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("scope", "devices"), [("global", 1), ("global", 2), (2, 1)])
def test_several_arrays_are_normalised_as_the_joined_one(train, scope, devices):
    """Value, statistics and gradients, of a norm that takes the moments of the first array from the norm before it."""
    x, split = _images((4, 5, 4, 9)), (4, 7)
    dy = _images((4, 5, 4, 13), seed=2)  # of the results of both norms: 4 channels and 9
    first, second = _variables(4), _variables(9, seed=1)
    layer = BatchNorm(epsilon=EPSILON, norm_scope=scope)
    mesh = data_mesh(jax.devices()[:devices])

    def apart(params, x):
        a, b, c = jnp.split(x, split, axis=-1)
        (y, moments), new = layer.apply({**first, "params": params[0]}, [a], train, relu, mutable=["batch_stats"])
        variables = {**second, "params": params[1]}
        (z, _), more = layer.apply(variables, [a, b, c], train, relu, moments=moments, mutable=["batch_stats"])
        return jnp.concatenate([y, z], -1), (new, more)

    def together(params, x):
        y, new = layer.apply({**first, "params": params[0]}, x[..., :4], train, relu, mutable=["batch_stats"])
        z, more = layer.apply({**second, "params": params[1]}, x, train, relu, mutable=["batch_stats"])
        return jnp.concatenate([y, z], -1), (new, more)

    def run(norms, params, x, dy):
        with split_batch(mesh):
            y, pull, new = jax.vjp(norms, params, x, has_aux=True)
        return y, new, pull(dy)

    params = (first["params"], second["params"])
    x, dy = jax.device_put((x, dy), batch_sharding(mesh))
    for ours, plain in zip(
        *(jax.tree.leaves(jax.jit(run, static_argnums=0)(norms, params, x, dy)) for norms in (apart, together)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)


def test_evaluation_normalises_by_the_running_statistics_alone():
    x, variables = _images(), _variables(6)
    layer = BatchNorm(epsilon=EPSILON)
    y, new = jax.jit(lambda x: layer.apply(variables, x, False, mutable=["batch_stats"]))(x)
    stats = variables["batch_stats"]
    expected = _normalise(x.astype(np.float64), stats["mean"], stats["var"], variables["params"])
    np.testing.assert_allclose(y, expected, atol=3e-6)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], stats)
    np.testing.assert_allclose(layer.apply(variables, x[:1], False), y[:1], atol=1e-6)  # an image stands alone


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


def test_a_single_value_in_a_channel_is_not_normalised_to_nothing():
    with pytest.raises(InputError, match=r"normalises each channel by the one value it has.*\(1, 1, 1, 6\): give more"):
        BatchNorm().apply(_variables(6), jnp.ones((1, 1, 1, 6)), True, mutable=["batch_stats"])


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
