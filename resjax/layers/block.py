"""The residual block: x' = after(skip_gate * shortcut(x) + branch_gate * branch(x))."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from resjax.layers.activation import relu
from resjax.layers.backend import apart, faster_forms
from resjax.layers.dropout import Dropout
from resjax.layers.gates import Gates, run_if_active, scale
from resjax.layers.shortcut import (
    ConstantScaling,
    Gating,
    LearnedScaling,
    ShortcutDropout,
    ShortcutVariant,
    average_and_pad,
    subsample_and_pad,
)
from resjax.layers.streams import DepthAttention, HyperConnections, StreamMixing, Streams


class Order(NamedTuple):
    """Where a block has BN ("B") and the nonlinearity ("R").

    Attributes:
      front: before the first convolution.
      between: between two convolutions.
      behind: after the last convolution.
      sum: after the addition.
    """

    front: str
    between: str
    behind: str
    sum: str


ORDERS = {
    "original": Order("", "BR", "B", "R"),
    "bn_after_addition": Order("", "BR", "", "BR"),
    "relu_before_addition": Order("", "BR", "BR", ""),
    "relu_only_pre_activation": Order("R", "BR", "B", ""),
    "full_pre_activation": Order("BR", "BR", "", ""),
    "fixup": Order("B", "BRB", "", "BR"),
}
"""He et al. 2016, arXiv 1603.05027, figure 4 (a) .. (e); and Fixup's, which has biases in BN's place, one before each
convolution and each nonlinearity (Zhang et al. 2019, arXiv 1901.09321, figure 1, right)."""


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """One convolution of a residual branch.

    Attributes:
      size: height and width of the kernel.
      features: output channels.
      strided: whether it is the one that carries the block's stride.
      groups, dilation: see `Conv`.
      dropout_rate: fraction of its input dropped in training.
      init_scale: factor of the initial kernel; 0 starts it at zero.
    """

    size: int
    features: int
    strided: bool = False
    groups: int = 1
    dilation: int = 1
    dropout_rate: float = 0.0
    init_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """What a residual block consists of.

    Attributes:
      convs: the convolutions of the branch; the last one's features are the block's.
      order: a name in `ORDERS`.
      shortcut: "A" (subsample, zero channels), "B" (1x1 convolution where the shape changes, else identity), "C" (1x1
        convolution in every block), "average_pool" (as A, but averaging), or "none": a plain block, without addition.
        BN follows the 1x1 convolution, except in the orders with pre-activation.
      strides: stride of the branch and of the shortcut.
      shares_activation: whether the shortcut also reads the input after the first pre-activation.
      is_activated: whether the first pre-activation is already applied to the input.
      zero_init_last_norm: start the branch's last BN scale at 0, so that the block starts as its shortcut.
      variant: how the shortcut is changed (He et al. 2016, arXiv 1603.05027, section 3.1); None leaves it.
      activation: the nonlinearity.
      streams: how the block reads and writes several residual streams; None has one. It keeps the shape then, and takes
        no `variant`.
    """

    convs: tuple[ConvSpec, ...]
    order: str = "original"
    shortcut: str = "B"
    strides: int = 1
    shares_activation: bool = False
    is_activated: bool = False
    zero_init_last_norm: bool = False
    variant: ShortcutVariant | None = None
    activation: Callable[[jax.Array], jax.Array] = relu
    streams: Streams | None = None

    @property
    def features(self) -> int:
        """Output channels."""
        return self.convs[-1].features


class ResidualBlock(nn.Module):
    """Convolutions with BN and ReLU in one of five orders, beside a shortcut.

    He et al. 2015, arXiv 1512.03385, figures 2 and 5; He et al. 2016, arXiv 1603.05027, figure 4.

    Attributes:
      conv, norm: constructors of the convolution and of the normalisation.
      spec: what the block consists of.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    spec: BlockSpec

    @nn.compact
    def __call__(self, x: Any, gates: Gates, train: bool) -> Any:
        """Maps x [N, H, W, C] to [N, H / strides, W / strides, features]; a plain block does not read its gates.

        With `streams`, maps the streams, a tuple of [N, H, W, C], to those behind the block.
        """
        spec, order = self.spec, ORDERS[self.spec.order]
        if spec.streams is not None:
            return self._across_streams(spec.streams, x, gates, train)
        if spec.shares_activation:
            x = self._activate(order.front, 0, x, train)
        if spec.shortcut == "none":
            return self._behind_sum(self.branch(x, train), train)
        shortcut = self._shortcut(x, train)
        if spec.strides != 1 and spec.shortcut in ("B", "C"):
            x = apart(x)
        branched = run_if_active(lambda block, x: block.branch(x, train), self, x, shortcut, gates.active)
        shortcut, branched = self._vary(x, shortcut, branched, train)
        return self._behind_sum(gates.scale_skip(shortcut) + gates.scale_branch(branched), train)

    @nn.nowrap
    def _across_streams(
        self, rule: Streams, streams: tuple[jax.Array, ...], gates: Gates, train: bool
    ) -> tuple[jax.Array, ...]:
        if isinstance(rule, HyperConnections):
            x, kept, write = StreamMixing(rule, name="streams")(streams)
        else:
            x, kept, write = DepthAttention(rule, name="streams")(streams), list(streams), []
        branched = run_if_active(lambda block, x: block.branch(x, train), self, x, x, gates.active)
        kept, branched = [gates.scale_skip(each) for each in kept], gates.scale_branch(branched)
        if not write:
            return (*kept, branched)
        added = [each + scale(branched, factor) for each, factor in zip(kept, write, strict=True)]
        # No order with several streams has BN behind the addition.
        first, *others = [self._behind_sum(each, train) for each in added]
        return (*others, first)

    @nn.nowrap
    def branch(self, x: jax.Array, train: bool) -> jax.Array:
        """The residual branch of x [N, H, W, C], to which the first pre-activation may be applied already."""
        spec, order = self.spec, ORDERS[self.spec.order]
        if not (spec.shares_activation or spec.is_activated):
            x = self._activate(order.front, 0, x, train)
        for i, conv in enumerate(spec.convs):
            if conv.dropout_rate > 0:
                x = Dropout(conv.dropout_rate, deterministic=not train, name=f"dropout_{i + 1}")(x)
            follows = order.behind if i == len(spec.convs) - 1 else order.between
            x = self._conv(f"conv_{i + 1}", conv, x, factored=train and follows.startswith("B"))
            x = self._activate(follows, self._norms_before(i), x, train)
        return x

    @nn.nowrap
    def _norms_before(self, i):
        """Number of norms before and between the first i + 1 convolutions; they are counted as they come."""
        order = ORDERS[self.spec.order]
        return order.front.count("B") + i * order.between.count("B")

    @nn.nowrap
    def _behind_sum(self, x, train):
        return self._activate(ORDERS[self.spec.order].sum, self._norms_before(len(self.spec.convs) - 1), x, train)

    @nn.nowrap
    def _activate(self, operations, i, x, train):
        """Applies the norms that `operations` names, the block's i-th (from 0) first, and the nonlinearities."""
        spec = self.spec
        for operation in re.findall("BR?|R", operations):
            if operation == "R":
                x = spec.activation(x)
                continue
            is_zero = spec.zero_init_last_norm and i == len(spec.convs) - 1
            norm = self.norm(name=f"norm_{i + 1}", **{"scale_init": "zeros"} if is_zero else {})
            x = norm(x, train, spec.activation if operation == "BR" else None)
            i += 1
        return x

    @nn.nowrap
    def _conv(self, name, conv, x, factored=False, **options):
        """A convolution of x; as its factors if that may be and BN, which follows, has fewer channels to read then."""
        strides = self.spec.strides if conv.strided else 1
        options |= {"strides": strides, "dilation": conv.dilation, "groups": conv.groups, "name": name}
        if conv.init_scale != 1:
            options["init_scale"] = conv.init_scale
        convolve = self.conv(conv.features, kernel_size=(conv.size, conv.size), **options)
        factored = factored and conv.size == conv.groups == 1 and x.shape[-1] < conv.features and faster_forms()
        return convolve(x, factored=True) if factored else convolve(x)

    @nn.nowrap
    def _shortcut(self, x, train):
        spec = self.spec
        shape_changes = spec.strides != 1 or x.shape[-1] != spec.features
        if spec.shortcut == "C" or (spec.shortcut == "B" and shape_changes):
            is_normalized = not ORDERS[spec.order].front
            conv = ConvSpec(1, spec.features, strided=True)
            x = self._conv("shortcut_conv", conv, x, factored=train and is_normalized)
            return self.norm(name="shortcut_norm")(x, train) if is_normalized else x
        if not shape_changes:
            return x
        pad = average_and_pad if spec.shortcut == "average_pool" else subsample_and_pad
        return pad(x, spec.features, spec.strides)

    @nn.nowrap
    def _vary(self, x, shortcut, branched, train):
        match self.spec.variant:
            case ConstantScaling() as factors:
                return shortcut * factors.shortcut, branched * factors.branch
            case LearnedScaling(factor_init):
                factor = self.param("branch_factor", nn.initializers.constant(factor_init), ())
                return shortcut, branched * factor.astype(branched.dtype)
            case ShortcutDropout(rate):
                return Dropout(rate, deterministic=not train, name="shortcut_dropout")(shortcut), branched
            case Gating(exclusive, bias_init):
                conv, bias = ConvSpec(1, self.spec.features, strided=True), nn.initializers.constant(bias_init)
                gate = nn.sigmoid(self._conv("gate_conv", conv, x, use_bias=True, bias_init=bias))
                return (1 - gate) * shortcut, gate * branched if exclusive else branched
        return shortcut, branched
