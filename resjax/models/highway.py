"""Highway networks (Srivastava et al. 2015, arXiv 1505.00387 and 1507.06228)."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import (
    ClassifierHead,
    Conv,
    Dropout,
    Gates,
    Initializer,
    Stage,
    StageSpec,
    max_pool,
    max_pool_halved,
    relu,
    run_if_active,
    scale,
)
from resjax.models.checks import check_choice, check_positive, check_rate
from resjax.models.network import Network
from resjax.models.published import SRIVASTAVA_2015
from resjax.models.published.cifar import CIFAR_NETWORKS
from resjax.models.registry import MNIST_SHAPE, register_model
from resjax.models.resnet import check_stages


@register_model("highway_19", paper=SRIVASTAVA_2015, facts=CIFAR_NETWORKS)
class Highway(Network):
    """Stages of highway layers, after a convolution C R if the width changes; max-pooling and dropout between; no BN.

    The default is the authors' 19-layer network for CIFAR, from their released configuration: 3 convolutions, 14
    highway layers, a 1x1 convolution and the linear layer.

    Fields of every network (`num_classes`, `dtype`, `stochastic_depth`, ...): see `Network`. Biases start at 0.

    Attributes:
      stage_sizes: highway layers in each stage.
      widths: channels of each stage.
      head_width: channels of the 1x1 convolution and ReLU before pooling; None leaves it out.
      transform_bias: initial bias of the transform gates, negative so that layers start as carriers.
      dropout_rate: fraction dropped before each stage and before the linear layer; or one fraction for each of these.
      stem_kernel_size, stem_padding: of the first convolution; the others are 3x3 and keep the size.
      pool_window: 2, or 3 for overlapping windows that the border cuts off, as in Caffe: size n becomes n // 2.
      flat_head: (rows, columns): 2x2 max-pooling to this many positions and a linear layer over all of them, in place
        of global average pooling; None pools globally.
      stem_kernel_init: initialiser of the first convolution; the released configuration gives no std, so that Caffe
        uses 1.
    """

    stage_sizes: tuple[int, ...] = (4, 5, 5)
    widths: tuple[int, ...] = (32, 80, 128)
    head_width: int | None = 100
    transform_bias: float = -2.0
    dropout_rate: float | tuple[float, ...] = 0.2
    stem_kernel_size: int = 3
    stem_padding: int = 1
    pool_window: Literal[2, 3] = 2
    flat_head: tuple[int, int] | None = None
    stem_kernel_init: Initializer = "normal_1"
    kernel_init: Initializer = "xavier"
    head_kernel_init: Initializer = "normal_0.05"
    first_kernel = first_trained_kernel = ("params", "conv_1", "kernel")

    def __post_init__(self):
        check_stages(self.stage_sizes, self.widths)
        if self.head_width is not None:
            check_positive("head_width", self.head_width)
        for rate in self.dropout_rates:
            check_rate("dropout_rate", rate)
        if len(self.dropout_rates) != len(self.stage_sizes) + 1:
            raise InputError(
                f"dropout_rate: expected a number, or {len(self.stage_sizes) + 1} of them (each stage's, the linear"
                f" layer's), got {self.dropout_rate!r}"
            )
        check_positive("stem_kernel_size", self.stem_kernel_size)
        check_choice("stem_padding", self.stem_padding, tuple(range(self.stem_kernel_size)))
        if self.flat_head is not None:
            check_positive("flat_head", self.flat_head)
            if not isinstance(self.flat_head, (tuple, list)) or len(self.flat_head) != 2:
                raise InputError(f"flat_head: expected (rows, columns), got {self.flat_head!r}")
        super().__post_init__()

    @property
    def num_blocks(self) -> int:
        """Number of highway layers, the length of a gate array."""
        return sum(self.stage_sizes)

    @property
    def minimum_size(self) -> int:
        """Minimum height and width of an image: the first convolution cuts a border, each pooling halves the rest."""
        last = 2 * max(self.flat_head) if self.flat_head else 1
        return last * 2 ** (len(self.stage_sizes) - 1) + self.stem_kernel_size - 1 - 2 * self.stem_padding

    @property
    def dropout_rates(self) -> tuple[float, ...]:
        """The dropout rates before each stage and before the linear layer."""
        given = self.dropout_rate
        return tuple(given) if isinstance(given, (tuple, list)) else (given,) * (len(self.stage_sizes) + 1)

    @nn.nowrap
    def make_head(self) -> ClassifierHead:
        """The classifier, with dropout before it."""
        options = (self.num_classes, self.head_kernel_init, self.head_bias_init, self.dropout_rates[-1])
        if self.flat_head:
            return FlatHead(*options, positions=self.flat_head, name="head")
        return ClassifierHead(*options, name="head")

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The stages' outputs by name, [N, H', W', C'] each; "final" is what the classifier pools."""
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=self.kernel_init, use_bias=True)
        x, outputs, first = images, {}, 0
        for i, (num_layers, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            if i > 0:
                x = max_pool_halved(x) if self.pool_window == 2 else _max_pool_cut_off(x)
            x = Dropout(self.dropout_rates[i], deterministic=not train, name=f"dropout_{i + 1}")(x)
            if i == 0:
                size, border = (self.stem_kernel_size,) * 2, (self.stem_padding,) * 2
                stem = conv(width, size, padding=border, kernel_init=self.stem_kernel_init, name="conv_1")
                x = relu(stem(x))
                outputs = {"stem": x}
            elif width != self.widths[i - 1]:
                x = relu(conv(width, name=f"conv_{i + 1}")(x))
            make, name = functools.partial(HighwayLayer, conv), f"stage_{i + 1}"
            spec = StageSpec(self.transform_bias, self.transform_bias, num_layers)
            of_stage = gates.block(slice(first, first + num_layers))
            x = outputs[name] = Stage(make, spec, name=name)(x, of_stage, train)
            first += num_layers
        if self.head_width is not None:
            x = relu(conv(self.head_width, kernel_size=(1, 1), name="final_conv")(x))
        return outputs | {"final": x}


class FlatHead(ClassifierHead):
    """`ClassifierHead` that reads all positions that 2x2 max-pooling leaves.

    Attributes:
      positions: (rows, columns) that it leaves.
    """

    positions: tuple[int, int] = (1, 1)

    @nn.nowrap
    def pooled(self, x: jax.Array) -> jax.Array:
        """The features [N, rows * columns * C] of x [N, H, W, C].

        Raises:
          InputError: if the number of positions differs.
        """
        pooled = max_pool_halved(x)
        if pooled.shape[1:3] != tuple(self.positions):
            expected, found = (" x ".join(map(str, size)) for size in (self.positions, pooled.shape[1:3]))
            raise InputError(
                f"images: of their size the classifier would see {found} positions, and its linear layer is for"
                f" {expected}; give images of another size, or create the network with flat_head={pooled.shape[1:3]}"
            )
        return pooled.reshape(x.shape[0], -1)


def _max_pool_cut_off(x: jax.Array) -> jax.Array:
    """The largest of 3x3 windows at stride 2 from the first pixel on: [N, H, W, C] to [N, H // 2, W // 2, C].

    `max_pool` begins a pixel earlier: it gets an image with one more pixel, and its first windows are dropped.
    """
    x = jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), ((0, 0, 0), (1, 0, 0), (1, 0, 0), (0, 0, 0)))
    x = max_pool(x)
    return jax.lax.slice(x, (0, 1, 1, 0), x.shape)


class HighwayLayer(nn.Module):
    """y = H(x) T(x) + x (1 - T(x)), H = ReLU(convolution), T = sigmoid(convolution), both 3x3 (1505.00387, section 2).

    Written as the residual block y = x + T(x) (H(x) - x). The branch gate is a factor of T, so that 0 removes the layer
    (y = x). The skip gate is a factor of both x, which together are x (1 - T).

    Attributes:
      conv: constructor of a convolution with bias.
      transform_bias: initial bias of T.
    """

    conv: Callable[..., nn.Module]
    transform_bias: float

    @nn.compact
    def __call__(self, x: jax.Array, gates: Gates, train: bool) -> jax.Array:
        """Maps x [N, H, W, C] to the same shape."""
        del train
        # A layer that is left out only carries x; neither of its convolutions is run.
        transform, content = run_if_active(HighwayLayer.transformed, self, x, (x, x), gates.active)
        return gates.scale_skip(x) + gates.scale_branch(transform * (content - scale(x, gates.skip)))

    @nn.nowrap
    def transformed(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """T(x) and H(x)."""
        bias_init = nn.initializers.constant(self.transform_bias)
        transform = nn.sigmoid(self.conv(x.shape[-1], bias_init=bias_init, name="transform_conv")(x))
        return transform, relu(self.conv(x.shape[-1], name="conv")(x))


@register_model(
    "highway_10_<width>",
    module=Highway,
    paper=SRIVASTAVA_2015,
    input_shape=MNIST_SHAPE,
    facts=CIFAR_NETWORKS,
)
def _mnist(width: int) -> dict[str, Any]:
    """From the authors' released configuration for MNIST, which has width 32."""
    return {
        "stage_sizes": (2, 3, 3),
        "widths": (width,) * 3,
        "head_width": None,
        "transform_bias": -1.0,
        "dropout_rate": (0.2, 0.3, 0.4, 0.5),
        "stem_kernel_size": 5,
        "stem_padding": 0,
        "pool_window": 3,
        "flat_head": (3, 3),
        "stem_kernel_init": "xavier",
        "head_kernel_init": "normal_0.1",
    }
