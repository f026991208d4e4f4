"""DenseNet and DenseNet-BC (Huang et al. 2016, arXiv 1608.06993)."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import CONV_OUTPUT, STEM_STRIDES, Dropout, Gates, Stem, relu
from resjax.models.checks import blocks_of_depth, check_positive, check_rate
from resjax.models.network import NormalizedNetwork
from resjax.models.published import HUANG_2016_DENSE
from resjax.models.published.cifar import CIFAR_NETWORKS
from resjax.models.published.imagenet import IMAGENET_NETWORKS
from resjax.models.published.torch_names import DENSENET_NAMES
from resjax.models.registry import IMAGENET_SHAPE, register_model

# Table 1; 161 and its growth rate from the authors' code.
_MOST_LAYERS = 1000
_IMAGENET = {
    121: ((6, 12, 24, 16), 32),
    161: ((6, 12, 36, 24), 48),
    169: ((6, 12, 32, 32), 32),
    201: ((6, 12, 48, 32), 32),
    264: ((6, 12, 64, 48), 32),
}


class DenseNet(NormalizedNetwork):
    """Stem, dense blocks with transitions between them, BN ReLU, global pooling, linear (section 3).

    Fields of every network (`num_classes`, `dtype`, `features_only`, ...): see `Network` and `NormalizedNetwork`.

    Attributes:
      stage_sizes: layers in each dense block.
      growth_rate: k, channels that each layer adds.
      stem_width: channels of the stem: 16 for the CIFAR networks, 2k for BC networks and for ImageNet.
      bottleneck: whether a 1x1 convolution with 4k channels comes before each 3x3 (DenseNet-B).
      compression: theta, the fraction of channels that a transition keeps (DenseNet-C below 1).
      dropout_rate: fraction dropped after every convolution but the stem's; the paper: 0.2, only without augmentation.
      stem: one of `resjax.layers.STEMS`; BN and ReLU follow those that pool.
      memory_efficient: recompute concatenation, BN and ReLU for the gradient, and keep only the convolutions' outputs.
        Memory grows with the number of layers, not with its square (Pleiss et al. 2017, arXiv 1707.06990).
        XLA's CPU backend undoes this unless compiled with `xla_disable_hlo_passes=cse_barrier_expander`.
    """

    stage_sizes: tuple[int, ...] = (16, 16, 16)
    growth_rate: int = 12
    stem_width: int = 24
    bottleneck: bool = True
    compression: float = 0.5
    dropout_rate: float = 0.0
    stem: Literal["cifar", "cifar_max_pool", "imagenet"] = "cifar"
    memory_efficient: bool = False
    torch_names = DENSENET_NAMES

    def __post_init__(self):
        for field in ("stage_sizes", "growth_rate", "stem_width"):
            check_positive(field, getattr(self, field))
        if sum(self.stage_sizes) > _MOST_LAYERS:
            raise InputError(
                f"stage_sizes: {sum(self.stage_sizes):,} dense layers, of which each reads all before it; expected at"
                f" most {_MOST_LAYERS:,}"
            )
        check_rate("dropout_rate", self.dropout_rate)
        if isinstance(self.compression, bool) or not 0 < self.compression <= 1:
            raise InputError(f"compression: expected a number in (0, 1], got {self.compression!r}")
        super().__post_init__()

    @property
    def has_skips(self) -> bool:
        """True: each layer reads all layers before it."""
        return True

    @property
    def minimum_size(self) -> int:
        """Least height and width of an image: the stem may halve or quarter them, each transition halves them."""
        least = 2 ** (len(self.stage_sizes) - 1)
        return STEM_STRIDES[self.stem] * (least - 1) + 1

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The dense blocks' outputs by name, before their transitions; "final" is what the classifier pools."""
        conv, norm = self.conv_and_norm()
        x = Stem(conv, norm, self.stem_width, self.stem, activate=self.stem != "cifar", name="stem")(images, train)
        outputs, parts, moments = {"stem": x}, [x], None
        for i, num_layers in enumerate(self.stage_sizes):
            if i > 0:
                transition = Transition(conv, norm, self.compression, self.dropout_rate, name=f"transition_{i}")
                parts, moments = [transition(parts, moments, train)], None
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
            parts, moments = block(parts[0], train)
            outputs[f"stage_{i + 1}"] = jnp.concatenate(parts, axis=-1)
        return outputs | {"final": norm(name="final_norm")(parts, train, relu, moments=moments)[0]}


class DenseBlock(nn.Module):
    """Layers, each of which reads the block's input and all layers before it (section 3, eq. 2).

    Batch statistics belong to a channel, whichever layer reads it: they are computed once.

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
    def __call__(self, x: jax.Array, train: bool) -> tuple[list[jax.Array], jax.Array | None]:
        """(x [N, H, W, C] and the layers' outputs, each [N, H, W, growth_rate]; moments of all but the last)."""
        layer = DenseLayer
        if self.memory_efficient:
            policy = jax.checkpoint_policies.save_only_these_names(CONV_OUTPUT)
            layer = nn.remat(DenseLayer, policy=policy, static_argnums=(3,))
        parts, moments = [x], None
        for i in range(self.num_layers):
            name = f"layer_{i + 1}"
            new = layer(self.conv, self.norm, self.growth_rate, self.bottleneck, self.dropout_rate, name=name)
            y, moments = new(parts, moments, train)
            parts.append(y)
        return parts, moments


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
    def __call__(self, parts: list[jax.Array], moments: jax.Array | None, train: bool) -> tuple[jax.Array, Any]:
        """Maps the earlier outputs, each [N, H, W, C_i], to ([N, H, W, growth_rate], moments of the earlier outputs).

        `moments` are those of all earlier outputs but the last, see `BatchNorm`.
        """
        x, moments = self.norm(name="norm_1")(parts, train, relu, moments=moments)
        convs = [(3, self.growth_rate)]
        if self.bottleneck:
            convs.insert(0, (1, 4 * self.growth_rate))
        for i, (size, features) in enumerate(convs):
            x = x if i == 0 else self.norm(name=f"norm_{i + 1}")(x, train, relu)
            x = self.conv(features, kernel_size=(size, size), name=f"conv_{i + 1}")(x)
            x = Dropout(self.dropout_rate, deterministic=not train, name=f"dropout_{i + 1}")(x)
        return x, moments


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
    def __call__(self, parts: list[jax.Array], moments: jax.Array | None, train: bool) -> jax.Array:
        """Maps arrays of C channels together to [N, H / 2, W / 2, floor(compression * C)]."""
        x, _ = self.norm(name="norm")(parts, train, relu, moments=moments)
        x = self.conv(int(x.shape[-1] * self.compression), kernel_size=(1, 1), name="conv")(x)
        x = Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        return nn.avg_pool(x, (2, 2), (2, 2))


@register_model("densenet_<3n+4>_<k>", module=DenseNet, paper=HUANG_2016_DENSE, facts=CIFAR_NETWORKS)
def _cifar(depth: int, k: int) -> dict[str, Any]:
    # 16 channels as in the paper's text, which gives its counts; the authors' code has 2k.
    basic = {"stem_width": 16, "bottleneck": False, "compression": 1.0}
    return {"stage_sizes": (blocks_of_depth(depth, 3, 4),) * 3, "growth_rate": k, **basic}


@register_model("densenet_bc_<6n+4>_<k>", module=DenseNet, paper=HUANG_2016_DENSE, facts=CIFAR_NETWORKS)
def _cifar_bc(depth: int, k: int) -> dict[str, Any]:
    return {"stage_sizes": (blocks_of_depth(depth, 6, 4),) * 3, "growth_rate": k, "stem_width": 2 * k}


@register_model(
    "densenet_<121|161|169|201|264>",
    module=DenseNet,
    paper=HUANG_2016_DENSE,
    input_shape=IMAGENET_SHAPE,
    facts=IMAGENET_NETWORKS,
)
def _imagenet(depth: int) -> dict[str, Any]:
    stage_sizes, k = _IMAGENET[depth]
    sizes = {"stage_sizes": stage_sizes, "growth_rate": k, "stem_width": 2 * k}
    return {**sizes, "stem": "imagenet", "num_classes": 1000}
