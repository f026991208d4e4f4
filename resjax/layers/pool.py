"""Pooling with explicit, symmetric padding."""

import jax
from flax import linen as nn


def max_pool(x: jax.Array, size: int = 3, strides: int = 2) -> jax.Array:
    """The largest of each `size` x `size` window of x [N, H, W, C], padded by (size - 1) // 2 on each side.

    As Torch pads; XLA's `SAME` pads (0, 1) at stride 2 and is shifted by a pixel.
    """
    pads = ((size - 1) // 2,) * 2
    return nn.max_pool(x, (size, size), (strides, strides), (pads, pads))
