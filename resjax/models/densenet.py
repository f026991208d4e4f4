"""DenseNet and DenseNet-BC (Huang et al. 2016, arXiv 1608.06993)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import CONV_OUTPUT, STEMS, Gates, Stem, relu
from resjax.models.inputs import check_choice, check_positive, check_rate
from resjax.models.network import NormalizedNetwork


class DenseNet(NormalizedNetwork):
    """Stem, dense blocks with transitions between them, BN ReLU, global pooling, linear (section 3).

    Fields of every network (`num_classes`, `dtype`, `features_only`, ...): see `Network` and `NormalizedNetwork`.

    Attributes:
      stage_sizes: layers in each dense block.
      growth_rate: k, channels that each layer adds.
      stem_width: channels of the stem: 16 for the CIFAR networks, 2k for BC networks and for ImageNet.
      bottleneck: whether a 1x1 convolution with 4k channels comes before each 3x3 (DenseNet-B).
      compression: theta, the share of channels that a transition keeps (DenseNet-C below 1).
      dropout_rate: share dropped after every convolution but the stem's; 0.2 in the paper, without augmentation only.
      stem: "cifar" or "imagenet", see `resjax.layers.Stem`; BN and ReLU follow the latter alone.
      memory_efficient: compute concatenation, BN and ReLU again for the gradient and keep the convolutions' outputs
        alone: memory grows with the number of layers, not with its square (Pleiss et al. 2017, arXiv 1707.06990).
        XLA's CPU backend undoes this unless compiled with `xla_disable_hlo_passes=cse_barrier_expander`.
    """

    stage_sizes: tuple[int, ...] = (16, 16, 16)
    growth_rate: int = 12
    stem_width: int = 24
    bottleneck: bool = True
    compression: float = 0.5
    dropout_rate: float = 0.0
    stem: str = "cifar"
    memory_efficient: bool = False

    def __post_init__(self):
        for field in ("stage_sizes", "growth_rate", "stem_width"):
            check_positive(field, getattr(self, field))
        check_rate("dropout_rate", self.dropout_rate)
        check_choice("stem", self.stem, STEMS)
        if isinstance(self.compression, bool) or not 0 < self.compression <= 1:
            raise InputError(f"compression: expected a number in (0, 1], got {self.compression!r}")
        super().__post_init__()

    @property
    def minimum_size(self) -> int:
        """Least height and width of an image: the stem may quarter them, each transition halves them."""
        least = 2 ** (len(self.stage_sizes) - 1)
        return 4 * least - 3 if self.stem == "imagenet" else least

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The dense blocks' outputs by name, before their transitions; "final" is what the classifier pools."""
        if train and self.dropout_rate > 0:
            self.require_key(f"dropout_rate={self.dropout_rate}")
        conv, norm = self.conv_and_norm()
        x = Stem(conv, norm, self.stem_width, self.stem, activate=self.stem == "imagenet", name="stem")(images, train)
        outputs = {"stem": x}
        for i, num_layers in enumerate(self.stage_sizes):
            if i > 0:
                x = Transition(conv, norm, self.compression, self.dropout_rate, name=f"transition_{i}")(x, train)
            block = DenseBlock(
                conv,
                norm,
                num_layers,
                self.growth_rate,
                self.bottleneck,
                self.dropout_rate,
                self.memory_efficient,
                name=f"stage_{i + 1}",
            )
            x = outputs[f"stage_{i + 1}"] = block(x, train)
        return outputs | {"final": relu(norm(name="final_norm")(x, train))}


class DenseBlock(nn.Module):
    """Layers of which each reads the block's input and all layers before it (section 3, eq. 2).

    Attributes:
      conv, norm: constructors of the convolution and of the normalisation.
      num_layers, growth_rate, bottleneck, dropout_rate, memory_efficient: see `DenseNet`.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    num_layers: int
    growth_rate: int
    bottleneck: bool
    dropout_rate: float
    memory_efficient: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps x [N, H, W, C] to [N, H, W, C + num_layers * growth_rate]."""
        layer = DenseLayer
        if self.memory_efficient:
            policy = jax.checkpoint_policies.save_only_these_names(CONV_OUTPUT)
            layer = nn.remat(DenseLayer, policy=policy, static_argnums=(2,))
        parts = [x]
        for i in range(self.num_layers):
            name = f"layer_{i + 1}"
            new = layer(self.conv, self.norm, self.growth_rate, self.bottleneck, self.dropout_rate, name=name)
            parts.append(new(parts, train))
        return jnp.concatenate(parts, axis=-1)


class DenseLayer(nn.Module):
    """BN R C(3) k, or with a bottleneck BN R C(1) 4k BN R C(3) k; dropout after each convolution.

    Attributes:
      conv, norm: constructors of the convolution and of the normalisation.
      growth_rate, bottleneck, dropout_rate: see `DenseNet`.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    growth_rate: int
    bottleneck: bool
    dropout_rate: float

    @nn.compact
    def __call__(self, parts: list[jax.Array], train: bool) -> jax.Array:
        """Maps what came before, each [N, H, W, C_i], to [N, H, W, growth_rate]."""
        x = jnp.concatenate(parts, axis=-1)
        convs = [(3, self.growth_rate)]
        if self.bottleneck:
            convs.insert(0, (1, 4 * self.growth_rate))
        for i, (size, features) in enumerate(convs):
            x = relu(self.norm(name=f"norm_{i + 1}")(x, train))
            x = self.conv(features, kernel_size=(size, size), name=f"conv_{i + 1}")(x)
            x = nn.Dropout(self.dropout_rate, deterministic=not train, name=f"dropout_{i + 1}")(x)
        return x


class Transition(nn.Module):
    """BN R C(1), dropout, 2x2 average pooling, between two dense blocks.

    Attributes:
      conv, norm: constructors of the convolution and of the normalisation.
      compression, dropout_rate: see `DenseNet`.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    compression: float
    dropout_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps x [N, H, W, C] to [N, H / 2, W / 2, floor(compression * C)]."""
        x = relu(self.norm(name="norm")(x, train))
        x = self.conv(int(x.shape[-1] * self.compression), kernel_size=(1, 1), name="conv")(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        return nn.avg_pool(x, (2, 2), (2, 2))
