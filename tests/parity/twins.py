"""ResNet and Wide ResNet for CIFAR in plain PyTorch, written from the papers' text, and the way of weights to them.

Submodules have the names of ours, so that a parameter's path is its key in `state_dict`.
"""

import collections

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity is with PyTorch: pip install 'resjax[parity]'")
nn = torch.nn
torch.set_num_threads(1)  # more of them spin while XLA's threads have the cores: 30 times slower on two


def _conv(inputs, outputs, size=3, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, padding=(size - 1) // 2, bias=False)


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


class Wide(nn.Module):
    """BN, ReLU, convolution, for each convolution of the block; a projection leaves after the first ReLU."""

    def __init__(self, inputs, outputs, stride, kernel_sizes):
        super().__init__()
        self.count = len(kernel_sizes)
        for i, size in enumerate(kernel_sizes):
            first = i == 0
            self.add_module(f"norm_{i + 1}", nn.BatchNorm2d(inputs if first else outputs))
            self.add_module(f"conv_{i + 1}", _conv(inputs if first else outputs, outputs, size, stride if first else 1))
        if inputs != outputs:
            self.shortcut_conv = _conv(inputs, outputs, 1, stride)

    def forward(self, x):
        activated = torch.relu(self.norm_1(x))
        y = self.conv_1(activated)
        for i in range(2, self.count + 1):
            y = getattr(self, f"conv_{i}")(torch.relu(getattr(self, f"norm_{i}")(y)))
        return y + (self.shortcut_conv(activated) if hasattr(self, "shortcut_conv") else x)


class Network(nn.Module):
    """Stem, stages, global average pooling, linear layer; a Wide ResNet has its only outer BN and ReLU at the end."""

    def __init__(self, widths, blocks, block, wide):
        super().__init__()
        stem = collections.OrderedDict(conv=_conv(3, 16))
        if wide:
            self.final_norm = nn.BatchNorm2d(widths[-1])
        else:
            stem |= {"norm": nn.BatchNorm2d(16), "relu": nn.ReLU()}
        self.stem = nn.Sequential(stem)
        self.wide, inputs = wide, 16
        for i, width in enumerate(widths, start=1):
            stage = collections.OrderedDict()
            for j in range(1, blocks + 1):
                stage[f"block_{j}"] = block(inputs, width, 2 if i > 1 and j == 1 else 1)
                inputs = width
            self.add_module(f"stage_{i}", nn.Sequential(stage))
        self.head = nn.Sequential(collections.OrderedDict(linear=nn.Linear(inputs, 10)))

    def forward(self, x):
        x = self.stage_3(self.stage_2(self.stage_1(self.stem(x))))
        x = torch.relu(self.final_norm(x)) if self.wide else x
        return self.head(x.mean((2, 3)))


def resnet(depth, option="A"):
    """He et al. 2015, section 4.2."""
    return Network((16, 32, 64), (depth - 2) // 6, lambda i, o, stride: Basic(i, o, stride, option), wide=False)


def wide_resnet(depth, k, kernel_sizes=(3, 3)):
    """Zagoruyko & Komodakis 2016, table 1."""
    widths, blocks = (16 * k, 32 * k, 64 * k), (depth - 4) // 6
    return Network(widths, blocks, lambda i, o, stride: Wide(i, o, stride, kernel_sizes), wide=True)


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
