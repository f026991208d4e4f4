"""The residual block: x' = after(skip_gate * shortcut(x) + branch_gate * branch(x))."""

import dataclasses
from collections.abc import Callable

import jax
from flax import linen as nn

from resjax.layers.activation import relu
from resjax.layers.gates import Gates, run_if_active
from resjax.layers.shortcut import (
    ConstantScaling,
    Gating,
    ShortcutDropout,
    ShortcutVariant,
    average_and_pad,
    subsample_and_pad,
)

ORDERS = (
    "original",
    "bn_after_addition",
    "relu_before_addition",
    "relu_only_pre_activation",
    "full_pre_activation",
)
"""Where BN and ReLU sit around the convolutions C (He et al. 2016, arXiv 1603.05027, figure 4 a .. e):

original: C BN R C BN, addition, R; bn_after_addition: C BN R C, addition, BN R; relu_before_addition: C BN R C BN R,
addition; relu_only_pre_activation: R C BN R C BN, addition; full_pre_activation: BN R C BN R C, addition.
"""
PRE_ACTIVATION = ("relu_only_pre_activation", "full_pre_activation")
SHORTCUTS = ("A", "B", "C", "average_pool", "none")


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """One convolution of a residual branch.

    Attributes:
      size: height and width of the kernel.
      features: output channels.
      strided: whether it is the one that carries the block's stride.
      groups, dilation: see `Conv`.
      dropout_rate: share of its input dropped in training.
    """

    size: int
    features: int
    strided: bool = False
    groups: int = 1
    dilation: int = 1
    dropout_rate: float = 0.0


class ResidualBlock(nn.Module):
    """Convolutions with BN and ReLU in one of five orders, beside a shortcut.

    He et al. 2015, arXiv 1512.03385, figures 2 and 5; He et al. 2016, arXiv 1603.05027, figure 4.

    Attributes:
      conv, norm: constructors of the convolution and of the normalisation.
      convs: the convolutions of the branch; the last one's features are the block's.
      order: one of `ORDERS`.
      shortcut: "A" (subsample, zero channels), "B" (1x1 convolution where the shape changes, else identity), "C" (1x1
        convolution in every block), "average_pool" (as A, but averaging), or "none": a plain block, without addition.
        BN follows the 1x1 convolution, except in the orders with pre-activation.
      strides: stride of the branch and of the shortcut.
      activate_first: pre-activation of the first convolution: "branch" alone; before the "shortcut" as well, which
        then reads the activated input; where the "shape" changes as "shortcut", else as "branch"; or "done", where
        x comes activated.
      zero_init_last_norm: start the branch's last BN scale at 0, so that the block starts as its shortcut.
      variant: what happens to the shortcut on its way.
      activation: the nonlinearity, where the orders say ReLU.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    convs: tuple[ConvSpec, ...]
    order: str = "original"
    shortcut: str = "B"
    strides: int = 1
    activate_first: str = "branch"
    zero_init_last_norm: bool = False
    variant: ShortcutVariant | None = None
    activation: Callable[[jax.Array], jax.Array] = relu

    @property
    def features(self) -> int:
        """Output channels."""
        return self.convs[-1].features

    @nn.compact
    def __call__(self, x: jax.Array, gates: Gates, train: bool) -> jax.Array:
        """Maps x [N, H, W, C] to [N, H / strides, W / strides, features]; a plain block does not read its gates."""
        shape_changes = self.strides != 1 or x.shape[-1] != self.features
        first_is_done = self.activate_first == "done"
        if self.order in PRE_ACTIVATION and (
            self.activate_first == "shortcut" or (self.activate_first == "shape" and shape_changes)
        ):
            x = self.activation(self._norm(0, train, x) if self.order == "full_pre_activation" else x)
            first_is_done = True

        def branch(block, x):
            return block.branch(x, train, first_is_done)

        if self.shortcut == "none":
            return self._after(branch(self, x), train)
        shortcut = self._shortcut(x, shape_changes, train)
        branched = run_if_active(branch, self, x, shortcut, gates.active)
        shortcut, branched = self._vary(x, shortcut, branched, train)
        return self._after(gates.scale_skip(shortcut) + gates.scale_branch(branched), train)

    @nn.nowrap
    def branch(self, x: jax.Array, train: bool, first_is_done: bool) -> jax.Array:
        """The residual branch, from x [N, H, W, C]; `first_is_done` where x has the first pre-activation behind it."""
        last = len(self.convs) - 1
        for i, spec in enumerate(self.convs):
            if i > 0 or not first_is_done:
                if self.order == "full_pre_activation":
                    x = self.activation(self._norm(i, train, x))
                elif self.order == "relu_only_pre_activation" and i == 0:
                    x = self.activation(x)
            x = self._conv(i, spec, train, x)
            if self.order == "full_pre_activation":
                continue
            if i < last or self.order != "bn_after_addition":
                x = self._norm(i, train, x)
            if i < last or self.order == "relu_before_addition":
                x = self.activation(x)
        return x

    @nn.nowrap
    def _conv(self, i, spec, train, x):
        if spec.dropout_rate > 0:
            x = nn.Dropout(spec.dropout_rate, deterministic=not train, name=f"dropout_{i + 1}")(x)
        return self.conv(
            spec.features,
            kernel_size=(spec.size, spec.size),
            strides=self.strides if spec.strided else 1,
            dilation=spec.dilation,
            groups=spec.groups,
            name=f"conv_{i + 1}",
        )(x)

    @nn.nowrap
    def _norm(self, i, train, x):
        is_zero = self.zero_init_last_norm and i == len(self.convs) - 1
        options = {"scale_init": "zeros"} if is_zero else {}
        return self.norm(name=f"norm_{i + 1}", **options)(x, train)

    @nn.nowrap
    def _after(self, x, train):
        if self.order == "bn_after_addition":
            x = self._norm(len(self.convs) - 1, train, x)
        return self.activation(x) if self.order in ("original", "bn_after_addition") else x

    @nn.nowrap
    def _shortcut(self, x, shape_changes, train):
        if self.shortcut == "C" or (self.shortcut == "B" and shape_changes):
            x = self.conv(self.features, kernel_size=(1, 1), strides=self.strides, name="shortcut_conv")(x)
            return x if self.order in PRE_ACTIVATION else self.norm(name="shortcut_norm")(x, train)
        if not shape_changes:
            return x
        pad = average_and_pad if self.shortcut == "average_pool" else subsample_and_pad
        return pad(x, self.features, self.strides)

    @nn.nowrap
    def _vary(self, x, shortcut, branched, train):
        match self.variant:
            case ConstantScaling():
                return shortcut * self.variant.shortcut, branched * self.variant.branch
            case ShortcutDropout():
                dropout = nn.Dropout(self.variant.rate, deterministic=not train, name="shortcut_dropout")
                return dropout(shortcut), branched
            case Gating():
                conv = self.conv(
                    self.features,
                    kernel_size=(1, 1),
                    strides=self.strides,
                    use_bias=True,
                    bias_init=nn.initializers.constant(self.variant.bias_init),
                    name="gate_conv",
                )
                gate = nn.sigmoid(conv(x))
                return (1 - gate) * shortcut, gate * branched if self.variant.exclusive else branched
        return shortcut, branched
