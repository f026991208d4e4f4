"""ResNet-18 with a 3x3 stem, as the best known repositories for CIFAR name and build it, against ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import create_model, load_torch_weights
from tests.parity import twins
from tests.parity.random_state import randomize, to_nchw

torch = twins.torch
nn = torch.nn


def _conv(inputs, outputs, size=3, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class _Named(nn.Module):
    """A basic block or bottleneck of kuangliu ("shortcut") or torchvision ("downsample")."""

    def __init__(self, inputs, width, stride, expansion, shortcut):
        super().__init__()
        self.convs, self.shortcut_name = (2 if expansion == 1 else 3), shortcut
        sizes = [(3, stride), (3, 1)] if expansion == 1 else [(1, 1), (3, stride), (1, 1)]
        features = [inputs] + [width] * (self.convs - 1) + [width * expansion]
        for i, (size, strides) in enumerate(sizes):
            self.add_module(f"conv{i + 1}", _conv(features[i], features[i + 1], size, strides))
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(features[i + 1]))
        if stride != 1 or inputs != width * expansion:
            projection = _conv(inputs, width * expansion, 1, stride), nn.BatchNorm2d(width * expansion)
            self.add_module(shortcut, nn.Sequential(*projection))

    def forward(self, x):
        y = x
        for i in range(1, self.convs + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(torch.relu(y) if i > 1 else y))
        return torch.relu(y + (getattr(self, self.shortcut_name)(x) if hasattr(self, self.shortcut_name) else x))


class _Sequential(nn.Module):
    """A basic block or bottleneck of weiaicunzai."""

    def __init__(self, inputs, width, stride, expansion):
        super().__init__()
        sizes = [(3, stride), (3, 1)] if expansion == 1 else [(1, 1), (3, stride), (1, 1)]
        features = [inputs] + [width] * (len(sizes) - 1) + [width * expansion]
        modules = []
        for i, (size, strides) in enumerate(sizes):
            modules += [_conv(features[i], features[i + 1], size, strides), nn.BatchNorm2d(features[i + 1]), nn.ReLU()]
        self.residual_function, self.shortcut = nn.Sequential(*modules[:-1]), nn.Sequential()
        if stride != 1 or inputs != width * expansion:
            self.shortcut.append(_conv(inputs, width * expansion, 1, stride))
            self.shortcut.append(nn.BatchNorm2d(width * expansion))

    def forward(self, x):
        return torch.relu(self.residual_function(x) + self.shortcut(x))


class _ResNet(nn.Module):
    def __init__(self, block, expansion, sizes, stage, head, classes, pools=False, stem_is_one=False):
        super().__init__()
        self.stages, self.head, self.pools = [stage.format(i) for i in range(1, 5)], head, pools
        stem = _conv(3, 64), nn.BatchNorm2d(64)
        if stem_is_one:
            self.conv1, self.bn1 = nn.Sequential(*stem, nn.ReLU()), nn.Identity()
        else:
            self.conv1, self.bn1 = stem
        inputs = 64
        for i, (name, size) in enumerate(zip(self.stages, sizes, strict=True)):
            blocks = []
            for j in range(size):
                blocks.append(block(inputs, 64 * 2**i, 2 if i > 0 and j == 0 else 1, expansion))
                inputs = 64 * 2**i * expansion
            self.add_module(name, nn.Sequential(*blocks))
        self.add_module(head, nn.Linear(inputs, classes))

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.max_pool2d(x, 3, 2, 1) if self.pools else x
        for name in self.stages:
            x = getattr(self, name)(x)
        return getattr(self, self.head)(x.mean((2, 3)))


def _kuangliu(inputs, width, stride, expansion):
    return _Named(inputs, width, stride, expansion, "shortcut")


def _torchvision(inputs, width, stride, expansion):
    return _Named(inputs, width, stride, expansion, "downsample")


BASIC, DEEP = (1, (2, 2, 2, 2)), (4, (3, 4, 6, 3))
CASES = {
    "kuangliu": (lambda: _ResNet(_kuangliu, *BASIC, "layer{}", "linear", 10), "resnet_18", "cifar", 10),
    "kuangliu 50": (lambda: _ResNet(_kuangliu, *DEEP, "layer{}", "linear", 10), "resnet_50", "cifar", 10),
    "timm": (lambda: _ResNet(_torchvision, *BASIC, "layer{}", "fc", 100), "resnet_18", "cifar", 100),
    "huyvnphan": (
        lambda: _ResNet(_torchvision, *BASIC, "layer{}", "fc", 10, pools=True),
        "resnet_18",
        "cifar_max_pool",
        10,
    ),
    "weiaicunzai": (
        lambda: _weiaicunzai(*BASIC),
        "resnet_18",
        "cifar",
        100,
    ),
    "weiaicunzai 50": (lambda: _weiaicunzai(*DEEP), "resnet_50", "cifar", 100),
}


def _weiaicunzai(expansion, sizes):
    net = _ResNet(_Sequential, expansion, sizes, "conv{}_x", "fc", 100, stem_is_one=True)
    for i in (4, 3, 2, 1):  # their first stage is conv2_x
        stage = net._modules.pop(f"conv{i}_x")
        net.add_module(f"conv{i + 1}_x", stage)
    net.stages = [f"conv{i}_x" for i in range(2, 6)]
    return net


@pytest.mark.filterwarnings("ignore:.*a 3x3 stem pools behind it:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_logits_are_the_repositories(name, in_float64):
    build, ours, stem, classes = CASES[name]
    net = build().double().eval()
    randomize(net.state_dict())
    model = create_model(ours, stem=stem, num_classes=classes, dtype=jnp.float64)
    images = np.random.default_rng(0).normal(size=(2, 16, 24, 3))
    with torch.no_grad():
        expected = net(to_nchw(images, torch.float64)).numpy()
    state = {"net": {f"module.{key}": value for key, value in net.state_dict().items()}, "acc": 95.1, "epoch": 199}
    logits = np.asarray(jax.jit(model.apply)(load_torch_weights(model, state), images))
    assert expected.shape == logits.shape == (2, classes)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
