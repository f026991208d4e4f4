"""A small residual network that learns in few epochs: that of Jordan 2024 (arXiv 2404.00498) with skips."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.layers import (
    BlockSpec,
    ConvSpec,
    Gates,
    Initializer,
    ResidualBlock,
    conv2d,
    gelu,
    initializer,
    max_pool_halved,
)
from resjax.models.checks import check_positive
from resjax.models.network import NormalizedNetwork
from resjax.models.published import JORDAN_2024
from resjax.models.published.cifar import CIFAR_NETWORKS
from resjax.models.registry import register_model

_PATCH = 2


@register_model("speed_resnet", paper=JORDAN_2024, facts=CIFAR_NETWORKS)
class SpeedResNet(NormalizedNetwork):
    """Whitened 2x2 patches, then stages of C(3), 2x2 max-pooling, BN, GELU and a residual block of one convolution.

    The layers, widths and initialisation are those of airbench94 (section 3 of the paper and its code, which has no
    skips). The sum in a block, before the nonlinearity, is that of the paper's larger networks. The stem's kernel is
    not a parameter: the training images decide it (`resjax.data.normalization.patch_whitening`), so that it is kept
    with the running statistics. The scales of BN are meant to stay at 1.

    Fields of every network (`num_classes`, `dtype`, `stochastic_depth`, ...): see `Network` and `NormalizedNetwork`.

    Attributes:
      widths: channels of each stage.
      whitening_init: initialiser of the stem's kernel [2, 2, C, 8 C]: a name in `resjax.layers.INITIALIZERS` or a
        function.
      logit_scale: factor of the logits.
    """

    widths: tuple[int, ...] = (64, 256, 256)
    whitening_init: Initializer = "he_normal_fan_in"
    logit_scale: float = 1 / 9
    kernel_init: Initializer = "dirac"
    norm_momentum: float = 0.6
    first_kernel: ClassVar[tuple[str, ...]] = ("batch_stats", "stem", "kernel")
    first_trained_kernel: ClassVar[tuple[str, ...]] = ("params", "stage_1", "conv_1", "kernel")

    def __post_init__(self):
        check_positive("widths", self.widths)
        super().__post_init__()

    @property
    def num_blocks(self) -> int:
        """Number of residual blocks, the length of a gate array."""
        return len(self.widths)

    @property
    def minimum_size(self) -> int:
        """Minimum height and width of an image: the patches remove a pixel, each stage halves the rest."""
        return 2 ** len(self.widths) + 1

    @nn.nowrap
    def make_head(self) -> nn.Module:
        """The classifier."""
        return PeakHead(self.num_classes, self.head_kernel_init, self.logit_scale, name="head")

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The stages' outputs by name, [N, H', W', C'] each; "final" is what the classifier pools."""
        conv, norm = self.conv_and_norm()
        x = PatchStem(self.whitening_init, self.dtype, name="stem")(images)
        outputs = {"stem": x}
        for i, width in enumerate(self.widths):
            name = f"stage_{i + 1}"
            x = outputs[name] = SpeedStage(conv, norm, width, name=name)(x, gates.block(i), train)
        return outputs | {"final": x}


class PatchStem(nn.Module):
    """A fixed convolution of 2x2 patches without padding, and GELU.

    Attributes:
      kernel_init: initialiser of the kernel [2, 2, C, 8 C], in the collection `batch_stats`.
      dtype: computation dtype.
    """

    kernel_init: Any
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [N, H, W, C] to [N, H - 1, W - 1, 8 C]."""
        channels = images.shape[-1]
        shape = (_PATCH, _PATCH, channels, 2 * _PATCH**2 * channels)
        init = initializer(self.kernel_init)
        kernel = self.variable("batch_stats", "kernel", lambda: init(self.make_rng("params"), shape, jnp.float32))
        return gelu(conv2d(images.astype(self.dtype), kernel.value.astype(self.dtype), 1, (0, 0)))


class SpeedStage(nn.Module):
    """C(3), 2x2 max-pooling, BN, GELU; then GELU(x + BN C(3) x).

    Attributes:
      conv, norm: constructors of the convolution and of the normalisation.
      width: channels of both convolutions.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, gates: Gates, train: bool) -> jax.Array:
        """Maps x [N, H, W, C] to [N, H // 2, W // 2, width]; `gates` are the block's gates."""
        x = max_pool_halved(self.conv(self.width, name="conv_1")(x))
        x = gelu(self.norm(name="norm_1")(x, train))
        spec = BlockSpec((ConvSpec(3, self.width),), activation=gelu)
        return ResidualBlock(self.conv, self.norm, spec, name="block_1")(x, gates, train)


class PeakHead(nn.Module):
    """Global max-pooling times a constant, and a linear layer without bias, in float32 (float64 if x is).

    Attributes:
      num_classes: number of logits; 0 returns the scaled features.
      kernel_init: initialiser of the linear layer's weights, or its name.
      logit_scale: factor of the features, and so of the logits.
    """

    num_classes: int
    kernel_init: Any
    logit_scale: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [N, H, W, C] to logits [N, num_classes], or to features [N, C]; the same in training."""
        x = self.logit_scale * self.pooled(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
        if self.num_classes == 0:
            return x
        linear = nn.Dense(self.num_classes, use_bias=False, kernel_init=initializer(self.kernel_init), name="linear")
        return linear(x)

    @nn.nowrap
    def pooled(self, x: jax.Array) -> jax.Array:
        """The largest value [N, C] of each channel of x [N, H, W, C]."""
        return x.max((1, 2))
