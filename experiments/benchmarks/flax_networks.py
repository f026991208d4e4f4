"""Plain Flax counterparts of resjax's networks, layer for layer: `nn.Conv` and `nn.BatchNorm`, for comparisons."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import resjax.models
from resjax.layers import ORDERS, BlockSpec


def flax_network(model: resjax.models.Network) -> nn.Module | None:
    """A network of the same layers and dtype as `model`; None if it is neither ResNet .. ResNeXt nor a DenseNet."""
    if isinstance(model, resjax.models.DenseNet):
        return _DenseNet(model)
    if getattr(model, "stages", None) is None or getattr(model, "form", "grouped_convolution") != "grouped_convolution":
        return None
    if model.normalization != "batch" or model.streams is not None:
        return None
    return _Residual(model)


def _layers(model: Any, train: bool):
    """Constructors conv(features, size, stride, groups, dilation) and norm()."""

    def conv(features, size, stride=1, groups=1, dilation=1):
        padding, kernel = [(dilation * (size - 1) // 2,) * 2] * 2, (size, size)
        spread = {"feature_group_count": groups, "kernel_dilation": dilation}
        return nn.Conv(features, kernel, stride, padding, use_bias=False, dtype=model.dtype, **spread)

    return conv, functools.partial(nn.BatchNorm, not train, momentum=0.9, dtype=model.dtype)


def _stem(model: Any, conv, norm, features: int, activate: bool, x: jax.Array) -> jax.Array:
    is_large = model.stem == "imagenet"
    x = conv(features, 7 if is_large else 3, 2 if is_large else 1)(x)
    x = nn.relu(norm()(x)) if activate else x
    return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)]) if is_large else x


def _head(model: Any, x: jax.Array) -> jax.Array:
    return nn.Dense(model.num_classes, dtype=model.dtype)(x.mean((1, 2))).astype(jnp.float32)


class _Residual(nn.Module):
    """Networks of residual blocks in the orders "original" and "full_pre_activation"."""

    network: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        model = self.network
        conv, norm = _layers(model, train)
        specs = model.stages()
        is_pre = bool(ORDERS[specs[0].block.order].front)
        width = getattr(model, "stem_width", None) or model.widths[0]
        x = _stem(model, conv, norm, width, not is_pre or model.stem == "imagenet", x)
        for spec in specs:
            for i in range(spec.num_blocks):
                x = self._block(conv, norm, spec.transition if i == 0 else spec.block, is_pre, x)
        return _head(model, nn.relu(norm()(x)) if is_pre else x)

    @staticmethod
    def _block(conv, norm, spec: BlockSpec, is_pre: bool, x: jax.Array) -> jax.Array:
        changes, done = spec.strides != 1 or x.shape[-1] != spec.features, spec.is_activated
        if is_pre and spec.shares_activation:
            x, done = nn.relu(norm()(x)), True
        y = x
        for i, each in enumerate(spec.convs):
            if is_pre and not (i == 0 and done):
                y = nn.relu(norm()(y))
            y = conv(each.features, each.size, spec.strides if each.strided else 1, each.groups, each.dilation)(y)
            if not is_pre:
                y = norm()(y)
                y = nn.relu(y) if i + 1 < len(spec.convs) else y
        if spec.shortcut == "C" or (spec.shortcut == "B" and changes):
            x = conv(spec.features, 1, spec.strides)(x)
            x = x if is_pre else norm()(x)
        elif changes:
            x = jnp.pad(x[:, :: spec.strides, :: spec.strides], [(0, 0)] * 3 + [(0, spec.features - x.shape[-1])])
        y = y if spec.shortcut == "none" else y + x
        return y if is_pre else nn.relu(y)


class _DenseNet(nn.Module):
    network: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        model = self.network
        conv, norm = _layers(model, train)
        x = _stem(model, conv, norm, model.stem_width, model.stem == "imagenet", x)
        for i, num_layers in enumerate(model.stage_sizes):
            if i > 0:
                x = conv(int(x.shape[-1] * model.compression), 1)(nn.relu(norm()(x)))
                x = nn.avg_pool(x, (2, 2), (2, 2))
            for _ in range(num_layers):
                y = nn.relu(norm()(x))
                if model.bottleneck:
                    y = nn.relu(norm()(conv(4 * model.growth_rate, 1)(y)))
                x = jnp.concatenate([x, conv(model.growth_rate, 3)(y)], axis=-1)
        return _head(model, nn.relu(norm()(x)))
