"""Wider ResNet-38 (Wu, Shen & van den Hengel 2016, Wider or Deeper, arXiv 1611.10080), from the authors' code."""

import dataclasses
from typing import Any, Literal

import jax
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import BlockSpec, ConvSpec, Gates, Initializer, StageSpec
from resjax.models.checks import check_choice, check_positive, check_rate
from resjax.models.dilation import StageGeometry, stage_geometries
from resjax.models.network import ResidualNetwork
from resjax.models.published import WU_2016
from resjax.models.published.imagenet import IMAGENET_NETWORKS
from resjax.models.registry import IMAGENET_SHAPE, register_model

_LEVELS = (2, 3, 4, 5, 6, 7)
# How a level halves the resolution: by max-pooling before it, or by the stride of its first block.
_POOLED = {"a": (2, 3, 4, 5, 6), "a1": (), "a2": (2, 3)}
_STRIDED = {"a": (), "a1": (2, 3, 4, 5, 6), "a2": (4, 5, 6)}
_HALVED = (2, 2, 2, 2, 2, 1)


class WiderResNet(ResidualNetwork):
    """Level 1: C(3) 64; levels 2 .. 7: pre-activated blocks, the first of each with a 1x1 projection; BN ReLU, linear.

    Level l is `stage_{l - 1}`. Fields of every network (`num_classes`, `dtype`, `stochastic_depth`, ...): see `Network`
    and `NormalizedNetwork`; the authors draw kernels by fan-in and the classifier with its bias from
    U(-1/sqrt(C), 1/sqrt(C)).

    Attributes:
      variant: "a", 3x3 max-pooling with stride 2 before levels 2 .. 6; "a1", stride 2 in the first convolution of those
        levels; "a2", pooling before levels 2 and 3, strides in levels 4 .. 6.
      stage_sizes: blocks of levels 2 .. 7.
      widths: channels of the convolutions of a block in levels 2 .. 7: two are 3x3, three 1x1, 3x3, 1x1.
      stem_width: channels of level 1.
      output_stride: 32, or 8 for dense prediction with the same variables: levels 5 and 6 keep the resolution. The 3x3
        convolutions are dilated by 2 in level 5, except its very first, and by 4 in levels 6 and 7. For "a1" and "a2",
        every fourth pixel is exactly that of the network of stride 32; not for "a", whose pooling is left out.
      dropout_rates: dropout before the last convolution of the blocks of levels 6 and 7; (0.3, 0.5) for segmentation.
    """

    variant: Literal["a", "a1", "a2"] = "a1"
    stage_sizes: tuple[int, ...] = (3, 3, 6, 3, 1, 1)
    widths: tuple[tuple[int, ...], ...] = (
        (128, 128),
        (256, 256),
        (512, 512),
        (512, 1024),
        (512, 1024, 2048),
        (1024, 2048, 4096),
    )
    stem_width: int = 64
    output_stride: Literal[8, 32] = 32
    dropout_rates: tuple[float, float] = (0.0, 0.0)
    norm_epsilon: float = 1.001e-5
    kernel_init: Initializer = "he_normal_fan_in"
    head_bias_init: Initializer = "torch_linear"
    dense_prediction = {"dropout_rates": (0.3, 0.5)}

    def __post_init__(self):
        for field in ("stage_sizes", "widths"):
            if len(getattr(self, field)) != len(_LEVELS):
                raise InputError(f"{field}: expected an entry for each of levels 2 .. 7, got {getattr(self, field)}")
        check_positive("stage_sizes", self.stage_sizes)
        check_positive("stem_width", self.stem_width)
        for widths in self.widths:
            check_positive("widths", widths)
            check_choice("convolutions of a block", len(widths), (2, 3))
        if len(self.dropout_rates) != 2:
            raise InputError(f"dropout_rates: expected those of levels 6 and 7, got {self.dropout_rates!r}")
        for rate in self.dropout_rates:
            check_rate("dropout_rates", rate)
        super().__post_init__()

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The levels' outputs by name, [N, H', W', C'] each; "final" is what the classifier pools."""
        return self.stem_and_stages(images, train, gates, self.stem_width, activate_stem=False)

    @nn.nowrap
    def stages(self) -> list[StageSpec]:
        """The `BlockSpec`s of levels 2 .. 7."""
        geometries = stage_geometries(_HALVED, self.output_stride)
        return [self._level(*level) for level in zip(_LEVELS, self.stage_sizes, self.widths, geometries, strict=True)]

    @nn.nowrap
    def _level(self, level: int, num_blocks: int, widths: tuple[int, ...], geometry: StageGeometry) -> StageSpec:
        rate = dict(zip((6, 7), self.dropout_rates, strict=True)).get(level, 0.0)
        sizes = (3, 3) if len(widths) == 2 else (1, 3, 1)
        convs = tuple(
            ConvSpec(size, width, strided=i == 0) for i, (size, width) in enumerate(zip(sizes, widths, strict=True))
        )
        convs = (*convs[:-1], dataclasses.replace(convs[-1], dropout_rate=rate))
        strides = geometry.strides if level in _STRIDED[self.variant] else 1
        # Its shortcut projects the activated input for any widths.
        first = BlockSpec(
            geometry.of_first_block(convs), "full_pre_activation", "C", strides=strides, shares_activation=True
        )
        return StageSpec(
            transition=first,
            block=BlockSpec(geometry.of_other_blocks(convs), "full_pre_activation"),
            num_blocks=num_blocks,
            pool=level in _POOLED[self.variant] and geometry.strides > 1,
        )


@register_model(
    "wider_resnet_38_<a|a1|a2>",
    module=WiderResNet,
    paper=WU_2016,
    input_shape=IMAGENET_SHAPE,
    facts=IMAGENET_NETWORKS,
)
def _imagenet(variant: str) -> dict[str, Any]:
    return {"variant": variant, "num_classes": 1000}
