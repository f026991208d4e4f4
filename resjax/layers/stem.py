"""The stem, between the image and the first stage."""

from collections.abc import Callable

import jax
from flax import linen as nn

from resjax.layers.activation import relu
from resjax.layers.pool import max_pool

STEM_STRIDES = {"cifar": 1, "cifar_max_pool": 2, "imagenet": 4}
STEMS = tuple(STEM_STRIDES)


class Stem(nn.Module):
    """A 3x3 convolution ("cifar"), then 3x3 max-pooling with stride 2 ("cifar_max_pool"), or both
    with a 7x7 convolution of stride 2 ("imagenet").

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
        """Maps images [N, H, W, C] to [N, H, W, features], a half or a quarter of the height and width."""
        is_large = self.kind == "imagenet"
        size = (7, 7) if is_large else (3, 3)
        x = self.conv(self.features, kernel_size=size, strides=2 if is_large else 1, name="conv")(images)
        pool = None if self.kind == "cifar" else max_pool
        if self.activate:
            norm = self.norm(name="norm")
            return norm(x, train, relu) if pool is None else norm(x, train, relu, pool)
        return x if pool is None else pool(x)
