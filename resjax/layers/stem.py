"""The stem: from an image to the first stage."""

from collections.abc import Callable

import jax
from flax import linen as nn

from resjax.layers.activation import relu
from resjax.layers.pool import max_pool

STEMS = ("cifar", "imagenet")


class Stem(nn.Module):
    """A 3x3 convolution ("cifar"), or 7x7 with stride 2 and 3x3 max-pooling with stride 2 ("imagenet").

    Attributes:
      conv, norm: constructors of the convolution and of the normalisation.
      features: output channels.
      kind: one of `STEMS`.
      activate: whether BN and ReLU follow the convolution.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    features: int
    kind: str
    activate: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Maps images [N, H, W, C] to [N, H, W, features], or to a quarter of the height and width."""
        is_large = self.kind == "imagenet"
        size = (7, 7) if is_large else (3, 3)
        x = self.conv(self.features, kernel_size=size, strides=2 if is_large else 1, name="conv")(images)
        if self.activate:
            x = relu(self.norm(name="norm")(x, train))
        return max_pool(x) if is_large else x
