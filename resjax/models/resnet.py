"""ResNet and its plain twin (He et al. 2015, arXiv 1512.03385), and the bottlenecks of ResNeXt and Wide ResNet."""

import functools

import jax
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import SHORTCUTS, ConvSpec, Gates, ResidualBlock, StageSpec
from resjax.models.dilation import StageGeometry, stage_geometries
from resjax.models.inputs import check_choice, check_positive
from resjax.models.network import ResidualNetwork


class ResNet(ResidualNetwork):
    """Stem C BN ReLU, stages with stride 2 between them, global pooling, linear (sections 3.3 and 4.2).

    Fields of every network (`num_classes`, `dtype`, `stochastic_depth`, ...): see `Network` and `NormalizedNetwork`.

    Attributes:
      stage_sizes: blocks in each stage.
      widths: channels of each stage's 3x3 convolutions; a bottleneck puts out four times as many.
      stem_width: channels of the stem; None takes those of the first stage.
      block: "basic", two 3x3 convolutions, or "bottleneck", 1x1, 3x3, 1x1.
      shortcut: "A", "B", "C", "average_pool" (see `resjax.layers.ResidualBlock`), or "none" for the plain network.
      bottleneck_stride: which convolution of a bottleneck carries the stride: the first "1x1" (v1, as published) or the
        "3x3" (v1.5, as fb.resnet.torch and torchvision).
      cardinality: groups of a bottleneck's 3x3 convolution (ResNeXt, arXiv 1611.05431).
      base_width: channels of each group of the first stage, for widths[0] = 64; the inner width of a bottleneck is
        floor(width * base_width / 64) * cardinality. 64 for ResNet, 128 for WRN-50-2.
      zero_init_residual: start the last BN scale of each block at 0 (Goyal et al. 2017, arXiv 1706.02677, section 5.1).
      output_stride: pixels of the image to one of the last stage, for dense prediction with the same variables: strides
        beyond it become dilation. None keeps every stride.
    """

    stage_sizes: tuple[int, ...] = (3, 3, 3)
    widths: tuple[int, ...] = (16, 32, 64)
    stem_width: int | None = None
    block: str = "basic"
    shortcut: str = "A"
    bottleneck_stride: str = "3x3"
    cardinality: int = 1
    base_width: int = 64
    zero_init_residual: bool = False
    output_stride: int | None = None

    def __post_init__(self):
        check_stages(self.stage_sizes, self.widths)
        check_choice("block", self.block, ("basic", "bottleneck"))
        check_choice("shortcut", self.shortcut, SHORTCUTS)
        check_choice("bottleneck_stride", self.bottleneck_stride, ("1x1", "3x3"))
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
        super().__post_init__()
        self._geometries()

    @property
    def num_blocks(self) -> int:
        """Number of residual blocks, the length of a gate array; 0 for a plain network."""
        return 0 if self.shortcut == "none" else sum(self.stage_sizes)

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The stages' outputs by name, [N, H', W', C'] each; "final" is the last."""
        x = self.make_stem(self.stem_width or self.widths[0], activate=True)(images, train)
        return self.run_stages(x, self.stages(), train, gates)

    @nn.nowrap
    def stages(self) -> list[StageSpec]:
        """What the stages consist of."""
        stages = []
        for num_blocks, width, geometry in zip(self.stage_sizes, self.widths, self._geometries(), strict=True):
            block = self.residual_block(width)
            convs = block.keywords["convs"]
            first = functools.partial(block, strides=geometry.strides, convs=geometry.of_first_block(convs))
            others = functools.partial(block, convs=geometry.of_other_blocks(convs))
            stages.append(StageSpec(first, others, num_blocks))
        return stages

    @nn.nowrap
    def _geometries(self) -> list[StageGeometry]:
        strides = (1,) + (2,) * (len(self.stage_sizes) - 1)
        return stage_geometries(strides, self.output_stride, stem_stride=4 if self.stem == "imagenet" else 1)

    @nn.nowrap
    def residual_block(self, width: int) -> functools.partial:
        """Constructor of a block of a stage of `width`."""
        conv, norm = self.conv_and_norm()
        options = {"shortcut": self.shortcut, "zero_init_last_norm": self.zero_init_residual}
        return functools.partial(ResidualBlock, conv, norm, convs=self.branch_convs(width), **options)

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


def check_stages(stage_sizes: tuple[int, ...], widths: tuple[int, ...]) -> None:
    """Raises InputError unless there is one width for each stage."""
    check_positive("stage_sizes", stage_sizes)
    check_positive("widths", widths)
    if len(stage_sizes) != len(widths):
        raise InputError(f"stage_sizes {stage_sizes} and widths {widths}: expected one width for each stage")
