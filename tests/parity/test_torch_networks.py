"""The benchmark compares like with like: its PyTorch networks have the arrays of ours, and as many operations."""

import collections
import math

import jax
import jax.numpy as jnp
import pytest

import resjax
from experiments.benchmark import MODELS
from resjax import InputError
from resjax.models import ResNet, multiply_adds, unrolled
from tests.parity.twins import torch

torch_networks = pytest.importorskip("experiments.benchmarks.torch_networks", reason="needs PyTorch")
NAMES = [name.split(":")[0] for name in MODELS] + ["resnet_110", "densenet_121", "preresnet_164", "wrn_50_2"]


# Stems and stages that pool: name and fields.
POOLING = [
    ("resnet_20", {"stem": "cifar_max_pool"}),
    ("preresnet_20", {"stem": "cifar_max_pool"}),
    ("densenet_bc_16_4", {"stem": "cifar_max_pool"}),
    ("wider_resnet_38_a", {}),
]


class OfOnesOwn(ResNet):
    """A family that this benchmark has not heard of."""


@pytest.mark.parametrize("name", NAMES)
def test_same_arrays_and_same_work(name):
    info = resjax.model_info(name)
    _check_same(unrolled(resjax.create_model(name)), info, info.multiply_adds)


@pytest.mark.parametrize(("name", "fields"), POOLING)
def test_networks_that_pool(name, fields):
    model = unrolled(resjax.create_model(name, **fields))
    info = resjax.model_info(name)
    _check_same(model, info, multiply_adds(model, info.input_size))


def test_another_family_of_residual_blocks():
    model = OfOnesOwn(stage_sizes=(1, 2), widths=(4, 8), shortcut="B")
    _check_same(model, resjax.model_info("resnet_20"), multiply_adds(model, (32, 32, 3)))


def _check_same(model, info, expected):
    images = jnp.zeros((1, *info.input_size))
    ours = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    work = 0

    def count(module, inputs, output):
        nonlocal work
        work += output.numel() * math.prod(module.weight.shape[1:])

    with torch.device("meta"):
        theirs = torch_networks.torch_network(model)
        for module in theirs.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.register_forward_hook(count)
        height, width, channels = info.input_size
        logits = theirs.eval()(torch.zeros(1, channels, height, width))
    assert logits.shape == (1, info.num_classes)
    assert work == expected
    shapes = collections.Counter(tuple(p.shape) for p in theirs.parameters())
    assert shapes == collections.Counter(
        {4: lambda h, w, i, o: (o, i, h, w), 2: lambda i, o: (o, i), 1: lambda n: (n,)}[leaf.ndim](*leaf.shape)
        for leaf in jax.tree.leaves(ours)
    )


def test_the_dilated_network_is_dilated_in_pytorch_too():
    model = unrolled(resjax.create_model("resnet_50", output_stride=8))
    with torch.device("meta"):
        theirs = torch_networks.torch_network(model)
        sizes = []
        theirs.layers.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape))
        theirs.eval()(torch.zeros(1, 3, 64, 64))
    assert sizes == [(1, 2048, 8, 8)]
    dilations = collections.Counter(m.dilation[0] for m in theirs.modules() if isinstance(m, torch.nn.Conv2d))
    # The 3x3 of stage 3 but its first, that first of stage 4, and the rest of stage 4.
    assert dilations == {1: 53 - 5 - 1 - 2, 2: 5 + 1, 4: 2}


def test_an_unknown_family_is_named():
    with pytest.raises(InputError, match="no PyTorch counterpart of Highway"):
        torch_networks.torch_network(resjax.create_model("highway_19"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"order": "relu_only_pre_activation"}, "a block with order 'relu_only_pre_activation'"),
        ({"shortcut": "average_pool"}, "a block with shortcut 'average_pool'"),
        ({"shortcut_variant": resjax.ShortcutDropout(0.5)}, r"a block with ShortcutDropout\(rate=0.5\)"),
        ({"normalization": "none"}, "a network with normalization 'none' and streams None"),
        ({"streams": resjax.AttentionResiduals()}, r"and streams AttentionResiduals\("),
    ],
)
def test_a_block_without_a_counterpart_is_named(fields, message):
    with pytest.raises(InputError, match=message):
        torch_networks.torch_network(resjax.create_model("preresnet_20", **fields))
