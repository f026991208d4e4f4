"""The CPU's form of normalisation equals the plain one: value, moments and all gradients, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import train
from resjax.layers.norm_forms import normalize_cpu, normalize_plain
from resjax.train.collectives import collectives

EPSILON = 1e-3


def _arrays(shape, dtype, mean):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    x = mean + draw(*shape) * jnp.arange(1, shape[-1] + 1, dtype=dtype) + draw(shape[-1])
    return (x, draw(shape[-1]), draw(shape[-1])), draw


def _value_and_gradients(normalize, arguments, weights):
    """y, mean, var, and the gradients of a sum that weighs every element of all three by a number of its own."""

    def loss(*arguments):
        results = normalize(*arguments)
        return sum((w * result).sum() for w, result in zip(weights, results, strict=True)), results

    gradients, results = jax.grad(loss, (0, 1, 2), has_aux=True)(*arguments)
    return *results, *gradients


@pytest.mark.quick
@pytest.mark.parametrize("devices", [None, 1, 2, 8])
@pytest.mark.parametrize("shape", [(8, 9, 4, 6), (16, 1, 1, 3), (2, 4, 8, 8, 5)])
def test_forms_agree_in_float64(float64, devices, shape):
    """`None`: no mesh is known. Five axes are groups with statistics of their own."""
    with float64():
        arguments, draw = _arrays(shape, jnp.float64, mean=3)
        moments = (*shape[:-4], 1, 1, 1, shape[-1])
        weights = draw(*shape), draw(*moments), draw(*moments)
        mesh = devices and train.data_mesh(jax.devices()[:devices])
        if mesh and len(shape) == 4:
            split, whole = train.batch_sharding(mesh), train.replicated(mesh)
            arguments, weights = (jax.device_put(a, (split, whole, whole)) for a in (arguments, weights))
        fast = jax.jit(lambda a, w: _value_and_gradients(lambda *a: normalize_cpu(*a, EPSILON, mesh or None), a, w))
        plain = jax.jit(lambda a, w: _value_and_gradients(lambda *a: normalize_plain(*a, EPSILON), a, w))
        for ours, expected in zip(fast(arguments, weights), plain(arguments, weights), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_one_pass_keeps_the_digits_of_the_variance(mean):
    """Also where the rows from which it is measured are unlike the rest: all of them are brighter."""
    (x, *_), _ = _arrays((8, 32, 8, 4), jnp.float32, mean)
    x = x.at[:, ::8].add(50)
    var = jax.jit(lambda x: normalize_cpu(x, jnp.ones(4), jnp.zeros(4), EPSILON)[2])(x)
    np.testing.assert_allclose(var.reshape(4), np.asarray(x, np.float64).var((0, 1, 2)), rtol=1e-5)


def test_a_layer_on_its_own_devices_sends_one_message_each_way():
    """Two sums, of which the backward one also holds the gradients of scale and bias."""
    mesh = train.data_mesh(jax.devices()[:2])
    arguments, draw = _arrays((8, 8, 8, 4), jnp.float32, 0)
    split, whole = train.batch_sharding(mesh), train.replicated(mesh)
    arguments, dy = jax.device_put(arguments, (split, whole, whole)), jax.device_put(draw(8, 8, 8, 4), split)

    @jax.jit
    def gradients(arguments, dy):
        y, vjp = jax.vjp(lambda *a: normalize_cpu(*a, EPSILON, mesh)[0], *arguments)
        return y, vjp(dy)

    found = collectives(gradients.lower(arguments, dy).compile())
    assert [(collective.kind, collective.times) for collective in found] == [("all-reduce", 1)] * 2
