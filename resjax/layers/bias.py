"""What stands in the place of a normalisation in networks without one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.layers.conv import Product


class Bias(nn.Module):
    """A trained bias, 0 at first, and a nonlinearity; called as `BatchNorm` is.

    Attributes:
      shared: whether it is one number for all channels, as Fixup has (Zhang et al. 2019, arXiv 1901.09321, section 3),
        or one for each, as convolutions have without BN.
      dtype: dtype of the result; the parameter is float32.
    """

    shared: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array | Product,
        train: bool,
        activation: Callable[[jax.Array], jax.Array] | None = None,
        pool: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        """Maps x [N, H, W, C] to pool(activation(x + bias)); training and evaluation are alike."""
        if isinstance(x, Product):
            x = x.computed()
        bias = self.param("bias", nn.initializers.zeros, () if self.shared else x.shape[-1:], jnp.float32)
        y = x.astype(self.dtype) + bias.astype(self.dtype)
        y = y if activation is None else activation(y)
        return y if pool is None else pool(y)
