"""Batch normalisation with every convention that papers and frameworks disagree on made explicit."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from resjax.errors import InputError
from resjax.layers.initializers import initializer


class BatchNorm(nn.Module):
    """Batch normalisation over N, H, W (Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm 1).

    Statistics are computed in float32 (float64 where x is), the variance in two passes: the
    one-pass E[x^2] - E[x]^2 loses its digits where the mean is large. Under `jit` over a sharded batch the statistics
    are those of the whole batch.

    Variables: params `scale`, `bias`; batch_stats `mean`, `var`; each [C], float32.

    Attributes:
      momentum: weight of the OLD running statistics in each update (0.9 here = 0.1 in Torch's convention).
      epsilon: added to the variance.
      unbiased_running_variance: store n / (n - 1) times the batch variance, as Torch does; False stores it biased.
      dtype: dtype of the result.
      scale_init: initialiser of `scale`, or its name in `INITIALIZERS`.
      frozen: normalise by the running statistics in training, too, and leave them as they are.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased_running_variance: bool = True
    dtype: Any = jnp.float32
    scale_init: Any = "ones"
    frozen: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises x [N, H, W, C] by batch statistics (train, unless they are frozen) or by running ones.

        Raises:
          InputError: with train=True where `batch_stats` is not mutable.
        """
        channels = (x.shape[-1],)
        scale = self.param("scale", initializer(self.scale_init), channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train and not self.frozen:
            if not self.is_mutable_collection("batch_stats"):
                raise InputError(
                    "train=True updates the running statistics: call apply(..., mutable=['batch_stats'])"
                    " and keep the variables it returns"
                )
            # The first mean carries the rounding of its sum, large where the mean is: measured from it, the second pass
            # takes that out again (Chan et al. 1983, Algorithms for Computing the Sample Variance).
            rough = lax.stop_gradient(x.mean((0, 1, 2)))
            shift = (x - rough).mean((0, 1, 2))
            mean = rough + shift
            var = jnp.square(x - rough).mean((0, 1, 2)) - jnp.square(shift)
            if not self.is_initializing():
                n = x.size // x.shape[-1]
                stored_var = var * (n / max(n - 1, 1)) if self.unbiased_running_variance else var
                for running, new in ((running_mean, mean), (running_var, stored_var)):
                    moved = self.momentum * running.value + (1 - self.momentum) * new
                    running.value = moved.astype(running.value.dtype)
        else:
            mean, var = running_mean.value, running_var.value
        return ((x - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.dtype)
