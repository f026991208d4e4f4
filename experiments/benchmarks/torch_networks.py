"""PyTorch counterparts of resjax's networks, layer for layer, for the benchmark."""

import torch
import torch.nn.functional as F
from torch import nn

import resjax.models
from resjax.errors import InputError
from resjax.layers import ORDERS, BlockSpec, relu


def torch_network(model: resjax.models.Network, channels: int = 3) -> nn.Module:
    """A PyTorch network of the same layers as `model`, with PyTorch's initial weights.

    What `model` consists of decides, not its class: any `ResidualNetwork` whose stages are of `BlockSpec`s, and any
    network with the fields of `DenseNet`.

    Raises:
      InputError: for other networks, and for what a block of theirs has and `_Block` has not.
    """
    if hasattr(model, "growth_rate"):
        return _DenseNet(model, channels)
    if not hasattr(model, "stages") or getattr(model, "form", "grouped_convolution") != "grouped_convolution":
        raise InputError(
            f"no PyTorch counterpart of {type(model).__name__}: known are networks of residual blocks and of dense"
            " blocks, with grouped convolutions"
        )
    if model.normalization != "batch" or model.streams is not None:
        raise InputError(
            f"no PyTorch counterpart of a network with normalization {model.normalization!r} and streams"
            f" {model.streams}"
        )
    return _Residual(model, channels)


def _conv(inputs, outputs, size, stride=1, groups=1, dilation=1):
    padding = dilation * (size - 1) // 2
    return nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups, dilation=dilation, bias=False)


class _Stem(nn.Sequential):
    def __init__(self, kind, channels, features, activate):
        is_large, pools = kind == "imagenet", kind != "cifar"
        layers = [_conv(channels, features, 7 if is_large else 3, 2 if is_large else 1)]
        if activate:
            layers += [nn.BatchNorm2d(features), nn.ReLU(inplace=True)]
        if pools:
            layers.append(nn.MaxPool2d(3, 2, 1))
        super().__init__(*layers)


class _Block(nn.Module):
    """`resjax.layers.ResidualBlock` in the orders "original" and "full_pre_activation"."""

    def __init__(self, inputs: int, spec: BlockSpec):
        super().__init__()
        _check(spec)
        outputs, strides = spec.features, spec.strides
        changes = strides != 1 or inputs != outputs
        self.is_pre, self.strides, self.padded = bool(ORDERS[spec.order].front), strides, outputs - inputs
        self.is_first_done = spec.is_activated
        self.is_shared = self.is_pre and spec.shares_activation
        self.has_shortcut = spec.shortcut != "none"
        self.convs, self.norms, width = nn.ModuleList(), nn.ModuleList(), inputs
        for i, conv in enumerate(spec.convs):
            stride = strides if conv.strided else 1
            self.convs.append(_conv(width, conv.features, conv.size, stride, conv.groups, conv.dilation))
            skipped = self.is_pre and i == 0 and self.is_first_done
            normed = width if self.is_pre else conv.features
            self.norms.append(nn.Identity() if skipped else nn.BatchNorm2d(normed))
            width = conv.features
        self.projection = None
        if spec.shortcut == "C" or (spec.shortcut == "B" and changes):
            conv = _conv(inputs, outputs, 1, strides)
            self.projection = conv if self.is_pre else nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        done = self.is_first_done
        if self.is_shared:
            x, done = F.relu(self.norms[0](x)), True
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if self.is_pre:
                y = conv(y if i == 0 and done else F.relu(norm(y)))
            else:
                y = norm(conv(y))
                y = F.relu(y) if i + 1 < len(self.convs) else y
        if self.has_shortcut:
            y = y + self._shortcut(x)
        return y if self.is_pre else F.relu(y)

    def _shortcut(self, x):
        if self.projection is not None:
            return self.projection(x)
        if self.strides != 1 or self.padded:
            x = F.pad(x[:, :, :: self.strides, :: self.strides], (0, 0, 0, 0, 0, self.padded))
        return x


def _check(spec: BlockSpec) -> None:
    """Raises InputError for what `_Block` has not."""
    wanted = {
        f"order {spec.order!r}": spec.order in ("original", "full_pre_activation"),
        f"shortcut {spec.shortcut!r}": spec.shortcut in ("A", "B", "C", "none"),
        f"{spec.variant}": spec.variant is None,
        "dropout": not any(conv.dropout_rate for conv in spec.convs),
        f"{getattr(spec.activation, '__name__', spec.activation)}": spec.activation is relu,
    }
    if missing := [what for what, is_known in wanted.items() if not is_known]:
        raise InputError(f"no PyTorch counterpart of a block with {', '.join(missing)}")


class _Residual(nn.Module):
    def __init__(self, model, channels):
        super().__init__()
        specs = model.stages()
        is_pre = bool(ORDERS[specs[0].block.order].front)
        activate = specs[0].transition.is_activated if is_pre else True
        width = getattr(model, "stem_width", None) or model.widths[0]
        layers = [_Stem(model.stem, channels, width, activate)]
        for spec in specs:
            if spec.pool:
                layers.append(nn.MaxPool2d(3, 2, 1))
            for i in range(spec.num_blocks):
                block = spec.transition if i == 0 else spec.block
                layers.append(_Block(width, block))
                width = block.features
        if is_pre:
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, model.num_classes)

    def forward(self, x):
        return self.head(self.layers(x).mean((2, 3)))


class _DenseLayer(nn.Module):
    def __init__(self, inputs, growth_rate, bottleneck):
        super().__init__()
        layers, width = [], inputs
        if bottleneck:
            width = 4 * growth_rate
            layers = [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), _conv(inputs, width, 1)]
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(inplace=True), _conv(width, growth_rate, 3))

    def forward(self, x):
        return torch.cat([x, self.layers(x)], 1)


class _DenseNet(nn.Module):
    def __init__(self, model, channels):
        super().__init__()
        width = model.stem_width
        layers = [_Stem(model.stem, channels, width, activate=model.stem != "cifar")]
        for i, num_layers in enumerate(model.stage_sizes):
            if i > 0:
                kept = int(width * model.compression)
                layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True), _conv(width, kept, 1), nn.AvgPool2d(2)]
                width = kept
            for _ in range(num_layers):
                layers.append(_DenseLayer(width, model.growth_rate, model.bottleneck))
                width += model.growth_rate
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, model.num_classes)

    def forward(self, x):
        return self.head(self.layers(x).mean((2, 3)))
