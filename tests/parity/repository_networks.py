"""The usual PyTorch repositories for CIFAR, in small: networks of their functions under their names.

Written anew from what their code computes. They differ in names, in where a shortcut leaves and its zero channels go.
"""

import collections

from tests.parity import twins

torch = twins.torch
nn, functional = torch.nn, torch.nn.functional


def _conv(inputs, outputs, size=3, stride=1, groups=1):
    return nn.Conv2d(inputs, outputs, size, stride, (size - 1) // 2, groups=groups, bias=False)


class Modules(nn.Module):
    """Modules by name, for the names that no attribute can have or that a loop makes."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def _sequential(**modules):
    return nn.Sequential(collections.OrderedDict(modules))


def _pooled(head, x):
    return head(x.mean((2, 3)))


class PostBlock(Modules):
    """Convolution and BN by the names of `pairs`, ReLU between, addition, ReLU."""

    def __init__(self, pairs, skip, **modules):
        super().__init__(**modules)
        self.pairs, self.skip = pairs, skip

    def forward(self, x):
        y = x
        for i, (conv, norm) in enumerate(self.pairs):
            y = getattr(self, norm)(getattr(self, conv)(torch.relu(y) if i > 0 else y))
        return torch.relu(y + (getattr(self, self.skip)(x) if isinstance(self.skip, str) else self.skip(x)))


def _basic(inputs, outputs, stride, shortcut):
    """A basic block of akamaster ("A"), or one with a projection under the name that is given."""
    modules = {
        "conv1": _conv(inputs, outputs, stride=stride),
        "bn1": nn.BatchNorm2d(outputs),
        "conv2": _conv(outputs, outputs),
        "bn2": nn.BatchNorm2d(outputs),
    }
    pairs = (("conv1", "bn1"), ("conv2", "bn2"))
    if inputs == outputs:
        return PostBlock(pairs, lambda x: x, **modules)
    if shortcut == "A":
        quarter = outputs // 4  # as many zero channels on either side
        pads = (0, 0, 0, 0, quarter, quarter)
        return PostBlock(pairs, lambda x: functional.pad(x[:, :, ::2, ::2], pads), **modules)
    modules[shortcut] = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
    return PostBlock(pairs, shortcut, **modules)


class Basic(Modules):
    """akamaster/pytorch_resnet_cifar10, kuangliu/pytorch-cifar, chenyaofo/pytorch-cifar-models."""

    def __init__(self, shortcut, head):
        stages = {
            f"layer{i}": nn.Sequential(_basic(inputs, width, stride, shortcut), _basic(width, width, 1, shortcut))
            for i, inputs, width, stride in ((1, 8, 8, 1), (2, 8, 16, 2), (3, 16, 32, 2))
        }
        super().__init__(conv1=_conv(3, 8), bn1=nn.BatchNorm2d(8), **stages, **{head: nn.Linear(32, 10)})
        self.head = head

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return _pooled(getattr(self, self.head), x)


class Aggregated(Modules):
    """prlz77/ResNeXt.pytorch with cardinality 4 and widen_factor 4."""

    def __init__(self):
        stages, inputs = {}, 64
        for i, (width, stride) in enumerate(((64, 1), (128, 2)), start=1):
            inner, outputs = width // 4, 4 * width
            modules = {
                "conv_reduce": _conv(inputs, inner, 1),
                "bn_reduce": nn.BatchNorm2d(inner),
                "conv_conv": _conv(inner, inner, 3, stride, groups=4),
                "bn": nn.BatchNorm2d(inner),
                "conv_expand": _conv(inner, outputs, 1),
                "bn_expand": nn.BatchNorm2d(outputs),
                "shortcut": _sequential(
                    shortcut_conv=_conv(inputs, outputs, 1, stride), shortcut_bn=nn.BatchNorm2d(outputs)
                ),
            }
            pairs = (("conv_reduce", "bn_reduce"), ("conv_conv", "bn"), ("conv_expand", "bn_expand"))
            stages[f"stage_{i}"] = _sequential(**{f"stage_{i}_bottleneck_0": PostBlock(pairs, "shortcut", **modules)})
            inputs = outputs
        super().__init__(conv_1_3x3=_conv(3, 64), bn_1=nn.BatchNorm2d(64), **stages, classifier=nn.Linear(inputs, 10))

    def forward(self, x):
        return _pooled(self.classifier, self.stage_2(self.stage_1(torch.relu(self.bn_1(self.conv_1_3x3(x))))))


class PreBlock(nn.Module):
    """BN, ReLU, convolution, twice; where `both`, the shortcut leaves behind the first ReLU."""

    def __init__(self, inputs, outputs, stride, both, projection):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, stride=stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs)
        self.both, self.projection = both, projection if inputs != outputs else None
        if inputs != outputs:
            conv = _conv(inputs, outputs, 1, stride)
            self.add_module(projection, _sequential(conv=conv) if projection == "shortcut" else conv)

    def forward(self, x):
        activated = torch.relu(self.bn1(x))
        y = self.conv2(torch.relu(self.bn2(self.conv1(activated))))
        x = activated if self.both else x
        return y + (getattr(self, self.projection)(x) if self.projection else x)


def _pre_stages(widths, projection, both_at_first):
    """Two blocks for each width; `both_at_first` in the first of every stage, else where the width changes."""
    inputs = 16
    for i, width in enumerate(widths):
        first = PreBlock(inputs, width, 2 if i else 1, both_at_first or inputs != width, projection)
        yield first, PreBlock(width, width, 1, False, projection)
        inputs = width


class Wide(Modules):
    """xternalz/WideResNet-pytorch."""

    def __init__(self, k):
        widths = (16 * k, 32 * k, 64 * k)
        stages = {
            f"block{i}": Modules(layer=nn.Sequential(*blocks))
            for i, blocks in enumerate(_pre_stages(widths, "convShortcut", False), start=1)
        }
        super().__init__(conv1=_conv(3, 16), **stages, bn1=nn.BatchNorm2d(64 * k), fc=nn.Linear(64 * k, 10))

    def forward(self, x):
        x = self.conv1(x)
        for stage in (self.block1, self.block2, self.block3):
            x = stage.layer(x)
        return _pooled(self.fc, torch.relu(self.bn1(x)))


class Hysts(Modules):
    """hysts/pytorch_image_classification: resnet_preact with its usual config, and wrn."""

    def __init__(self, widths, both_at_first):
        stages = {
            f"stage{i}": _sequential(block1=first, block2=second)
            for i, (first, second) in enumerate(_pre_stages(widths, "shortcut", both_at_first), start=1)
        }
        super().__init__(conv=_conv(3, 16), **stages, bn=nn.BatchNorm2d(widths[-1]), fc=nn.Linear(widths[-1], 10))

    def forward(self, x):
        x = self.stage3(self.stage2(self.stage1(self.conv(x))))
        return _pooled(self.fc, torch.relu(self.bn(x)))


def functional_wide(k):
    """szagoruyko/wide-residual-networks: a function and its arrays in one dictionary, a kernel under a bare name."""
    state, widths = {}, (16 * k, 32 * k, 64 * k)

    def conv(name, inputs, outputs, size=3):
        state[name] = torch.zeros(outputs, inputs, size, size, dtype=torch.float64)

    def norm(name, features):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{leaf}"] = torch.zeros(features, dtype=torch.float64)

    conv("conv0", 3, 16)
    for i, (inputs, width) in enumerate(zip((16, *widths), widths, strict=False)):
        for j in range(2):
            block, before = f"group{i}.block{j}", width if j else inputs
            norm(f"{block}.bn0", before)
            conv(f"{block}.conv0", before, width)
            norm(f"{block}.bn1", width)
            conv(f"{block}.conv1", width, width)
            if before != width:
                conv(f"{block}.convdim", before, width, 1)
    norm("bn", widths[-1])
    state["fc.weight"] = torch.zeros(10, widths[-1], dtype=torch.float64)
    state["fc.bias"] = torch.zeros(10, dtype=torch.float64)

    def activated(name, x):
        leaves = (state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return torch.relu(functional.batch_norm(x, *leaves))

    def forward(x):
        x = functional.conv2d(x, state["conv0"], padding=1)
        for i in range(3):
            for j in range(2):
                block, stride = f"group{i}.block{j}", 2 if i and not j else 1
                first = activated(f"{block}.bn0", x)
                y = functional.conv2d(first, state[f"{block}.conv0"], stride=stride, padding=1)
                y = functional.conv2d(activated(f"{block}.bn1", y), state[f"{block}.conv1"], padding=1)
                projection = state.get(f"{block}.convdim")
                x = y + (x if projection is None else functional.conv2d(first, projection, stride=stride))
        return functional.linear(activated("bn", x).mean((2, 3)), state["fc.weight"], state["fc.bias"])

    return forward, state


class DenseLayer(Modules):
    """BN, ReLU, convolution once or, with a bottleneck, twice; what comes out is put behind what came in."""

    def __init__(self, inputs, growth_rate, bottleneck, norm):
        convs = [(inputs, growth_rate, 3)]
        if bottleneck:
            convs = [(inputs, 4 * growth_rate, 1), (4 * growth_rate, growth_rate, 3)]
        modules = {}
        for i, (before, after, size) in enumerate(convs, start=1):
            modules |= {f"{norm}{i}": nn.BatchNorm2d(before), f"conv{i}": _conv(before, after, size)}
        super().__init__(**modules)
        self.pairs = [(f"{norm}{i}", f"conv{i}") for i in range(1, len(convs) + 1)]

    def forward(self, x):
        y = x
        for norm, conv in self.pairs:
            y = getattr(self, conv)(torch.relu(getattr(self, norm)(y)))
        return torch.cat([x, y], 1)


def _transition(norm, conv, inputs, outputs):
    modules = {norm: nn.BatchNorm2d(inputs), "relu": nn.ReLU(), conv: _conv(inputs, outputs, 1)}
    return _sequential(**modules, pool=nn.AvgPool2d(2))


class Dense(Modules):
    """andreasveit/densenet-pytorch, three blocks of two layers, k = 4."""

    def __init__(self, bottleneck, compression):
        modules, inputs = {"conv1": _conv(3, 8)}, 8
        for i in (1, 2, 3):
            layers = [DenseLayer(inputs + 4 * j, 4, bottleneck, "bn") for j in range(2)]
            modules[f"block{i}"], inputs = Modules(layer=nn.Sequential(*layers)), inputs + 8
            if i < 3:
                outputs = int(inputs * compression)
                modules[f"trans{i}"], inputs = _transition("bn1", "conv1", inputs, outputs), outputs
        super().__init__(**modules, bn1=nn.BatchNorm2d(inputs), fc=nn.Linear(inputs, 10))

    def forward(self, x):
        x = self.trans1(self.block1.layer(self.conv1(x)))
        x = self.block3.layer(self.trans2(self.block2.layer(x)))
        return _pooled(self.fc, torch.relu(self.bn1(x)))


class EfficientDense(Modules):
    """gpleiss/efficient_densenet_pytorch for small images, three blocks of two layers, k = 4."""

    def __init__(self):
        features, inputs = {"conv0": _conv(3, 8)}, 8
        for i in (1, 2, 3):
            layers = {f"denselayer{j + 1}": DenseLayer(inputs + 4 * j, 4, True, "norm") for j in range(2)}
            features[f"denseblock{i}"], inputs = _sequential(**layers), inputs + 8
            if i < 3:
                features[f"transition{i}"], inputs = _transition("norm", "conv", inputs, inputs // 2), inputs // 2
        features["norm_final"] = nn.BatchNorm2d(inputs)
        super().__init__(features=_sequential(**features), classifier=nn.Linear(inputs, 10))

    def forward(self, x):
        return _pooled(self.classifier, torch.relu(self.features(x)))
