"""The nonlinearities."""

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0) elementwise, with gradient 0 at 0; NaN stays NaN.

    The gradient reads the output, which the next convolution keeps for its own, so that nobody has to keep x.
    """
    # Written as a maximum a GPU's convolution takes it along, with the addition before.
    return lax.platform_dependent(x, tpu=_largest, cuda=_largest, rocm=_largest, default=_chosen)


def positive_part(x: jax.Array) -> jax.Array:
    """The value of `relu`, for what computes it with BN.

    Except on a TPU it is written as a choice: XLA takes a maximum with a constant for an operation cheap enough to
    repeat, and on a CPU every reader of a block's output repeats it, with the additions of all the blocks before. On a
    TPU the convolutions that read it shall do so, and nothing is written down between BN and them.
    """
    return lax.platform_dependent(x, tpu=_largest, default=_chosen)


def _largest(x):
    return jnp.maximum(x, jnp.zeros((), x.dtype))


def _chosen(x):
    return jnp.where(x <= 0, jnp.zeros((), x.dtype), x)


@relu.defjvp
def _relu_tangent(primals, tangents):
    (x,), (dx,) = primals, tangents
    y = relu(x)
    return y, jnp.where(y <= 0, jnp.zeros((), dx.dtype), dx)


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function of x, elementwise (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""
    return jax.nn.gelu(x, approximate=False)
