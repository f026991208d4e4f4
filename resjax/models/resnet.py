"""ResNet and its plain twin (He et al. 2015, arXiv 1512.03385), and the bottlenecks of ResNeXt and Wide ResNet."""

import dataclasses
import functools
from typing import Any, Literal

import jax
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import STEM_STRIDES, BlockSpec, ConvSpec, Gates, LearnedScaling, StageSpec
from resjax.models.checks import blocks_of_depth, check_positive
from resjax.models.dilation import StageGeometry, stage_geometries
from resjax.models.network import ResidualNetwork
from resjax.models.published import HE_2015
from resjax.models.published.cifar import CIFAR_NETWORKS
from resjax.models.published.imagenet import IMAGENET_NETWORKS
from resjax.models.published.torch_names import RESNET_NAMES
from resjax.models.registry import IMAGENET_SHAPE, NUMBER, register_model

# He et al. 2015 (arXiv 1512.03385), table 1; 200 from He et al. 2016 (arXiv 1603.05027), section 5.
IMAGENET_STAGES = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
_DEPTHS = "18|34|50|101|152|200"
# These depths never mean a CIFAR network.
CIFAR_DEPTH = rf"(?!(?:{_DEPTHS})(?:_|$)){NUMBER}"


class ResNet(ResidualNetwork):
    """Stem C BN ReLU, stages with stride 2 between them, global pooling, linear (sections 3.3 and 4.2).

    Fields of every network (`num_classes`, `dtype`, `stochastic_depth`, ...): see `Network` and `NormalizedNetwork`.

    Attributes:
      stage_sizes: blocks in each stage.
      widths: channels of each stage's 3x3 convolutions; the output of a bottleneck has four times as many.
      stem_width: channels of the stem; None takes the width of the first stage.
      block: "basic", two 3x3 convolutions, or "bottleneck", 1x1, 3x3, 1x1.
      shortcut: "A", "B", "C", "average_pool" (see `resjax.layers.BlockSpec`), or "none" for the plain network.
      bottleneck_stride: which convolution of a bottleneck carries the stride: the first "1x1" (v1, as published) or the
        "3x3" (v1.5, as fb.resnet.torch and torchvision).
      cardinality: groups of a bottleneck's 3x3 convolution (ResNeXt, arXiv 1611.05431).
      base_width: channels of each group of the first stage, for widths[0] = 64; the inner width of a bottleneck is
        floor(width * base_width / 64) * cardinality. 64 for ResNet, 128 for WRN-50-2.
      normalization: "batch"; "none", a bias for each channel in BN's place; or "fixup" (Zhang et al. 2019, arXiv
        1901.09321, section 3, and the authors' code): one trained bias before each convolution and nonlinearity, a
        trained factor of each branch, 1 at first, and a branch whose last kernel starts at zero, the m - 1 others at
        L**(-1 / (2 m - 2)) of `kernel_init`, for L blocks. There, the classifier starts at zero, too: set
        `head_kernel_init` to "zeros".
      zero_init_residual: start the last BN scale of each block at 0 (Goyal et al. 2017, arXiv 1706.02677, section 5.1).
      output_stride: pixels of the image per pixel of the last stage, for dense prediction with the same variables:
        strides beyond it become dilation. None keeps every stride.
    """

    stage_sizes: tuple[int, ...] = (3, 3, 3)
    widths: tuple[int, ...] = (16, 32, 64)
    stem_width: int | None = None
    block: Literal["basic", "bottleneck"] = "basic"
    shortcut: Literal["A", "B", "C", "average_pool", "none"] = "A"
    bottleneck_stride: Literal["1x1", "3x3"] = "3x3"
    cardinality: int = 1
    base_width: int = 64
    normalization: Literal["batch", "none", "fixup"] = "batch"  # type: ignore[assignment]  # one choice more
    zero_init_residual: bool = False
    output_stride: int | None = None
    torch_names = RESNET_NAMES

    def __post_init__(self):
        check_stages(self.stage_sizes, self.widths)
        for field in ("cardinality", "base_width", "stem_width"):
            if getattr(self, field) is not None:
                check_positive(field, getattr(self, field))
        if self.block == "basic" and (self.cardinality, self.base_width) != (1, 64):
            raise InputError(
                "cardinality, base_width: for bottlenecks only; grouping two 3x3 convolutions is no ResNeXt"
            )
        if self.inner_width(min(self.widths)) == 0:
            raise InputError(
                f"base_width: expected at least {64 / min(self.widths):g} for widths {self.widths}, got"
                f" {self.base_width}"
            )
        if self.zero_init_residual and self.shortcut == "none":
            raise InputError("zero_init_residual: a plain network whose blocks start at zero computes nothing")
        if self.zero_init_residual and self.normalization != "batch":
            raise InputError(f"zero_init_residual: normalization {self.normalization!r} has no scales of BN")
        if self.normalization == "fixup" and self.shortcut == "none":
            raise InputError("normalization 'fixup': a plain network whose blocks start at zero computes nothing")
        super().__post_init__()
        self._geometries()

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The stages' outputs by name, [N, H', W', C'] each; "final" is the last."""
        width = self.stem_width or self.widths[0]
        return self.stem_and_stages(images, train, gates, width, activate_stem=True)

    @nn.nowrap
    def stages(self) -> list[StageSpec]:
        """The `BlockSpec`s of the stages."""
        make = functools.partial(BlockSpec, shortcut=self.shortcut, zero_init_last_norm=self.zero_init_residual)
        is_fixup = self.normalization == "fixup"
        if is_fixup:
            make = functools.partial(make, order="fixup", variant=LearnedScaling(1.0))
        stages = []
        for i, (num_blocks, width, geometry) in enumerate(
            zip(self.stage_sizes, self.widths, self._geometries(), strict=True)
        ):
            convs = self.branch_convs(width)
            if is_fixup:
                convs = fixup_scaled(convs, sum(self.stage_sizes))
            # As in the authors' code, a shortcut that changes the shape reads what the first bias was added to.
            shares = is_fixup and (i > 0 or self.block == "bottleneck")
            first = make(geometry.of_first_block(convs), strides=geometry.strides, shares_activation=shares)
            stages.append(StageSpec(first, make(geometry.of_other_blocks(convs)), num_blocks))
        return stages

    @nn.nowrap
    def _geometries(self) -> list[StageGeometry]:
        strides = (1,) + (2,) * (len(self.stage_sizes) - 1)
        return stage_geometries(strides, self.output_stride, stem_stride=STEM_STRIDES[self.stem])

    @nn.nowrap
    def branch_convs(self, width: int) -> tuple[ConvSpec, ...]:
        """The convolutions of a block of a stage of `width`."""
        return branch_convs(self.block, width, self.bottleneck_stride, self.inner_width(width), self.cardinality)

    @nn.nowrap
    def inner_width(self, width: int) -> int:
        """Channels of the 3x3 convolution of a bottleneck of a stage of `width`."""
        return width * self.base_width // 64 * self.cardinality


def branch_convs(
    block: str, width: int, bottleneck_stride: str, inner_width: int, groups: int = 1
) -> tuple[ConvSpec, ...]:
    """The convolutions of a block of a stage of `width`, see `ResNet` and `PreActResNet`."""
    if block == "single":
        return (ConvSpec(3, width, strided=True),)
    if block == "basic":
        return ConvSpec(3, width, strided=True), ConvSpec(3, width)
    strided = bottleneck_stride == "1x1"
    return (
        ConvSpec(1, inner_width, strided=strided),
        ConvSpec(3, inner_width, strided=not strided, groups=groups),
        ConvSpec(1, 4 * width),
    )


def fixup_scaled(convs: tuple[ConvSpec, ...], num_blocks: int) -> tuple[ConvSpec, ...]:
    """The convolutions of a branch with Fixup's initialisation, in a network of `num_blocks` blocks."""
    *others, last = convs
    scale = num_blocks ** (-1 / (2 * len(others)))
    return (
        *(dataclasses.replace(conv, init_scale=scale) for conv in others),
        dataclasses.replace(last, init_scale=0.0),
    )


def check_stages(stage_sizes: tuple[int, ...], widths: tuple[int, ...]) -> None:
    """Raises InputError unless there is one width for each stage."""
    check_positive("stage_sizes", stage_sizes)
    check_positive("widths", widths)
    if len(stage_sizes) != len(widths):
        raise InputError(f"stage_sizes {stage_sizes} and widths {widths}: expected one width for each stage")


@register_model("resnet_<6n+2>", f"resnet_{CIFAR_DEPTH}", module=ResNet, paper=HE_2015, facts=CIFAR_NETWORKS)
def cifar_fields(depth: int, shortcut: str = "A") -> dict[str, Any]:
    """The fields of a network with 6 n + 2 layers for CIFAR."""
    return {"stage_sizes": (blocks_of_depth(depth, 6, 2),) * 3, "shortcut": shortcut}


@register_model("plain_<6n+2>", f"plain_{CIFAR_DEPTH}", module=ResNet, paper=HE_2015, facts=CIFAR_NETWORKS)
def _plain(depth: int) -> dict[str, Any]:
    return cifar_fields(depth, shortcut="none")


@register_model(
    f"resnet_<{_DEPTHS}>", module=ResNet, paper=HE_2015, input_shape=IMAGENET_SHAPE, facts=IMAGENET_NETWORKS
)
def imagenet_fields(depth: int, **fields: Any) -> dict[str, Any]:
    """The fields of a network of table 1 for ImageNet, with some replaced."""
    block, stage_sizes = IMAGENET_STAGES[depth]
    common = {"widths": (64, 128, 256, 512), "stem": "imagenet", "shortcut": "B", "num_classes": 1000}
    return {"block": block, "stage_sizes": stage_sizes, **common, **fields}


@register_model("plain_<18|34>", module=ResNet, paper=HE_2015, input_shape=IMAGENET_SHAPE, facts=IMAGENET_NETWORKS)
def _plain_imagenet(depth: int) -> dict[str, Any]:
    return imagenet_fields(depth, shortcut="none")
