"""Small instances of every family and option: forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax import Gating, InputError, create_model
from resjax.models import PreActResNet, ResNet, WideResNet

RESNET = {"stage_sizes": (1, 2), "widths": (4, 6)}
SMALL = {"stage_sizes": (1, 1), "widths": (4, 6)}
WIDE = {"depth": 10, "widening_factor": 1}

MODELS = {
    "resnet_A": ResNet(**RESNET, shortcut="A"),
    "resnet_B": ResNet(**RESNET, shortcut="B"),
    "resnet_C": ResNet(**RESNET, shortcut="C"),
    "plain": ResNet(**RESNET, shortcut="none"),
    "resnet_bfloat16": ResNet(**RESNET, dtype=jnp.bfloat16),
    "wrn": WideResNet(**WIDE),
    "wrn_wide": WideResNet(depth=10, widening_factor=2, norm_scale_init="ones"),
    "wrn_bfloat16": WideResNet(**WIDE, dtype=jnp.bfloat16),
    "wrn_dropout": WideResNet(**WIDE, dropout_rate=0.3),
    "wrn_B(3,1,3)": WideResNet(**WIDE, block_type=(3, 1, 3)),
    "wrn_B(1,3)": WideResNet(**WIDE, block_type=(1, 3)),
    "wrn_l1": WideResNet(depth=7, widening_factor=1, deepening_factor=1),
    "wrn_l3": WideResNet(depth=13, widening_factor=1, deepening_factor=3),
    "resnet_bottleneck": ResNet(**SMALL, block="bottleneck", shortcut="B", bottleneck_stride="1x1", stem="imagenet"),
    "preresnet": PreActResNet(**SMALL),
    "preresnet_relu_only": PreActResNet(**SMALL, order="relu_only_pre_activation", block="bottleneck", shortcut="B"),
    "preresnet_bn_after": PreActResNet(**SMALL, order="bn_after_addition", shortcut="average_pool"),
    "preresnet_gating": PreActResNet(**SMALL, order="original", shortcut_variant=Gating(bias_init=-1.0)),
}
QUICK = ("resnet_A", "resnet_B", "wrn_dropout", "wrn_bfloat16")
IMAGES = np.random.default_rng(0).normal(size=(4, 9, 6, 3)).astype(np.float32)  # odd and even, not square
LABELS = np.array([0, 3, 9, 3])


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.quick if n in QUICK else ()) for n in MODELS])
def test_forward_and_backward(name, draw_variables):
    """Every parameter gets a finite gradient other than zero, every statistic moves, and logits are float32."""
    model, variables = MODELS[name], draw_variables(MODELS[name], IMAGES)

    @jax.jit
    def run(params):
        def loss(params):
            logits, new = model.apply(
                {**variables, "params": params},
                IMAGES,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), (logits, new)

        (value, (logits, new)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return value, logits, new["batch_stats"], gradients, model.apply(variables, IMAGES)

    value, logits, statistics, gradients, evaluated = run(variables["params"])
    assert np.isfinite(value) and value > 0
    for output in (logits, evaluated):
        assert (output.shape, output.dtype) == ((4, 10), jnp.float32)
        assert np.all(np.isfinite(output))
    for path, gradient in jax.tree_util.tree_flatten_with_path(gradients)[0]:
        assert np.all(np.isfinite(gradient)) and np.any(gradient != 0), jax.tree_util.keystr(path)
    for tree in (statistics, gradients):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype(jnp.float32)}
    for after, before in zip(jax.tree.leaves(statistics), jax.tree.leaves(variables["batch_stats"]), strict=True):
        assert np.all(after != before)


@pytest.mark.parametrize("name", ["resnet_B", "wrn", "preresnet_gating"])
def test_bfloat16_is_float32_but_for_rounding(name, draw_variables):
    """The same network, coarser: it is the computation that changes, not the function."""
    exact = MODELS[name]
    variables = draw_variables(exact, IMAGES)
    logits, rounded = (
        np.asarray(jax.jit(model.apply)(variables, IMAGES)) for model in (exact, exact.clone(dtype=jnp.bfloat16))
    )
    error = np.abs(rounded - logits).max() / np.abs(logits).max()
    assert 1e-5 < error < 0.03  # about 2^-9 for each of some ten roundings; above 0, for else it ran in float32


@pytest.mark.parametrize("name", ["resnet_A", "wrn"])
def test_compiled_is_op_by_op(name, draw_variables):
    model, images = MODELS[name], IMAGES[:1]
    variables = draw_variables(model, images)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), model.apply(variables, images), atol=2e-5)


@pytest.mark.parametrize("name", ["resnet_C", "wrn_wide", "resnet_bfloat16"])
def test_no_classes_give_the_pooled_features_that_the_linear_layer_reads(name, draw_variables):
    model = MODELS[name]
    variables = draw_variables(model, IMAGES)
    headless = {**variables, "params": {k: v for k, v in variables["params"].items() if k != "head"}}
    features = jax.jit(model.clone(num_classes=0).apply)(headless, IMAGES)
    linear = variables["params"]["head"]["linear"]
    assert (features.shape, features.dtype) == ((4, linear["kernel"].shape[0]), jnp.float32)
    logits = np.asarray(features) @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, IMAGES), logits, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet_bottleneck", "preresnet", "wrn"])
def test_features_are_what_the_classifier_pools_and_the_stages_before(name, draw_variables):
    """By name and in order, each stage halving what came before; the variables are those of the network."""
    model, variables = MODELS[name], draw_variables(MODELS[name], IMAGES)
    featured = model.clone(features_only=True)
    outputs = jax.jit(featured.apply)(variables, IMAGES)
    stages = ["stage_1", "stage_2"] + (["stage_3"] if name == "wrn" else [])
    assert set(outputs) == {"stem", *stages, "final"}
    heights = [outputs[stage].shape[1] for stage in stages]
    assert heights == ([9, 5, 3] if name == "wrn" else [9, 5] if name == "preresnet" else [3, 2])
    linear = variables["params"]["head"]["linear"]
    logits = np.asarray(outputs["final"]).mean((1, 2)) @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, IMAGES), logits, atol=1e-5)
    shapes = jax.eval_shape(featured.init, jax.random.key(0), IMAGES)["params"]
    assert set(variables["params"]) - set(shapes) == {"head"}


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (8, 8), (33, 31)])
def test_images_of_any_size_from_one_set_of_parameters(size):
    """Shapes of the variables and of the logits do not depend on the height and width of the images."""
    for model in (MODELS["resnet_B"], MODELS["wrn"]):
        outputs = [
            jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((2, *shape, 3)))
            for shape in (size, (32, 32))
        ]
        assert outputs[0] == outputs[1]


def test_evaluation_treats_each_image_alone(draw_variables):
    """An image's logits do not depend on its batch; in training they do."""
    model = MODELS["resnet_B"]
    variables = draw_variables(model, IMAGES)
    run = jax.jit(lambda images: model.apply(variables, images))
    np.testing.assert_allclose(run(IMAGES)[1:2], run(IMAGES[1:2]), atol=1e-5)
    train = jax.jit(lambda images: model.apply(variables, images, train=True, mutable=["batch_stats"])[0])
    assert np.abs(train(IMAGES)[1:2] - train(IMAGES[1:2])).max() > 0.01


@pytest.mark.quick
@pytest.mark.parametrize("name", ["resnet_20", "plain_20", "wrn_16_4"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.uint8), r"expected floating point \[N, H, W, C\], got uint8; normalise first"),
        (np.zeros((32, 32, 3), np.float32), r"expected a float array \[N, H, W, C\], got shape \(32, 32, 3\)"),
        (
            np.zeros((2, 32, 32, 1), np.float32),
            r"expected \[N, H, W, 3\], the channels of this network's weights",
        ),
    ],
    ids=["uint8", "3-D", "channels"],
)
def test_wrong_images_are_told_what_is_right(name, images, message):
    model = create_model(name)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(InputError, match=message):
        jax.eval_shape(model.apply, variables, images)


def test_training_without_mutable_statistics_says_how(draw_variables):
    for model in (MODELS["resnet_A"], MODELS["wrn"]):
        with pytest.raises(InputError, match=r"mutable=\['batch_stats'\]"):
            jax.eval_shape(lambda v, model=model: model.apply(v, IMAGES, train=True), draw_variables(model, IMAGES))


@pytest.mark.parametrize(
    "model",
    [ResNet(stage_sizes=(1,), widths=(4,), shortcut="C"), WideResNet(depth=7, widening_factor=1, deepening_factor=1)],
)
def test_every_norm_follows_the_options_of_the_network(model, draw_variables):
    """Momentum and kind of variance show in the statistics of a step; epsilon adds to the variance in evaluation."""
    variables = draw_variables(model, IMAGES)
    old = variables["batch_stats"]

    def step(**options):
        network = model.clone(**options)
        apply = jax.jit(lambda v: network.apply(v, IMAGES, train=True, mutable=["batch_stats"])[1]["batch_stats"])
        return jax.tree_util.tree_flatten_with_path(apply(variables))[0]

    biased = step(norm_momentum=0.0, unbiased_running_variance=False)
    mixed = step(norm_momentum=0.25)
    for (path, batch), (_, new), before in zip(biased, mixed, jax.tree.leaves(old), strict=True):
        # The first convolutions see 4 x 9 x 6 values in each channel; after a stride of 2, 4 x 5 x 3 and 4 x 3 x 2.
        counts = (216,) if isinstance(model, ResNet) else (216, 60, 24)
        factors = [n / (n - 1) for n in counts] if path[-1].key == "var" else [1]
        errors = [np.abs(new - (0.25 * before + 0.75 * factor * batch)).max() for factor in factors]
        assert min(errors) < 1e-5, jax.tree_util.keystr(path)

    def evaluate(epsilon, statistics):
        network = model.clone(norm_epsilon=epsilon)
        return jax.jit(lambda v: network.apply(v, IMAGES))({**variables, "batch_stats": statistics})

    shifted = jax.tree_util.tree_map_with_path(lambda path, s: s + 0.25 * (path[-1].key == "var"), old)
    np.testing.assert_allclose(evaluate(0.25, old), evaluate(0.0, shifted), atol=1e-5)
    assert np.abs(evaluate(0.25, old) - evaluate(0.0, old)).max() > 0.01
