"""Shortcuts: how a block's input reaches its output if the shape changes, and variants that scale, gate or drop it."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers.cpu.conv import every_nth_pixel


def subsample_and_pad(x: jax.Array, features: int, strides: int) -> jax.Array:
    """Option A: every `strides`-th pixel and zero channels appended; no parameters. x [N, H, W, C], features >= C.

    He et al. 2015, arXiv 1512.03385, section 3.3.
    """
    return _append_zeros(every_nth_pixel(x, strides), features)


def average_and_pad(x: jax.Array, features: int, strides: int) -> jax.Array:
    """The mean of each window of `strides` x `strides` and zero channels appended; no parameters.

    Huang et al. 2016, arXiv 1603.09382, code: 2x2 average pooling where the resolution halves.
    """
    window = (strides, strides)
    # A window over the edge averages the pixels that it has, so that odd sizes halve as those of a convolution do.
    # Of a size that is a symbol as many as may be needed: a window that begins outside is none.
    pads = [(0, -size % strides if isinstance(size, int) else strides - 1) for size in x.shape[1:3]]
    return _append_zeros(nn.avg_pool(x, window, window, pads, count_include_pad=False), features)


def _append_zeros(x, features):
    if features < x.shape[-1]:
        raise InputError(
            f"a shortcut that appends zero channels cannot go from {x.shape[-1]} to {features}: use shortcut B or C"
        )
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))


@dataclasses.dataclass(frozen=True)
class ConstantScaling:
    """shortcut * `shortcut` + branch * `branch` (He et al. 2016, arXiv 1603.05027, section 3.1).

    Attributes:
      shortcut: constant factor of every shortcut.
      branch: constant factor of every branch.
    """

    shortcut: float = 0.5
    branch: float = 0.5


@dataclasses.dataclass(frozen=True)
class DepthScaling:
    """shortcut + factor * L**-exponent * branch, in a network of L residual blocks.

    1 / sqrt(L) keeps the stream and its changes in a step of training of one size at any depth, so that the best
    learning rate stays (Bordelon et al. 2023, arXiv 2309.16620, section 1). Their networks have the scaling of muP over
    width beside it, which is not part of this.

    Attributes:
      exponent: 0.5 for 1 / sqrt(L); 0 is a factor that is equal at all depths.
      factor: of every branch.
    """

    exponent: float = 0.5
    factor: float = 1.0

    def at(self, num_blocks: int) -> ConstantScaling:
        """The factors of a network of `num_blocks` blocks.

        Example:
          >>> resjax.DepthScaling().at(64)
          ConstantScaling(shortcut=1.0, branch=0.125)
        """
        return ConstantScaling(1.0, self.factor * num_blocks**-self.exponent)


@dataclasses.dataclass(frozen=True)
class Gating:
    """(1 - g) * shortcut + branch * (g if exclusive else 1), with g = sigmoid(1x1 convolution of x + bias).

    He et al. 2016, arXiv 1603.05027, section 3.1: exclusive and shortcut-only gating.

    Attributes:
      exclusive: whether gates multiply the branch, too, or the shortcut only.
      bias_init: initial b_g; the paper searched 0 .. -10.
    """

    exclusive: bool = True
    bias_init: float = -6.0


@dataclasses.dataclass(frozen=True)
class LearnedScaling:
    """shortcut + a * branch, with a trained number a for each block, `branch_factor`.

    With a = 0 at first, a block starts as its shortcut at any depth: ReZero (Bachlechner et al. 2020, arXiv 2003.04887,
    section 3), and with normalization "none" SkipInit (De & Smith 2020, arXiv 2002.10444, section 4).

    Attributes:
      factor_init: initial a.
    """

    factor_init: float = 0.0


@dataclasses.dataclass(frozen=True)
class ShortcutDropout:
    """Dropout of the shortcut's output (He et al. 2016, arXiv 1603.05027, section 3.1).

    Attributes:
      rate: fraction of the shortcut's output that is dropped in training.
    """

    rate: float = 0.5

    def __post_init__(self):
        if not 0 <= self.rate < 1:
            raise InputError(f"ShortcutDropout: expected a rate in [0, 1), got {self.rate!r}")


ShortcutVariant = ConstantScaling | DepthScaling | Gating | LearnedScaling | ShortcutDropout
"""The changes of identity shortcuts in table 1 of He et al. 2016, whose 1x1 convolution is shortcut "C", and others."""
