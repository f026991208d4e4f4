"""Both forms of normalisation against NumPy: value, moments and all gradients, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resjax import train
from resjax.layers.cpu.norm import moments_of, normalize, widened
from resjax.train.collectives import collectives

EPSILON = 1e-3


def _arrays(shape, dtype, mean):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    x = mean + draw(*shape) * jnp.arange(1, shape[-1] + 1, dtype=dtype) + draw(shape[-1])
    return (x, draw(shape[-1]), draw(shape[-1])), draw


def _run(arguments, rectified, mesh=None, own_on_cpu=True):
    """(y, mean and variance) of x, scale, bias."""
    x, scale, bias = arguments
    wide = widened(x)
    moments = moments_of(x, jnp.zeros(x.shape[-1]), mesh, own_on_cpu, wide)
    return normalize(x, moments, scale, bias, EPSILON, mesh, rectified, wide=wide), moments


def _reference(x, scale, bias, cotangents, rectified):
    """y, moments, and the gradients by x, scale, bias: Ioffe & Szegedy 2015, section 3, and those of the moments."""
    dy, (dmean, dvar) = cotangents
    axes = (-4, -3, -2)
    average = lambda a: a.mean(axes, keepdims=True)  # noqa: E731
    mean, var = average(x), x.var(axes, keepdims=True)
    inverse, n = 1 / np.sqrt(var + EPSILON), np.prod(x.shape[-4:-1])
    xhat = (x - mean) * inverse
    y = xhat * scale + bias
    if rectified:
        y, dy = np.maximum(y, 0), np.where(y > 0, dy, 0)
    g = dy * scale
    dx = (g - average(g) - xhat * average(g * xhat)) * inverse + dmean / n + dvar * 2 * (x - mean) / n
    others = tuple(range(x.ndim - 1))
    return y, np.stack([mean, var]), dx, (dy * xhat).sum(others), dy.sum(others)


@pytest.mark.quick
@given(
    devices=st.sampled_from([None, 1, 2, 8]),
    shape=st.sampled_from([(8, 9, 4, 6), (16, 1, 1, 3), (8, 1, 8, 7), (2, 4, 8, 8, 5)]),
    mean=st.sampled_from([0, 3]),
    rectified=st.booleans(),
)
@example(devices=8, shape=(8, 9, 4, 6), mean=3, rectified=False)
@example(devices=2, shape=(8, 9, 4, 6), mean=3, rectified=True)
def test_both_forms_are_the_papers_in_float64(float64, devices, shape, mean, rectified):
    """`None`: no mesh is known. Five axes are groups with statistics of their own."""
    with float64():
        arguments, draw = _arrays(shape, jnp.float64, mean)
        cotangents = draw(*shape), draw(2, *shape[:-4], 1, 1, 1, shape[-1])
        expected = _reference(*jax.tree.map(np.asarray, (*arguments, cotangents)), rectified)
        mesh = devices and train.data_mesh(jax.devices()[:devices])
        if mesh and len(shape) == 4:
            split, whole = train.batch_sharding(mesh), train.replicated(mesh)
            arguments, cotangents = jax.device_put((arguments, cotangents), ((split, whole, whole), (split, whole)))

        @jax.jit
        def both(arguments, cotangents):
            results = []
            for own_on_cpu in (True, False):
                run = lambda *a, own=own_on_cpu: _run(a, rectified, mesh or None, own)  # noqa: E731
                y, pull = jax.vjp(run, *arguments)
                results.append((*y, *pull(cotangents)))
            return results

        for found in both(arguments, cotangents):
            for ours, wanted in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("own_on_cpu", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_forms_are_the_papers_in_the_dtypes_that_networks_train_in(dtype, own_on_cpu):
    """Of the rounded images: all but their own gradient is in float32 whatever their dtype, which is rounded once."""
    (x, *others), draw = _arrays((16, 8, 8, 6), jnp.float32, 3)
    x, dy = x.astype(dtype), draw(16, 8, 8, 6)
    exact = [np.asarray(array, np.float64) for array in (x, *others)]
    dmoments = np.zeros((2, 1, 1, 1, 6))
    expected = _reference(*exact, (np.asarray(dy, np.float64), dmoments), rectified=True)
    run = lambda *a: _run(a, True, own_on_cpu=own_on_cpu)  # noqa: E731
    (y, moments), pull = jax.vjp(run, x, *others)
    found = y, moments, *pull((dy, jnp.float32(dmoments)))
    assert [array.dtype for array in found] == ["float32", "float32", dtype, "float32", "float32"]
    for i, (ours, wanted) in enumerate(zip(found, expected, strict=True)):
        rounding = 2.0**-8 if i == 2 and dtype == "bfloat16" else 0
        np.testing.assert_allclose(np.float64(ours), wanted, rtol=2e-5 + rounding, atol=2e-5 * np.abs(wanted).max())


def test_the_variance_of_bfloat16_in_one_pass_is_as_good_as_the_running_mean():
    """Near the batch's mean it is exact to float32; from zero, where networks start, it is to half of bfloat16."""
    rng = np.random.default_rng(0)
    variance = jax.jit(lambda x, near: moments_of(x, near, own_on_cpu=False)[1].reshape(4))
    for mean, near, tolerance in ((100, 99, 1e-4), (4, 0, 2.0**-8 / 2)):
        x = jnp.asarray(mean + rng.normal(size=(64, 16, 16, 4)), jnp.bfloat16)
        exact = np.asarray(x, np.float64).var((0, 1, 2))
        np.testing.assert_allclose(variance(x, jnp.full(4, near, jnp.float32)), exact, rtol=tolerance)


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_one_pass_keeps_the_digits_of_the_variance(mean):
    """Also where the rows from which it is measured are unlike the rest: all of them are brighter."""
    (x, *_), _ = _arrays((8, 32, 8, 4), jnp.float32, mean)
    x = x.at[:, ::8].add(50)
    var = jax.jit(lambda x: moments_of(x, jnp.zeros(4))[1])(x)
    # A sum of n numbers in any order is off by about sqrt(n) roundings (Higham 2002, section 4.2); three bits are lost.
    rtol = 8 * np.sqrt(x.size / 4) * 2.0**-24
    np.testing.assert_allclose(var.reshape(4), np.asarray(x, np.float64).var((0, 1, 2)), rtol=rtol)


def test_a_layer_on_its_own_devices_sends_one_message_each_way():
    """Two sums, of which the backward one also holds the gradients of scale and bias."""
    mesh = train.data_mesh(jax.devices()[:2])
    arguments, draw = _arrays((8, 8, 8, 4), jnp.float32, 0)
    split, whole = train.batch_sharding(mesh), train.replicated(mesh)
    arguments, dy = jax.device_put(arguments, (split, whole, whole)), jax.device_put(draw(8, 8, 8, 4), split)

    @jax.jit
    def gradients(arguments, dy):
        y, vjp = jax.vjp(lambda *a: _run(a, False, mesh)[0], *arguments)
        return y, vjp(dy)

    found = collectives(gradients.lower(arguments, dy).compile())
    assert [(collective.kind, collective.times) for collective in found] == [("all-reduce", 1)] * 2
