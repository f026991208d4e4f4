"""Pre-activation ResNet and the other orders of activation (He et al. 2016, arXiv 1603.05027)."""

import functools

import jax
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import ORDERS, SHORTCUTS, Gates, ResidualBlock, ShortcutDropout, ShortcutVariant, StageSpec, relu
from resjax.models.inputs import check_choice
from resjax.models.network import ResidualNetwork
from resjax.models.resnet import branch_convs, check_stages


class PreActResNet(ResidualNetwork):
    """ResNet with BN and ReLU before the convolutions, or in any of the five orders of figure 4.

    With pre-activation, the first block's activation comes right after the stem and the first blocks of the stages
    activate before their shortcut too; a last activation follows the last addition (section 4 and appendix): BN and
    ReLU, or ReLU alone for "relu_only_pre_activation". So every order has the same number of parameters, but for the BN
    of projections, which pre-activation leaves out.

    Fields of every network (`num_classes`, `dtype`, `stochastic_depth`, ...): see `Network` and `NormalizedNetwork`.

    Attributes:
      stage_sizes: blocks in each stage.
      widths: channels of each stage's 3x3 convolutions; a bottleneck puts out four times as many.
      block: "basic", two 3x3 convolutions; "bottleneck", 1x1, 3x3, 1x1; or "single", one 3x3 convolution (table 3:
        shortcuts that skip one layer).
      order: one of `resjax.layers.ORDERS`; "original" is ResNet's.
      shortcut: "A", "B", "C" or "average_pool", see `resjax.layers.ResidualBlock`.
      shortcut_variant: what happens to the shortcut of every block (table 1, there with the "original" order):
        `ConstantScaling`, `Gating` or `ShortcutDropout`; the 1x1 convolution of that table is shortcut "C".
      bottleneck_stride: which convolution of a bottleneck carries the stride: the first "1x1" (the authors' code) or
        the "3x3" (fb.resnet.torch).
    """

    stage_sizes: tuple[int, ...] = (18, 18, 18)
    widths: tuple[int, ...] = (16, 32, 64)
    block: str = "basic"
    order: str = "full_pre_activation"
    shortcut: str = "A"
    shortcut_variant: ShortcutVariant | None = None
    bottleneck_stride: str = "1x1"

    def __post_init__(self):
        check_stages(self.stage_sizes, self.widths)
        check_choice("block", self.block, ("basic", "bottleneck", "single"))
        check_choice("order", self.order, ORDERS)
        check_choice("shortcut", self.shortcut, tuple(option for option in SHORTCUTS if option != "none"))
        check_choice("bottleneck_stride", self.bottleneck_stride, ("1x1", "3x3"))
        if self.shortcut_variant is not None and not isinstance(self.shortcut_variant, ShortcutVariant):
            raise InputError(
                "shortcut_variant: expected resjax.ConstantScaling(..), Gating(..) or ShortcutDropout(..), got"
                f" {self.shortcut_variant!r}"
            )
        super().__post_init__()

    @property
    def num_blocks(self) -> int:
        """Number of residual blocks, the length of a gate array."""
        return sum(self.stage_sizes)

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The stages' outputs by name, [N, H', W', C'] each; "final" is what the classifier pools."""
        if train and isinstance(self.shortcut_variant, ShortcutDropout):
            self.require_key(f"shortcut_variant={self.shortcut_variant}")
        x = self.make_stem(self.widths[0], self.stem_activates)(images, train)
        outputs = self.run_stages(x, self.stages(), train, gates)
        if self.order == "full_pre_activation":
            return self.activate_last(outputs, train)
        return outputs | {"final": relu(outputs["final"])} if self.order == "relu_only_pre_activation" else outputs

    @property
    def stem_activates(self) -> bool:
        """Whether BN and ReLU belong to the stem; they are the first activation of a ReLU-only block, too."""
        return self.stem == "imagenet" or self.order != "full_pre_activation"

    @nn.nowrap
    def stages(self) -> list[StageSpec]:
        """What the stages consist of."""
        conv, norm = self.conv_and_norm()
        stages = []
        for i, (num_blocks, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            block = functools.partial(
                ResidualBlock,
                conv,
                norm,
                convs=branch_convs(self.block, width, self.bottleneck_stride, inner_width=width),
                order=self.order,
                shortcut=self.shortcut,
                variant=self.shortcut_variant,
            )
            activate_first = "done" if i == 0 and self.stem_activates else "shortcut"
            first = functools.partial(block, strides=1 if i == 0 else 2, activate_first=activate_first)
            stages.append(StageSpec(first, block, num_blocks))
        return stages
