"""Max-pooling against flax's, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resjax.layers import max_pool, max_pool_halved, plain_convolutions


def plain(x):
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def plain_halved(x):
    return nn.max_pool(x, (2, 2), (2, 2))


BOTH = pytest.mark.parametrize(("pool", "plain"), [(max_pool, plain), (max_pool_halved, plain_halved)])


def value_and_gradient(pool, x):
    y, pull = jax.vjp(pool, x)
    (dx,) = pull(jnp.arange(1, y.size + 1, dtype=y.dtype).reshape(y.shape))
    return y, dx


@BOTH
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2), (2, 1), (6, 5)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_those_of_a_window(pool, plain, size, dtype):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(dtype)
    for found, wanted in zip(value_and_gradient(pool, x), value_and_gradient(plain, x), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@BOTH
def test_of_equal_values_the_first_takes_the_gradient(pool, plain):
    x = np.random.default_rng(0).integers(0, 2, (4, 9, 8, 5)).astype(np.float32)
    for found, wanted in zip(value_and_gradient(pool, x), value_and_gradient(plain, x), strict=True):
        np.testing.assert_array_equal(found, wanted)


@BOTH
def test_nan_stays_nan(pool, plain):
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 2)).astype(np.float32)
    x[0, 3, 3, 0] = np.nan
    for y in (pool(x), value_and_gradient(pool, x)[0]):
        np.testing.assert_array_equal(np.isnan(y), np.isnan(plain(x)))
        assert np.isnan(y).any()


@BOTH
def test_plain_convolutions_pool_as_xla_does(pool, plain):
    x = jnp.zeros((1, 4, 4, 1))
    with plain_convolutions():
        assert "reduce_window_max" in str(jax.make_jaxpr(lambda x: pool(x))(x))
    assert "reduce_window_max" not in str(jax.make_jaxpr(lambda x: pool(x))(x))
