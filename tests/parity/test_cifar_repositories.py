"""Networks of the usual PyTorch repositories for CIFAR against ours with their weights moved over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import load_torch_weights
from resjax.models import DenseNet, PreActResNet, ResNet, ResNeXt, WideResNet
from tests.parity import repository_networks as networks
from tests.parity import twins
from tests.parity.random_state import randomize, to_nchw

torch = twins.torch


def _module(net):
    return net.double().eval(), net.state_dict()


BASIC = {"stage_sizes": (2, 2, 2), "widths": (8, 16, 32)}
PRE = {"stage_sizes": (2, 2, 2), "widths": (16, 32, 64), "shortcut": "B"}
DENSE = {"stage_sizes": (2, 2, 2), "growth_rate": 4, "stem_width": 8}
RESNEXT = {"stage_sizes": (1, 1), "widths": (64, 128), "cardinality": 4, "base_width": 4}
CASES = {
    "akamaster": (lambda: _module(networks.Basic("A", "linear")), ResNet(**BASIC, shortcut="A")),
    "kuangliu": (lambda: _module(networks.Basic("shortcut", "linear")), ResNet(**BASIC, shortcut="B")),
    "chenyaofo": (lambda: _module(networks.Basic("downsample", "fc")), ResNet(**BASIC, shortcut="B")),
    "prlz77": (lambda: _module(networks.Aggregated()), ResNeXt(**RESNEXT)),
    "prlz77 summed": (lambda: _module(networks.Aggregated()), ResNeXt(**RESNEXT, form="split_transform_sum")),
    "xternalz k=1": (lambda: _module(networks.Wide(1)), WideResNet(depth=16, widening_factor=1)),
    "xternalz k=2": (lambda: _module(networks.Wide(2)), WideResNet(depth=16, widening_factor=2)),
    "szagoruyko": (lambda: networks.functional_wide(2), WideResNet(depth=16, widening_factor=2)),
    "hysts wrn": (lambda: _module(networks.Hysts((32, 64, 128), False)), WideResNet(depth=16, widening_factor=2)),
    "hysts preact": (lambda: _module(networks.Hysts((16, 32, 64), True)), PreActResNet(**PRE)),
    "andreasveit": (lambda: _module(networks.Dense(False, 1.0)), DenseNet(**DENSE, bottleneck=False, compression=1.0)),
    "andreasveit BC": (lambda: _module(networks.Dense(True, 0.5)), DenseNet(**DENSE)),
    "gpleiss": (lambda: _module(networks.EfficientDense()), DenseNet(**DENSE)),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_are_the_repositories(name, in_float64):
    build, model = CASES[name]
    model, (forward, state) = model.clone(dtype=jnp.float64), build()
    randomize(state)
    images = np.random.default_rng(0).normal(size=(2, 16, 24, 3))
    with torch.no_grad():
        expected = forward(to_nchw(images, torch.float64)).numpy()
    logits = np.asarray(jax.jit(model.apply)(load_torch_weights(model, state), images))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_checkpoint_of_torch_save_is_its_tensors(dtype, tmp_path):
    """With the prefix of DataParallel, in the container that trainers write, in half precision too."""
    net = torch.nn.DataParallel(networks.Basic("downsample", "fc")).to(dtype)
    randomize(net.module.state_dict())
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 3, "state_dict": net.state_dict(), "best": torch.tensor(93.0)}, path)
    model = ResNet(**BASIC, shortcut="B")
    loaded, given = load_torch_weights(model, path), load_torch_weights(model, net.module.float().state_dict())
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == jnp.float32 and bool((a == b).all()), loaded, given))
