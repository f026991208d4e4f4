"""torchvision's own networks against ours with their weights moved over."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.configs.imagenet.torchvision import TORCHVISION_CONFIGS
from resjax import create_model, load_torch_weights
from resjax.models import DenseNet, ResNet, ResNeXt
from tests.parity import twins
from tests.parity.random_state import assert_close, randomize, to_nchw

torch = twins.torch
# Declares operators for detection, which fails on any build of torch but the one that torchvision was compiled for.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("_meta_registrations"))
models = pytest.importorskip("torchvision", reason="parity is with torchvision: pip install 'resjax[parity]'").models

NETWORKS = {
    "resnet18": ("resnet_18", 224),
    "resnet34": ("resnet_34", 64),
    "resnet50": ("resnet_50", 224),
    "resnet101": ("resnet_101", 64),
    "resnet152": ("resnet_152", 64),
    "resnext50_32x4d": ("resnext_50_32x4d", 64),
    "resnext101_32x8d": ("resnext_101_32x8d", 64),
    "resnext101_64x4d": ("resnext_101_64x4d", 64),
    "wide_resnet50_2": ("wrn_50_2", 64),
    "wide_resnet101_2": ("wrn_101_2", 64),
    "densenet121": ("densenet_121", 224),
    "densenet161": ("densenet_161", 64),
    "densenet169": ("densenet_169", 64),
    "densenet201": ("densenet_201", 64),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_every_network(name):
    """In evaluation; the sides are the paper's or, for time, 64 pixels, which the strides bring down to 2."""
    ours, size = NETWORKS[name]
    with torch.device("meta"):
        net = getattr(models, name)()
    net = net.to_empty(device="cpu").eval()
    randomize(net.state_dict())
    model = create_model(ours)
    images = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = net(to_nchw(images)).numpy()
    logits = np.asarray(jax.jit(model.apply)(load_torch_weights(model, net.state_dict()), images))
    assert expected.shape == logits.shape == (1, 1000)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", TORCHVISION_CONFIGS)
def test_recipes_are_compared_with_the_weights_that_they_trained(name):
    """Errors, the views of test images, and which form of the modern recipe, as the weights themselves say."""
    config, published = TORCHVISION_CONFIGS[name].config, TORCHVISION_CONFIGS[name].published
    theirs = {ours: network for network, (ours, _) in NETWORKS.items()}[config.model.name]
    weights = models.get_model_weights(theirs)[published.source.split()[-1]]
    accuracies = weights.meta["_metrics"]["ImageNet-1K"]
    errors = (100 - accuracies["acc@1"], 100 - accuracies["acc@5"])
    np.testing.assert_allclose((published.test_error, published.top5_error), errors, rtol=0, atol=1e-9)
    view = weights.transforms()
    assert ([config.eval_size], [config.eval_resize]) == (view.crop_size, view.resize_size)
    assert weights.meta["num_params"] == TORCHVISION_CONFIGS[name].facts.parameters
    forms = {
        "references/classification#resn": (224, 1, 256),
        "pull/912": (224, 1, 256),
        "issues/3995#new-recipe": (224, 1, 1024),
        "issues/3995#new-recipe-with-fixres": (176, 1, 1024),
        "issues/3995#issuecomment-1013906621": (176, 4, 1024),
        "pull/5935": (176, 4, 1024),
    }
    named = max((form for form in forms if form in weights.meta["recipe"]), key=len)
    batch_size = 1024 if name == "resnext_101_32x8d" else forms[named][2]  # on 64 GPUs
    assert (config.image_size, config.repeats, config.batch_size) == (*forms[named][:2], batch_size)


RESNET = {"widths": (64, 128, 256, 512), "stage_sizes": (1, 1, 1, 1), "stem": "imagenet", "shortcut": "B"}
SMALL = {
    "basic": (
        lambda: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10),
        ResNet(**RESNET),
    ),
    "bottleneck": (
        lambda: models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10),
        ResNet(**RESNET, block="bottleneck"),
    ),
    "grouped": (
        lambda: models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10, groups=4, width_per_group=8),
        ResNeXt(**RESNET, cardinality=4, base_width=8),
    ),
    "dense": (
        lambda: models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10),
        DenseNet(stage_sizes=(2, 2, 2, 2), growth_rate=8, stem_width=16, stem="imagenet"),
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_training_of_small_networks(name, in_float64):
    """Logits, gradients and new running statistics of one step: nothing but rounding separates them."""
    build, model = SMALL[name]
    model = model.clone(dtype=jnp.float64)
    net = build().double()
    randomize(net.state_dict())
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(3, 50, 44, 3)), rng.integers(0, 10, 3)
    variables = load_torch_weights(model, net.state_dict())

    def run(variables, images):
        def loss(params):
            logits, new = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), (logits, new["batch_stats"])

        gradients, (logits, statistics) = jax.grad(loss, has_aux=True)(variables["params"])
        return logits, statistics, gradients

    logits, statistics, gradients = jax.jit(run)(variables, images)
    output = net.train()(to_nchw(images, torch.float64))
    torch.nn.functional.cross_entropy(output, torch.tensor(labels)).backward()
    after = load_torch_weights(model, net.state_dict())["batch_stats"]
    by_name = {**dict(net.named_buffers()), **{key: parameter.grad for key, parameter in net.named_parameters()}}
    assert_close(logits, output.detach().numpy(), 1e-10)
    assert_close(statistics, after, 1e-10)
    assert_close(gradients, load_torch_weights(model, by_name)["params"], 1e-9)
