"""Pre-activation ResNet and the other orders of activation (He et al. 2016, arXiv 1603.05027)."""

import dataclasses
from typing import Any, Literal

import jax
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import ORDERS, BlockSpec, ConstantScaling, DepthScaling, Gates, ShortcutVariant, StageSpec
from resjax.models.checks import blocks_of_depth
from resjax.models.network import ResidualNetwork
from resjax.models.published import HE_2016
from resjax.models.published.cifar import CIFAR_NETWORKS
from resjax.models.published.imagenet import IMAGENET_NETWORKS
from resjax.models.published.torch_names import PREACT_RESNET_NAMES
from resjax.models.registry import IMAGENET_SHAPE, register_model
from resjax.models.resnet import CIFAR_DEPTH, branch_convs, check_stages, cifar_fields, imagenet_fields


class PreActResNet(ResidualNetwork):
    """ResNet with BN and ReLU before the convolutions, or in any of the five orders of figure 4.

    With pre-activation, the first block's activation comes right after the stem, the first block of each stage also
    activates before its shortcut, and a last activation follows the last addition (section 4 and appendix): BN and
    ReLU, or only ReLU for "relu_only_pre_activation". Every order therefore has the same number of parameters, except
    for the BN of projections, which pre-activation leaves out.

    Fields of every network (`num_classes`, `dtype`, `stochastic_depth`, ...): see `Network` and `NormalizedNetwork`.

    Attributes:
      stage_sizes: blocks in each stage.
      widths: channels of each stage's 3x3 convolutions; the output of a bottleneck has four times as many.
      block: "basic", two 3x3 convolutions; "bottleneck", 1x1, 3x3, 1x1; or "single", one 3x3 convolution (table 3:
        shortcuts that skip one layer).
      order: one of `resjax.layers.ORDERS`; "original" is ResNet's.
      shortcut: "A", "B", "C" or "average_pool", see `resjax.layers.BlockSpec`.
      shortcut_variant: change of the shortcut of every block (table 1, where the order is "original"):
        `ConstantScaling`, `Gating` or `ShortcutDropout`, the 1x1 convolution of that table is shortcut "C"; or, of the
        branch, `DepthScaling` or `LearnedScaling`.
      bottleneck_stride: which convolution of a bottleneck carries the stride: the first "1x1" (the authors' code) or
        the "3x3" (fb.resnet.torch).
    """

    stage_sizes: tuple[int, ...] = (18, 18, 18)
    widths: tuple[int, ...] = (16, 32, 64)
    block: Literal["basic", "bottleneck", "single"] = "basic"
    order: Literal[
        "original", "bn_after_addition", "relu_before_addition", "relu_only_pre_activation", "full_pre_activation"
    ] = "full_pre_activation"
    shortcut: Literal["A", "B", "C", "average_pool"] = "A"
    shortcut_variant: ShortcutVariant | None = None
    bottleneck_stride: Literal["1x1", "3x3"] = "1x1"
    torch_names = PREACT_RESNET_NAMES

    def __post_init__(self):
        check_stages(self.stage_sizes, self.widths)
        if self.shortcut_variant is not None and not isinstance(self.shortcut_variant, ShortcutVariant):
            raise InputError(
                "shortcut_variant: expected resjax.ConstantScaling(..), DepthScaling(..), Gating(..),"
                f" LearnedScaling(..) or ShortcutDropout(..), got {self.shortcut_variant!r}"
            )
        super().__post_init__()

    @property
    def has_skips(self) -> bool:
        """Whether the shortcuts carry anything; a constant factor of 0 removes them all."""
        return not (isinstance(self.shortcut_variant, ConstantScaling) and self.shortcut_variant.shortcut == 0)

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The stages' outputs by name, [N, H', W', C'] each; "final" is what the classifier pools."""
        return self.stem_and_stages(images, train, gates, self.widths[0], self.stem_activates)

    @property
    def stem_activates(self) -> bool:
        """Whether BN and ReLU belong to the stem. They are then also the first activation of a ReLU-only block."""
        return self.stem != "cifar" or ORDERS[self.order].front != "BR"

    @nn.nowrap
    def stages(self) -> list[StageSpec]:
        """The `BlockSpec`s of the stages."""
        stages, variant = [], self.shortcut_variant
        if isinstance(variant, DepthScaling):
            variant = variant.at(sum(self.stage_sizes))
        for i, (num_blocks, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            convs = branch_convs(self.block, width, self.bottleneck_stride, inner_width=width)
            block = BlockSpec(convs, self.order, self.shortcut, variant=variant)
            done = i == 0 and self.stem_activates
            first = dataclasses.replace(
                block, strides=1 if i == 0 else 2, is_activated=done, shares_activation=not done
            )
            stages.append(StageSpec(first, block, num_blocks))
        return stages


@register_model(
    "preresnet_<6n+2|9n+2>",
    f"preresnet_{CIFAR_DEPTH}",
    module=PreActResNet,
    paper=HE_2016,
    facts=CIFAR_NETWORKS,
)
def _cifar(depth: int) -> dict[str, Any]:
    # Many depths are both 6 n + 2 and 9 n + 2: the paper has basic blocks at 110 and bottlenecks from 164 on.
    if (depth >= 164 or (depth - 2) % 6) and (depth - 2) % 9 == 0:
        return {"stage_sizes": (blocks_of_depth(depth, 9, 2),) * 3, "block": "bottleneck", "shortcut": "B"}
    if (depth - 2) % 6:
        below = max(depth - (depth - 2) % 6, 8)
        raise InputError(
            f"depth: expected 6 n + 2 (basic blocks) or 9 n + 2 (bottlenecks) for n >= 1, got {depth}; nearest with"
            f" basic blocks are {below} and {below + 6}"
        )
    return cifar_fields(depth)


@register_model(
    "preresnet_<18|34|50|101|152|200>",
    module=PreActResNet,
    paper=HE_2016,
    input_shape=IMAGENET_SHAPE,
    facts=IMAGENET_NETWORKS,
)
def _imagenet(depth: int) -> dict[str, Any]:
    return imagenet_fields(depth, bottleneck_stride="3x3")
