"""The CIFAR networks of five papers in plain PyTorch, written from the papers' text, and the way of weights to them.

Submodules have the names of ours, so that a parameter's path is its key in `state_dict`.
"""

import collections

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity is with PyTorch: pip install 'resjax[parity]'")
nn = torch.nn
torch.set_num_threads(1)  # more of them spin while XLA's threads have the cores: 30 times slower on two


def _conv(inputs, outputs, size=3, stride=1, groups=1):
    return nn.Conv2d(inputs, outputs, size, stride, padding=(size - 1) // 2, groups=groups, bias=False)


class Basic(nn.Module):
    """Convolution, BN, ReLU, convolution, BN, addition, ReLU."""

    def __init__(self, inputs, outputs, stride, option):
        super().__init__()
        self.conv_1, self.norm_1 = _conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs)
        self.conv_2, self.norm_2 = _conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.appended, self.stride, self.option = outputs - inputs, stride, option
        self.projects = option == "C" or (option == "B" and inputs != outputs)
        if self.projects:
            self.shortcut_conv, self.shortcut_norm = _conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.norm_2(self.conv_2(torch.relu(self.norm_1(self.conv_1(x)))))
        if self.option == "none":
            return torch.relu(y)
        if self.projects:
            return torch.relu(y + self.shortcut_norm(self.shortcut_conv(x)))
        # fb.resnet.torch: average pooling over a window of one pixel, then a copy multiplied by zero.
        x = nn.functional.avg_pool2d(x, 1, self.stride)
        return torch.relu(y + nn.functional.pad(x, (0, 0, 0, 0, 0, self.appended)))


class PreActivation(nn.Module):
    """BN, ReLU, convolution, for each (size, features); a projection leaves after the first ReLU."""

    def __init__(self, inputs, convs, stride):
        super().__init__()
        self.count, outputs = len(convs), convs[-1][1]
        for i, (size, features) in enumerate(convs):
            before = convs[i - 1][1] if i else inputs
            self.add_module(f"norm_{i + 1}", nn.BatchNorm2d(before))
            self.add_module(f"conv_{i + 1}", _conv(before, features, size, 1 if i else stride))
        if inputs != outputs:
            self.shortcut_conv = _conv(inputs, outputs, 1, stride)

    def forward(self, x):
        activated = torch.relu(self.norm_1(x))
        y = self.conv_1(activated)
        for i in range(2, self.count + 1):
            y = getattr(self, f"conv_{i}")(torch.relu(getattr(self, f"norm_{i}")(y)))
        return y + (self.shortcut_conv(activated) if hasattr(self, "shortcut_conv") else x)


class GroupedBatchNorm(nn.BatchNorm2d):
    """BN of each `images` consecutive ones, as on a GPU of its own; running statistics are those of the whole batch."""

    def __init__(self, features, images):
        super().__init__(features)
        self.images = images

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            variance, mean = torch.var_mean(x, (0, 2, 3))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        parts = x.split(self.images)
        normal = nn.functional.batch_norm
        return torch.cat([normal(part, None, None, self.weight, self.bias, True, eps=self.eps) for part in parts])


class Aggregated(nn.Module):
    """A post-activation bottleneck with a grouped 3x3 convolution, which has the stride."""

    def __init__(self, inputs, inner, outputs, stride, cardinality, norm):
        super().__init__()
        self.conv_1, self.norm_1 = _conv(inputs, inner, 1), norm(inner)
        self.conv_2, self.norm_2 = _conv(inner, inner, 3, stride, cardinality), norm(inner)
        self.conv_3, self.norm_3 = _conv(inner, outputs, 1), norm(outputs)
        self.projects = inputs != outputs
        if self.projects:
            self.shortcut_conv, self.shortcut_norm = _conv(inputs, outputs, 1, stride), norm(outputs)

    def forward(self, x):
        y = torch.relu(self.norm_1(self.conv_1(x)))
        y = torch.relu(self.norm_2(self.conv_2(y)))
        y = self.norm_3(self.conv_3(y))
        return torch.relu(y + (self.shortcut_norm(self.shortcut_conv(x)) if self.projects else x))


def _named(modules):
    return nn.Sequential(collections.OrderedDict(modules))


class Network(nn.Module):
    """Stem, stages, global average pooling, linear layer.

    Post-activation networks have BN and ReLU in the stem, pre-activation ones (`pre`) at the end instead.
    `block(inputs, width, stride)` builds a block of a stage of `width` that puts out `expansion` * width channels.
    """

    def __init__(self, widths, blocks, block, pre, stem=16, expansion=1, norm=nn.BatchNorm2d):
        super().__init__()
        own = {} if pre else {"norm": norm(stem), "relu": nn.ReLU()}
        self.stem = _named({"conv": _conv(3, stem), **own})
        self.pre, inputs = pre, stem
        for i, width in enumerate(widths, start=1):
            stage = {}
            for j in range(1, blocks + 1):
                stage[f"block_{j}"] = block(inputs, width, 2 if i > 1 and j == 1 else 1)
                inputs = expansion * width
            self.add_module(f"stage_{i}", _named(stage))
        if pre:
            self.final_norm = norm(inputs)
        self.head = _named({"linear": nn.Linear(inputs, 10)})

    def forward(self, x):
        x = self.stage_3(self.stage_2(self.stage_1(self.stem(x))))
        x = torch.relu(self.final_norm(x)) if self.pre else x
        return self.head(x.mean((2, 3)))


class DenseLayer(nn.Module):
    """BN, ReLU, 3x3 convolution; what comes out is put behind what came in."""

    def __init__(self, inputs, growth_rate):
        super().__init__()
        self.norm_1, self.conv_1 = nn.BatchNorm2d(inputs), _conv(inputs, growth_rate)

    def forward(self, x):
        return torch.cat([x, self.conv_1(torch.relu(self.norm_1(x)))], 1)


class DenseNetwork(nn.Module):
    """Three blocks of layers; between them BN, ReLU, 1x1 convolution, 2x2 average pooling; BN and ReLU at the end."""

    def __init__(self, layers, growth_rate):
        super().__init__()
        width = 16
        self.stem = _named({"conv": _conv(3, width)})
        for i in (1, 2, 3):
            block = {f"layer_{j + 1}": DenseLayer(width + j * growth_rate, growth_rate) for j in range(layers)}
            self.add_module(f"stage_{i}", _named(block))
            width += layers * growth_rate
            if i < 3:
                between = {"norm": nn.BatchNorm2d(width), "relu": nn.ReLU(), "conv": _conv(width, width, 1)}
                self.add_module(f"transition_{i}", _named({**between, "pool": nn.AvgPool2d(2)}))
        self.final_norm, self.head = nn.BatchNorm2d(width), _named({"linear": nn.Linear(width, 10)})

    def forward(self, x):
        x = self.transition_1(self.stage_1(self.stem(x)))
        x = self.stage_3(self.transition_2(self.stage_2(x)))
        return self.head(torch.relu(self.final_norm(x)).mean((2, 3)))


def resnet(depth, option="A"):
    """He et al. 2015, section 4.2."""
    return Network((16, 32, 64), (depth - 2) // 6, lambda i, o, stride: Basic(i, o, stride, option), pre=False)


def preact_bottleneck(depth):
    """He et al. 2016, section 4 and appendix: 1x1, 3x3, 1x1; the stride is the first's, as in the authors' code."""

    def block(inputs, width, stride):
        return PreActivation(inputs, ((1, width), (3, width), (1, 4 * width)), stride)

    return Network((16, 32, 64), (depth - 2) // 9, block, pre=True, expansion=4)


def wide_resnet(depth, k, kernel_sizes=(3, 3)):
    """Zagoruyko & Komodakis 2016, table 1."""

    def block(inputs, width, stride):
        return PreActivation(inputs, [(size, width) for size in kernel_sizes], stride)

    return Network((16 * k, 32 * k, 64 * k), (depth - 4) // 6, block, pre=True)


def resnext(depth, cardinality, base_width, images_of_a_gpu):
    """Xie et al. 2017, section 5.3 and table 7: C paths of width d in the first stage, outputs 256, 512, 1024."""

    def norm(features):
        return GroupedBatchNorm(features, images_of_a_gpu)

    def block(inputs, width, stride):
        inner = cardinality * (base_width * width // 64)
        return Aggregated(inputs, inner, 4 * width, stride, cardinality, norm)

    return Network((64, 128, 256), (depth - 2) // 9, block, pre=False, stem=64, expansion=4, norm=norm)


def densenet(depth, growth_rate):
    """Huang et al. 2017, section 3: without bottlenecks and compression, 16 channels in the stem."""
    return DenseNetwork((depth - 4) // 3, growth_rate)


_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def to_torch(tree):
    """{key of `state_dict`: array} of our parameters, gradients or statistics; HWIO to OIHW, [in, out] to [out, in]."""
    arrays = {}

    def walk(node, path):
        for name, child in node.items():
            if hasattr(child, "items"):
                walk(child, (*path, name))
            else:
                array = np.asarray(child)
                axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim) if name == "kernel" else None
                arrays[".".join((*path, _TORCH_NAMES.get(name, name)))] = array.transpose(axes) if axes else array

    walk(tree, ())
    return arrays


def load(twin, variables, dtype=torch.float32):
    """`twin` in `dtype` with our parameters and running statistics, every one of its own replaced."""
    twin = twin.to(dtype)
    state = {**to_torch(variables["params"]), **to_torch(variables["batch_stats"])}
    own = {key for key in twin.state_dict() if not key.endswith("num_batches_tracked")}
    assert own == set(state), own ^ set(state)
    twin.load_state_dict({key: torch.tensor(array) for key, array in state.items()}, strict=False)
    return twin
