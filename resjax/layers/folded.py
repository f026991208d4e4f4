"""A 1x1 convolution and the BN behind it as one convolution, by statistics that are computed from its input.

The mean of x W over the pixels is mean(x) W, and its variance diag(W' cov(x) W). So both are known before the product,
where BN is a factor of W's columns and a bias. What is as wide as the product is written once, already normalised, and
is not kept for the gradient: that is a product with x, too. In the last convolution of a bottleneck, with four times
as many channels as x, this saves most of what BN reads and writes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from resjax.layers.conv import CONV_OUTPUT, conv2d
from resjax.layers.cpu.conv import every_nth_pixel
from resjax.layers.cpu.norm import MOMENTS_OF_BATCH, widened

_PIXELS = (0, 1, 2)


def folded(
    x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, *, strides: int, epsilon: float, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Batch normalisation of the 1x1 convolution of x [N, H, W, C_in] with `kernel` [1, 1, C_in, C].

    Args:
      x: images.
      kernel: float32; rounded to x's dtype only when it is multiplied by BN's factors.
      scale, bias: those of BN, [C].
      strides: stride along height and width.
      epsilon: added to the variance.
      dtype: dtype of the result.

    Returns:
      The normalised images [N, H', W', C]; and mean and biased variance of the convolution, [2, C], float32 (float64
      where x is).
    """
    x = every_nth_pixel(x, strides) if strides > 1 else x
    mean_in, covariance = _statistics(x)
    weights = kernel[0, 0].astype(mean_in.dtype)
    mean = _exact(mean_in, weights)
    var = jnp.maximum((weights * _exact(covariance, weights)).sum(0), 0)
    factor = lax.rsqrt(var + epsilon) * scale
    weights = (weights * factor).astype(x.dtype)
    y = checkpoint_name(conv2d(x, weights[None, None], 1, (0, 0)), CONV_OUTPUT)
    # The mean of what is multiplied, rounded weights and all.
    shift = bias - _exact(mean_in, weights.astype(mean_in.dtype))
    return _shifted(y, shift).astype(dtype), jnp.stack([mean, var])


def _exact(a, b):
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _statistics(x):
    """Mean [C] and covariance [C, C] of the pixels of x.

    The covariance is computed from differences to the mean, which costs a pass over x; of bfloat16, whose values have
    hardly more digits than that would save, from x itself.
    """
    mean = widened(x).mean(_PIXELS)
    if x.dtype == jnp.bfloat16:
        covariance = _second_moments(x) - jnp.outer(mean, mean)
    else:
        near = lax.stop_gradient(mean)
        covariance = _second_moments(x - near) - jnp.outer(mean - near, mean - near)
    return checkpoint_name(mean, MOMENTS_OF_BATCH), checkpoint_name(covariance, MOMENTS_OF_BATCH)


@jax.custom_jvp
def _second_moments(x):
    """The mean of the pixels' outer products, [C, C], in float32 (float64 where x is)."""
    return _products(x, x, widened(x).dtype) / _num_pixels(x)


@_second_moments.defjvp
def _tangents_of_second_moments(primals, tangents):
    # The gradient's factors are of x's dtype, as those of a convolution: it would write x down in float32 otherwise.
    (x,), (dx,) = primals, tangents
    half = widened(_products(dx, x, x.dtype)) / _num_pixels(x)
    return _second_moments(x), half + half.T


def _products(x, y, dtype):
    pixels = ((_PIXELS, _PIXELS), ((), ()))
    precision = None if x.dtype == jnp.bfloat16 else lax.Precision.HIGHEST
    return lax.dot_general(x, y, pixels, precision, preferred_element_type=dtype)


def _num_pixels(x):
    n, height, width, _ = x.shape
    return n * height * width


@jax.custom_jvp
def _shifted(y, shift):
    """y + shift in y's dtype, as a GPU's convolution adds it; the gradient's sums are those of float32."""
    return y + shift.astype(y.dtype)


@_shifted.defjvp
def _tangents_of_shifted(primals, tangents):
    (y, shift), (dy, dshift) = primals, tangents
    return _shifted(y, shift), (widened(dy) + dshift).astype(y.dtype)
