"""`features_only`: the stages of every family by name, from the variables of the network that classifies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import create_model, model_info
from resjax.models import VGG, DenseNet, Highway, PreActResNet, ResNet, ResNeXt, WideResNet, WiderResNet

# Height and channels of "stem", "stage_1" .. and "final" for images of the paper's size.
STAGES = {
    "resnet_20": ((32, 16), (32, 16), (16, 32), (8, 64), (8, 64)),
    "plain_20": ((32, 16), (32, 16), (16, 32), (8, 64), (8, 64)),
    "resnet_50": ((56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048), (7, 2048)),
    "preresnet_164": ((32, 16), (32, 64), (16, 128), (8, 256), (8, 256)),
    "preresnet_18": ((56, 64), (56, 64), (28, 128), (14, 256), (7, 512), (7, 512)),
    "wrn_28_10": ((32, 16), (32, 160), (16, 320), (8, 640), (8, 640)),
    "resnext_29_8x64d": ((32, 64), (32, 256), (16, 512), (8, 1024), (8, 1024)),
    "resnext_50_32x4d": ((56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048), (7, 2048)),
    # The blocks' outputs, before the transitions: 24 + 16 * 12, 108 + 16 * 12, 150 + 16 * 12.
    "densenet_bc_100_12": ((32, 24), (32, 216), (16, 300), (8, 342), (8, 342)),
    "densenet_121": ((56, 64), (56, 256), (28, 512), (14, 1024), (7, 1024), (7, 1024)),
    "speed_resnet": ((31, 24), (15, 64), (7, 256), (3, 256), (3, 256)),
    "highway_19": ((32, 32), (32, 32), (16, 80), (8, 128), (8, 100)),
    "wider_resnet_38_a1": ((224, 64), (112, 128), (56, 256), (28, 512), (14, 1024), (7, 2048), (7, 4096), (7, 4096)),
}
PLAIN_STAGES = {"vgg_15": ((32, 128), (16, 128), (8, 128), (4, 128), (2, 128), (2, 128))}  # no stem

TWO = {"stage_sizes": (1, 1), "widths": (4, 6)}
NETWORKS = {
    "resnet": ResNet(**TWO),
    "preresnet": PreActResNet(**TWO),
    "relu_only": PreActResNet(**TWO, order="relu_only_pre_activation"),
    "wrn": WideResNet(depth=10, widening_factor=1, dtype=jnp.bfloat16),
    "resnext": ResNeXt(stage_sizes=(1,), widths=(8,), cardinality=2, base_width=16),
    "densenet": DenseNet(stage_sizes=(1, 1), growth_rate=2, stem_width=4),
    "highway": Highway(stage_sizes=(1, 1), widths=(3, 4), head_width=5),
    "vgg": VGG(stage_sizes=(1, 1), width=3),
    "wider": WiderResNet(stage_sizes=(1,) * 6, widths=((2, 3),) * 4 + ((2, 2, 3),) * 2, stem_width=3),
}
IMAGES = np.random.default_rng(0).normal(size=(2, 12, 9, 3)).astype(np.float32)


@pytest.mark.parametrize("name", [*STAGES, *PLAIN_STAGES])
def test_stages_have_the_names_and_shapes_of_the_paper(name):
    sizes = STAGES.get(name) or PLAIN_STAGES[name]
    model, shape = create_model(name, features_only=True), model_info(name).input_size
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    stages, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), images)
    count = len(sizes) - (2 if name in STAGES else 1)
    names = [*(["stem"] if name in STAGES else []), *(f"stage_{i + 1}" for i in range(count)), "final"]
    assert {key: value.shape for key, value in stages.items()} == {
        key: (2, size, size, channels) for key, (size, channels) in zip(names, sizes, strict=True)
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_what_the_head_makes_of_final_are_the_logits(name, draw_variables):
    """From the same variables, classifier included; without it the variables are the features' own."""
    model = NETWORKS[name]
    variables = draw_variables(model, IMAGES)
    features = jax.jit(model.clone(features_only=True).apply)(variables, IMAGES)
    assert {leaf.dtype for leaf in features.values()} == {jnp.dtype(model.dtype)}
    linear = variables["params"]["head"]["linear"]
    logits = np.asarray(features["final"], np.float32).mean((1, 2)) @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, IMAGES), logits, rtol=1e-5, atol=1e-5)
    own = jax.eval_shape(model.clone(features_only=True).init, jax.random.key(0), jnp.asarray(IMAGES))
    headless = {**variables, "params": {key: value for key, value in variables["params"].items() if key != "head"}}
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, headless)


@pytest.mark.parametrize("name", ["resnet", "relu_only", "preresnet"])
def test_final_is_activated(name, draw_variables):
    """With pre-activation, what leaves the last stage is not: the last activation is a ReLU, or BN and ReLU."""
    model = NETWORKS[name].clone(features_only=True)
    features = jax.jit(model.apply)(draw_variables(model, IMAGES), IMAGES)
    assert np.min(features["final"]) == 0
    assert (np.min(features["stage_2"]) < 0) == (name != "resnet")
    if name != "preresnet":
        np.testing.assert_array_equal(features["final"], np.maximum(features["stage_2"], 0))


def test_training_moves_the_same_statistics(draw_variables):
    model = NETWORKS["preresnet"]
    variables = draw_variables(model, IMAGES)
    (_, moved), (_, expected) = (
        jax.jit(lambda v, n=network: n.apply(v, IMAGES, train=True, mutable=["batch_stats"]))(variables)
        for network in (model.clone(features_only=True), model)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), moved, expected)
    assert jax.tree.structure(moved) == jax.tree.structure(expected)
