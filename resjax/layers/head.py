"""The classifier after the last stage."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.layers.dropout import Dropout
from resjax.layers.initializers import initializer


class ClassifierHead(nn.Module):
    """Global average pooling and a linear layer, in float32 (float64 if x is) for any dtype before it.

    Attributes:
      num_classes: number of logits; 0 returns the pooled features.
      kernel_init: initialiser of the linear layer's weights, or its name.
      bias_init: initialiser of its bias, or its name; "torch_linear" is U(-1/sqrt(C), 1/sqrt(C)) as for the weights.
      dropout_rate: fraction of the pooled features dropped before the linear layer in training.
    """

    num_classes: int
    kernel_init: Any = "torch_linear"
    bias_init: Any = "zeros"
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [N, H, W, C] to logits [N, num_classes], or to features [N, C]; float32 or float64."""
        x = self.pooled(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
        if self.num_classes == 0:
            return x
        bias_init = initializer(self.bias_init)
        if self.bias_init == "torch_linear":  # a bias has no fan-in of its own
            bound = x.shape[-1] ** -0.5
            bias_init = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
        if self.dropout_rate > 0:
            x = Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        kernel_init = initializer(self.kernel_init)
        return nn.Dense(self.num_classes, kernel_init=kernel_init, bias_init=bias_init, name="linear")(x)

    @nn.nowrap
    def pooled(self, x: jax.Array) -> jax.Array:
        """The features [N, C] of x [N, H, W, C]."""
        return x.mean((1, 2))
