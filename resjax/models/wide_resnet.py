"""Wide ResNet (Zagoruyko & Komodakis 2016, arXiv 1605.07146)."""

import functools
from typing import Any

import jax
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import ConvSpec, Gates, ResidualBlock, StageSpec
from resjax.models.inputs import check_choice, check_positive, check_rate
from resjax.models.network import ResidualNetwork

BLOCK_TYPES = ((3, 3), (3, 1, 3), (1, 3, 1), (1, 3), (3, 1), (3, 1, 1))


class WideResNet(ResidualNetwork):
    """WRN-d-k: C(3) 16, three groups of pre-activated blocks of widths 16k, 32k, 64k, BN ReLU, pooling, linear.

    Where the width changes, the first BN and ReLU of a block are shared and the shortcut is a 1x1 convolution of their
    result; elsewhere it is the raw input (figure 1).

    Fields of every network (`num_classes`, `dtype`, `stochastic_depth`, ...): see `Network` and `NormalizedNetwork`.
    The authors' Lua and PyTorch code draws kernels by fan-in and BN scales from U(0, 1), Torch7's default.

    Attributes:
      depth: d; 3x3 convolutions of the groups + 4, for blocks B(3,3).
      widening_factor: k.
      deepening_factor: l, 3x3 convolutions in a block B(3, .., 3); blocks per group N = (d - 4) / (3 l) (section 3.2).
      block_type: kernel sizes of a block, e.g. (3, 1, 3); N = (d - 4) / 6 whatever their number, which alone gives
        the counts of the paper's table 2. None means l convolutions of 3x3.
      dropout_rate: dropout inside the branch, after the ReLU before every convolution but the first (section 3.4).
    """

    depth: int = 28
    widening_factor: int = 10
    deepening_factor: int = 2
    block_type: tuple[int, ...] | None = None
    dropout_rate: float = 0.0
    kernel_init: Any = "he_normal_fan_in"
    norm_scale_init: Any = "uniform"

    def __post_init__(self):
        check_positive("depth", self.depth)
        check_positive("widening_factor", self.widening_factor)
        check_choice("deepening_factor", self.deepening_factor, (1, 2, 3, 4))
        check_rate("dropout_rate", self.dropout_rate)
        if self.block_type is not None:
            check_choice("block_type", tuple(self.block_type), BLOCK_TYPES)
            if self.deepening_factor != 2:
                raise InputError(
                    "block_type and deepening_factor: choose one; block_type fixes the convolutions itself"
                )
        per_block = 3 * self.deepening_factor
        if self.depth <= 4 or (self.depth - 4) % per_block:
            below = max(4 + per_block, self.depth - (self.depth - 4) % per_block)
            raise InputError(
                f"depth: expected {per_block} n + 4 for n >= 1 with deepening_factor {self.deepening_factor},"
                f" got {self.depth}; nearest are {below} and {below + per_block}"
            )
        super().__post_init__()

    @property
    def blocks_per_group(self) -> int:
        """N of the paper."""
        return (self.depth - 4) // (3 * self.deepening_factor)

    @property
    def num_blocks(self) -> int:
        """Number of residual blocks, the length of a gate array."""
        return 3 * self.blocks_per_group

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The groups' outputs by name, [N, H', W', C'] each; "final" is what the classifier pools."""
        if train and self.dropout_rate > 0:
            self.require_key(f"dropout_rate={self.dropout_rate}")
        x = self.make_stem(16, activate=False)(images, train)
        return self.activate_last(self.run_stages(x, self.stages(), train, gates), train)

    @nn.nowrap
    def stages(self) -> list[StageSpec]:
        """What the groups consist of."""
        conv, norm = self.conv_and_norm()
        kernel_sizes = self.block_type or (3,) * self.deepening_factor
        rates = (0.0,) + (self.dropout_rate,) * (len(kernel_sizes) - 1)
        stages = []
        for i, base in enumerate((16, 32, 64)):
            convs = tuple(
                ConvSpec(size, base * self.widening_factor, strided=j == 0, dropout_rate=rate)
                for j, (size, rate) in enumerate(zip(kernel_sizes, rates, strict=True))
            )
            block = functools.partial(
                ResidualBlock, conv, norm, convs=convs, order="full_pre_activation", activate_first="shape"
            )
            stages.append(StageSpec(functools.partial(block, strides=1 if i == 0 else 2), block, self.blocks_per_group))
        return stages
