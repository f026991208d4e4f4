"""A plain network of equal layers in the manner of VGG, the comparison of Veit et al. 2016 (arXiv 1605.06431)."""

from collections.abc import Callable

import jax
from flax import linen as nn

from resjax.layers import Gates, max_pool_halved, relu
from resjax.models.checks import check_positive
from resjax.models.network import NormalizedNetwork
from resjax.models.published import VEIT_2016
from resjax.models.published.cifar import CIFAR_NETWORKS
from resjax.models.registry import register_model


@register_model("vgg_15", paper=VEIT_2016, facts=CIFAR_NETWORKS)
class VGG(NormalizedNetwork):
    """Stages of C(3) BN ReLU with 2x2 max-pooling between them, global pooling, linear: no shortcut anywhere.

    All layers have one width, so that any layer but the first can be removed and the rest still fits (section 4.1 of
    the paper, whose network has 15 layers: here 14 convolutions and the linear layer).

    Fields of every network (`num_classes`, `dtype`, `features_only`, ...): see `Network` and `NormalizedNetwork`.

    Attributes:
      stage_sizes: convolutions in each stage.
      width: channels of every convolution.
    """

    stage_sizes: tuple[int, ...] = (2, 3, 3, 3, 3)
    width: int = 128
    first_kernel = first_trained_kernel = ("params", "stage_1", "conv_1", "kernel")

    def __post_init__(self):
        check_positive("stage_sizes", self.stage_sizes)
        check_positive("width", self.width)
        super().__post_init__()

    @property
    def minimum_size(self) -> int:
        """Minimum height and width of an image: each pooling halves them."""
        return 2 ** (len(self.stage_sizes) - 1)

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The stages' outputs by name, [N, H', W', width] each; "final" is the last."""
        conv, norm = self.conv_and_norm()
        x, outputs = images, {}
        for i, num_layers in enumerate(self.stage_sizes):
            if i > 0:
                x = max_pool_halved(x)
            name = f"stage_{i + 1}"
            x = outputs[name] = PlainStage(conv, norm, self.width, num_layers, name=name)(x, train)
        return outputs | {"final": x}


class PlainStage(nn.Module):
    """Convolutions, each followed by BN and ReLU.

    Attributes:
      conv, norm: constructors of the convolution and of the normalisation.
      width: channels of every convolution.
      num_layers: number of convolutions.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    width: int
    num_layers: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps x [N, H, W, C] to [N, H, W, width]."""
        for i in range(self.num_layers):
            x = self.conv(self.width, name=f"conv_{i + 1}")(x)
            x = self.norm(name=f"norm_{i + 1}")(x, train, relu)
        return x
