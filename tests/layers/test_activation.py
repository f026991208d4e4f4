"""ReLU: values and gradients at the points that matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.layers import relu


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients(dtype):
    x = jnp.asarray([-np.inf, -2.0, -0.0, 0.0, 3.0, np.inf], dtype)
    y, gradient = jax.vmap(jax.value_and_grad(relu))(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(np.float32(y), [0, 0, 0, 0, 3, np.inf])
    np.testing.assert_array_equal(np.float32(gradient), [0, 0, 0, 0, 1, 1])


def test_nan_is_not_hidden():
    assert np.isnan(relu(jnp.float32(np.nan)))
