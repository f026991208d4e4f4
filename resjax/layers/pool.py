"""Pooling with explicit padding."""

import jax
from flax import linen as nn
from jax import lax

from resjax.layers.backend import faster_forms, placed_by_xla
from resjax.layers.cpu.pool import max_pool_halved_views, max_pool_views


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 3x3 window of x [N, H, W, C] at stride 2, padded by 1 on each side: [N, H', W', C].

    As Torch pads; XLA's `SAME` pads (0, 1) at stride 2 and is shifted by a pixel. Of equal values the first, row by
    row, takes the gradient. NaN stays NaN.
    """
    return _by_platform(x, max_pool_views, lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))))


def max_pool_halved(x: jax.Array) -> jax.Array:
    """The largest of each 2x2 window of x [N, H, W, C] at stride 2: [N, H // 2, W // 2, C].

    An odd last row or column is left out. Of equal values the first, row by row, takes the gradient. NaN stays NaN.
    """
    return _by_platform(x, max_pool_halved_views, lambda x: nn.max_pool(x, (2, 2), (2, 2)))


def _by_platform(x, views, plain):
    """views(x) where the program is lowered for a GPU or a CPU, plain(x) elsewhere.

    On a GPU, XLA's own gradient keeps four integers for each value of the result, and nothing fuses with it.
    """
    forms = {"cpu": views if faster_forms() else plain, "cuda": views, "rocm": views, "default": plain}
    return placed_by_xla(lambda x: lax.platform_dependent(x, **forms), x)
