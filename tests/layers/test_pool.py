"""Max-pooling against a loop over windows in NumPy, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resjax.layers import max_pool, max_pool_halved, plain_convolutions

POOLS = {max_pool: (3, 1), max_pool_halved: (2, 0)}  # side of the window, padding; stride 2


def _reference(x, dy, side, padding):
    """The largest of each window, NaN where there is one; the first that is the value takes the gradient."""
    widths = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(x, widths, constant_values=-np.inf)
    dx, y = np.zeros_like(padded), np.zeros_like(dy)
    for n, i, j, c in np.ndindex(dy.shape):
        window = padded[n, 2 * i : 2 * i + side, 2 * j : 2 * j + side, c]
        row, column = np.unravel_index(window.argmax(), window.shape)
        y[n, i, j, c] = window[row, column]
        dx[n, 2 * i + row, 2 * j + column, c] += dy[n, i, j, c]
    return y, dx[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]


@jax.jit
def _value_and_gradient(x, dys):
    """Of both; the second has no windows on one row or column."""
    results = []
    for pool, dy in zip(POOLS, dys, strict=True):
        y, pull = jax.vjp(pool, x)
        results.append((y, *pull(dy)))
    return results


# Few values and whole cotangents: windows have equal elements, and sums are exact in every dtype and order.
SHAPES = st.tuples(st.sampled_from([1, 2]), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
IMAGES = SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=st.integers(-3, 3).map(np.float32)))


@given(x=IMAGES, dtype=st.sampled_from([jnp.float32, jnp.bfloat16]))
@example(np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype(np.float32), jnp.float32)
@example(np.random.default_rng(0).integers(0, 2, (4, 9, 8, 5)).astype(np.float32), jnp.bfloat16)
def test_values_and_gradients_are_those_of_the_windows(x, dtype):
    rng = np.random.default_rng(1)
    shapes = [jax.eval_shape(pool, x).shape for pool in POOLS]
    assert shapes == [
        (len(x), *((n + 2 * padding - side) // 2 + 1 for n in x.shape[1:3]), x.shape[3])
        for side, padding in POOLS.values()
    ]
    dys = [rng.integers(-8, 9, shape).astype(np.float32) for shape in shapes]
    found = _value_and_gradient(jnp.asarray(x, dtype), [jnp.asarray(dy, dtype) for dy in dys])
    for results, dy, (side, padding) in zip(found, dys, POOLS.values(), strict=True):
        for result, expected in zip(results, _reference(x, dy, side, padding), strict=True):
            assert result.dtype == dtype
            np.testing.assert_array_equal(np.asarray(result, np.float32), expected)


@pytest.mark.parametrize("pool", POOLS)
def test_nan_stays_nan(pool):
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 2)).astype(np.float32)
    x[0, 3, 3, 0] = np.nan
    side, padding = POOLS[pool]
    for y in (pool(x), jax.vjp(pool, x)[0]):
        expected, _ = _reference(x, np.zeros(y.shape, np.float32), side, padding)
        np.testing.assert_array_equal(y, expected)
        assert np.isnan(y).any()


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_is_xlas_on_a_tpu_and_under_plain_convolutions(pool):
    """Elsewhere it is not: neither its value nor its gradient."""

    def windows(platform):
        lowered = jax.jit(lambda x: jax.vjp(pool, x)[1](x[:, :2, :2])).trace(jnp.zeros((1, 4, 4, 1)))
        text = lowered.lower(lowering_platforms=(platform,)).as_text()
        return text.count("stablehlo.reduce_window"), text.count("stablehlo.select_and_scatter")

    assert windows("cpu") == windows("cuda") == (0, 0)
    assert windows("tpu")[1] == 1
    with plain_convolutions():
        assert windows("cpu") == windows("tpu")
