"""Wide ResNet (Zagoruyko & Komodakis 2016, arXiv 1605.07146)."""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import BlockSpec, ConvSpec, Gates, Initializer, StageSpec
from resjax.models.checks import check_choice, check_positive, check_rate
from resjax.models.network import ResidualNetwork
from resjax.models.published import ZAGORUYKO_2016
from resjax.models.published.cifar import CIFAR_NETWORKS
from resjax.models.published.imagenet import IMAGENET_NETWORKS
from resjax.models.published.torch_names import WIDE_RESNET_NAMES
from resjax.models.registry import IMAGENET_SHAPE, NUMBER, register_model
from resjax.models.resnet import ResNet, imagenet_fields

BLOCK_TYPES = ((3, 3), (3, 1, 3), (1, 3, 1), (1, 3), (3, 1), (3, 1, 1))


class WideResNet(ResidualNetwork):
    """WRN-d-k: C(3) 16, three groups of pre-activated blocks of widths 16k, 32k, 64k, BN ReLU, pooling, linear.

    Where the width changes, the first BN and ReLU of a block are shared and the shortcut is a 1x1 convolution of their
    result; elsewhere it is the raw input (figure 1).

    Fields of every network (`num_classes`, `dtype`, `stochastic_depth`, ...): see `Network` and `NormalizedNetwork`.
    The authors' Lua and PyTorch code draws kernels by fan-in and BN scales from U(0, 1), Torch7's default.

    Attributes:
      depth: d; 3x3 convolutions of the groups + 4, for blocks B(3,3).
      widening_factor: k, factor of the widths 16, 32 and 64.
      deepening_factor: l, 3x3 convolutions in a block B(3, .., 3); blocks per group N = (d - 4) / (3 l) (section 3.2).
      block_type: kernel sizes of a block, e.g. (3, 1, 3). N = (d - 4) / 6 for any number of them: only this gives the
        counts of the paper's table 2. None means l convolutions of 3x3.
      dropout_rate: dropout inside the branch, after the ReLU before every convolution but the first (section 3.4).
    """

    depth: int = 28
    widening_factor: int = 10
    deepening_factor: int = 2
    block_type: tuple[int, ...] | None = None
    dropout_rate: float = 0.0
    kernel_init: Initializer = "he_normal_fan_in"
    norm_scale_init: Initializer = "uniform"
    stem_width = 16
    torch_names = WIDE_RESNET_NAMES

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

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The groups' outputs by name, [N, H', W', C'] each; "final" is what the classifier pools."""
        return self.stem_and_stages(images, train, gates, self.stem_width, activate_stem=False)

    @nn.nowrap
    def stages(self) -> list[StageSpec]:
        """The `BlockSpec`s of the groups."""
        kernel_sizes = self.block_type or (3,) * self.deepening_factor
        rates = (0.0,) + (self.dropout_rate,) * (len(kernel_sizes) - 1)
        stages = []
        for i, base in enumerate((16, 32, 64)):
            convs = tuple(
                ConvSpec(size, base * self.widening_factor, strided=j == 0, dropout_rate=rate)
                for j, (size, rate) in enumerate(zip(kernel_sizes, rates, strict=True))
            )
            block = BlockSpec(convs, order="full_pre_activation")
            changes_shape = i > 0 or self.widening_factor > 1
            first = dataclasses.replace(block, strides=1 if i == 0 else 2, shares_activation=changes_shape)
            stages.append(StageSpec(first, block, self.blocks_per_group))
        return stages


@register_model(
    "wrn_<6n+4>_<k>",
    f"wrn_(?!(?:50|101)_[1-9]$){NUMBER}_(0|[1-9][0-9]{{0,3}})",
    module=WideResNet,
    paper=ZAGORUYKO_2016,
    facts=CIFAR_NETWORKS,
)
def _cifar(depth: int, k: int) -> dict[str, Any]:
    if depth == 18:
        raise InputError(
            "depth: expected 6 n + 4 for n >= 1, got 18; nearest are 16 and 22; 18 layers for ImageNet are"
            " wrn_imagenet_18_<k>"
        )
    return {"depth": depth, "widening_factor": k}


@register_model(
    "wrn_<50|101>_<k>",
    "wrn_(50|101)_([1-9])",
    module=ResNet,
    paper=ZAGORUYKO_2016,
    input_shape=IMAGENET_SHAPE,
    facts=IMAGENET_NETWORKS,
)
def _bottlenecks(depth: int, k: int) -> dict[str, Any]:
    return imagenet_fields(depth, base_width=64 * k)


@register_model(
    "wrn_imagenet_<18|34>_<k>",
    r"wrn_imagenet_(18|34)_([1-9](?:\.5)?)",
    module=ResNet,
    paper=ZAGORUYKO_2016,
    input_shape=IMAGENET_SHAPE,
    facts=IMAGENET_NETWORKS,
)
def _basic_blocks(depth: int, k: int | str) -> dict[str, Any]:
    """Basic blocks are widened by k, the stem is not (section 3.3)."""
    widths = tuple(int(base * float(k)) for base in (64, 128, 256, 512))
    return imagenet_fields(depth, widths=widths, stem_width=64)
