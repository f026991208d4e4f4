"""Highway networks (Srivastava et al. 2015, arXiv 1505.00387 and 1507.06228)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from resjax.layers import ClassifierHead, Conv, Gates, Stage, StageSpec, initializer, relu, run_if_active, scale
from resjax.models.inputs import check_positive, check_rate
from resjax.models.network import Network
from resjax.models.resnet import check_stages


class Highway(Network):
    """Stages of a convolution C R and highway layers, 2x2 max-pooling and dropout between them; no BN.

    The default is the authors' 19-layer network for CIFAR, from their released configuration: 3 convolutions, 14
    highway layers, a 1x1 convolution and the linear layer.

    Fields of every network (`num_classes`, `dtype`, `stochastic_depth`, ...): see `Network`. Biases start at 0.

    Attributes:
      stage_sizes: highway layers in each stage.
      widths: channels of each stage.
      head_width: channels of the 1x1 convolution and ReLU before pooling; None leaves it out.
      transform_bias: initial bias of the transform gates, negative so that layers start as carriers.
      dropout_rate: share dropped before each stage and before the linear layer.
      stem_kernel_init: initialiser of the first convolution; the released configuration names no std, so that Caffe
        takes 1.
    """

    stage_sizes: tuple[int, ...] = (4, 5, 5)
    widths: tuple[int, ...] = (32, 80, 128)
    head_width: int | None = 100
    transform_bias: float = -2.0
    dropout_rate: float = 0.2
    stem_kernel_init: Any = "normal_1"
    kernel_init: Any = "xavier"
    head_kernel_init: Any = "normal_0.05"

    def __post_init__(self):
        check_stages(self.stage_sizes, self.widths)
        if self.head_width is not None:
            check_positive("head_width", self.head_width)
        check_rate("dropout_rate", self.dropout_rate)
        initializer(self.stem_kernel_init, "stem_kernel_init")
        super().__post_init__()

    @property
    def num_blocks(self) -> int:
        """Number of highway layers, the length of a gate array."""
        return sum(self.stage_sizes)

    @property
    def minimum_size(self) -> int:
        """Least height and width of an image: each pooling halves them."""
        return 2 ** (len(self.stage_sizes) - 1)

    @nn.nowrap
    def make_head(self) -> ClassifierHead:
        """The classifier, with dropout before it."""
        inits = (self.head_kernel_init, self.head_bias_init)
        return ClassifierHead(self.num_classes, *inits, self.dropout_rate, name="head")

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The stages' outputs by name, [N, H', W', C'] each; "final" is what the classifier pools."""
        if train and self.dropout_rate > 0:
            self.require_key(f"dropout_rate={self.dropout_rate}")
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=self.kernel_init, use_bias=True)
        x, outputs, first = images, {}, 0
        for i, (num_layers, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            if i > 0:
                x = nn.max_pool(x, (2, 2), (2, 2))
            x = nn.Dropout(self.dropout_rate, deterministic=not train, name=f"dropout_{i + 1}")(x)
            init = self.kernel_init if i else self.stem_kernel_init
            x = relu(conv(width, kernel_init=init, name=f"conv_{i + 1}")(x))
            outputs = outputs or {"stem": x}
            layer = functools.partial(HighwayLayer, conv, self.transform_bias)
            name = f"stage_{i + 1}"
            x = outputs[name] = Stage(StageSpec(layer, layer, num_layers), first, name=name)(x, gates, train)
            first += num_layers
        if self.head_width is not None:
            x = relu(conv(self.head_width, kernel_size=(1, 1), name="final_conv")(x))
        return outputs | {"final": x}


class HighwayLayer(nn.Module):
    """y = H(x) T(x) + x (1 - T(x)), H = ReLU(convolution), T = sigmoid(convolution), both 3x3 (1505.00387, section 2).

    Written as the residual block y = x + T(x) (H(x) - x): the branch gate is a factor of T, so that 0 leaves the layer
    out (y = x); the skip gate one of both x, which leaves x (1 - T) of it.

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
        # A layer that is left out carries x alone; both convolutions belong to what is not run then.
        transform, content = run_if_active(HighwayLayer.transformed, self, x, (x, x), gates.active)
        return gates.scale_skip(x) + gates.scale_branch(transform * (content - scale(x, gates.skip)))

    @nn.nowrap
    def transformed(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """T(x) and H(x)."""
        bias_init = nn.initializers.constant(self.transform_bias)
        transform = nn.sigmoid(self.conv(x.shape[-1], bias_init=bias_init, name="transform_conv")(x))
        return transform, relu(self.conv(x.shape[-1], name="conv")(x))
