"""Pre-activation ResNet: what its five orders have in common with ResNet and where the network activates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import ConstantScaling, Gates, Gating, InputError, LearnedScaling, ShortcutDropout, create_model
from resjax.layers import ORDERS
from resjax.models import PreActResNet, ResNet, parameter_count

IMAGES = np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype(np.float32)
SMALL = {"stage_sizes": (2, 1, 1), "widths": (3, 4, 6)}
PRE_ACTIVATION = ("relu_only_pre_activation", "full_pre_activation")


@pytest.mark.quick
@pytest.mark.parametrize("order", [order for order in ORDERS if order != "fixup"])
def test_every_order_has_the_parameters_of_resnet_110(order):
    assert parameter_count(PreActResNet(order=order), (32, 32, 3)) == 1_727_962


@pytest.mark.quick
@pytest.mark.parametrize(
    ("overrides", "count"),
    # The first as the Wide ResNet authors' log has it; the original order has BN behind its projections.
    [({}, 1_703_258), ({"order": "original"}, 1_704_154), ({"num_classes": 100}, 1_726_388)],
)
def test_parameter_counts_of_bottlenecks(overrides, count):
    assert parameter_count(create_model("preresnet_164", **overrides), (32, 32, 3)) == count


@pytest.mark.quick
@pytest.mark.parametrize(
    "options",
    [
        {"block": "basic", "shortcut": "A"},
        {"block": "basic", "shortcut": "C"},
        {"block": "bottleneck", "shortcut": "B", "bottleneck_stride": "1x1"},
        {"block": "bottleneck", "shortcut": "B", "bottleneck_stride": "3x3", "stem": "imagenet"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_the_original_order_is_resnet(options, draw_variables):
    """The same names, shapes, logits and statistics from the same parameters."""
    ours, theirs = PreActResNet(**SMALL, **options, order="original"), ResNet(**SMALL, **options)
    variables = draw_variables(theirs, IMAGES)
    results = [
        jax.jit(lambda m=m: (m.apply(variables, IMAGES), m.apply(variables, IMAGES, True, mutable=["batch_stats"])))()
        for m in (ours, theirs)
    ]
    jax.tree.map(np.testing.assert_array_equal, *results)
    shapes = [jax.eval_shape(m.init, jax.random.key(0), IMAGES) for m in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.quick
@pytest.mark.parametrize("order", ["original", "full_pre_activation"])
def test_blocks_of_a_single_layer_are_108_with_the_parameters_of_resnet_110(order):
    """Table 3: the layers of ResNet-110, each with a shortcut of its own."""
    model = PreActResNet(block="single", stage_sizes=(36, 36, 36), order=order)
    assert model.num_blocks == 108 and parameter_count(model, (32, 32, 3)) == 1_727_962


def test_a_shortcut_skips_its_layer(draw_variables):
    """Without its branch a block of one layer is the identity, and the next one sees what came before."""
    model = PreActResNet(block="single", stage_sizes=(3,), widths=(4,))
    variables = draw_variables(model, IMAGES)
    without = model.apply(variables, IMAGES, gates=Gates(branch=jnp.array([1.0, 0.0, 1.0])))
    params, statistics = ({**variables[kind]} for kind in ("params", "batch_stats"))
    for tree in (params, statistics):
        stage = tree["stage_1"]
        tree["stage_1"] = {"block_1": stage["block_1"], "block_2": stage["block_3"]}
    shorter = model.clone(stage_sizes=(2,)).apply({"params": params, "batch_stats": statistics}, IMAGES)
    np.testing.assert_allclose(without, shorter, rtol=1e-5, atol=1e-6)


@pytest.mark.quick
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("order", PRE_ACTIVATION)
def test_with_closed_branches_the_first_activations_remain(order, stem, draw_variables):
    """Activated are the stem's output, once, before the split; the input of each later stage, before its shortcut; and
    the last output. The other shortcuts are clean."""
    model = PreActResNet(**SMALL, order=order, stem=stem, features_only=True)
    variables = draw_variables(model, IMAGES)
    outputs = jax.jit(lambda: model.apply(variables, IMAGES, gates=Gates(jnp.zeros(4))))()
    params, stats = variables["params"], variables["batch_stats"]

    def activate(x, *path):
        scale, moments = params, stats
        for name in path:
            scale, moments = scale[name], moments[name]
        x = (x - moments["mean"]) / np.sqrt(moments["var"] + 1e-5)
        return np.maximum(x * scale["scale"] + scale["bias"], 0)

    is_full = order == "full_pre_activation"
    # A ReLU-only block has its BN behind the convolutions, so the stem keeps its own; so does ImageNet's.
    assert ("norm" in params["stem"]) == (stem == "imagenet" or not is_full)
    assert ("final_norm" in params) == is_full
    assert ("norm_1" in params["stage_1"]["block_1"]) == (stem == "cifar" or not is_full)
    x = np.asarray(outputs["stem"])
    if stem == "cifar" and is_full:
        x = activate(x, "stage_1", "block_1", "norm_1")
    np.testing.assert_allclose(outputs["stage_1"], x, atol=1e-5)
    for name, width in (("stage_2", 4), ("stage_3", 6)):
        x = activate(x, name, "block_1", "norm_1") if is_full else np.maximum(x, 0)
        x = x[:, ::2, ::2]
        x = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[3])))
        np.testing.assert_allclose(outputs[name], x, atol=1e-5)
    final = activate(x, "final_norm") if is_full else np.maximum(x, 0)
    np.testing.assert_allclose(outputs["final"], final, atol=1e-5)


@pytest.mark.parametrize("order", [order for order in ORDERS if order not in ("full_pre_activation", "fixup")])
def test_behind_the_last_addition_there_is_nothing_or_a_relu(order, draw_variables):
    model = PreActResNet(**SMALL, order=order, features_only=True)
    variables = draw_variables(model, IMAGES)
    outputs = jax.jit(lambda: model.apply(variables, IMAGES))()
    last = np.asarray(outputs["stage_3"])
    assert (last.min() < 0) == (order in PRE_ACTIVATION)  # the others end in a ReLU, or add up what came out of one
    np.testing.assert_array_equal(outputs["final"], np.maximum(last, 0) if order in PRE_ACTIVATION else last)


@pytest.mark.quick
@pytest.mark.parametrize("bias_init", [-6.0, -3.0])
def test_every_block_has_a_gate_that_starts_with_its_bias(bias_init):
    """Table 1 has the variants in all 54 units."""
    model = PreActResNet(
        stage_sizes=(2, 1), widths=(3, 4), order="original", shortcut_variant=Gating(bias_init=bias_init)
    )
    params = jax.jit(model.init)(jax.random.key(0, impl="rbg"), IMAGES)["params"]  # compiles faster than Threefry
    for stage, block, inputs, outputs in ((1, 1, 3, 3), (1, 2, 3, 3), (2, 1, 3, 4)):
        conv = params[f"stage_{stage}"][f"block_{block}"]["gate_conv"]
        assert conv["kernel"].shape == (1, 1, inputs, outputs)
        np.testing.assert_array_equal(conv["bias"], np.full(outputs, bias_init))


@pytest.mark.parametrize("order", ["original", "full_pre_activation"])
def test_equal_halves_of_shortcut_and_branch_are_gates_of_a_half(order, draw_variables):
    model = PreActResNet(**SMALL, order=order)
    variables, half = draw_variables(model, IMAGES), jnp.full(4, 0.5)
    scaled = jax.jit(model.clone(shortcut_variant=ConstantScaling(0.5, 0.5)).apply)(variables, IMAGES)
    gated = jax.jit(lambda: model.apply(variables, IMAGES, gates=Gates(half, half)))()
    np.testing.assert_allclose(scaled, gated, atol=1e-5)


def test_with_factors_of_zero_every_block_starts_as_its_shortcut():
    """ReZero, section 3: the gradient of each factor is that of its branch, and the branches' own are zero."""
    model = PreActResNet(**SMALL, shortcut_variant=LearnedScaling())
    variables = jax.jit(model.init)(jax.random.key(0, impl="rbg"), IMAGES)

    def loss(params, gates):
        return jnp.square(model.apply({**variables, "params": params}, IMAGES, gates=gates)).sum()

    compiled = jax.jit(jax.value_and_grad(loss))
    value, gradients = compiled(variables["params"], Gates(branch=jnp.ones(4)))
    closed, _ = compiled(variables["params"], Gates(branch=jnp.zeros(4)))
    assert value == closed
    blocks = [block for stage in ("stage_1", "stage_2") for block in gradients[stage].values()]
    assert all(np.all(block["branch_factor"] != 0) and not np.any(block["conv_1"]["kernel"]) for block in blocks)


@pytest.mark.parametrize(("variant", "growth"), [(None, 1.0), (ConstantScaling(1.0, 12**-0.5), 1 / 12)], ids=str)
def test_variance_grows_with_each_block_less_with_a_factor(variant, growth):
    """SkipInit, section 2: BN makes every branch add the same variance. With 1 / sqrt(L), L blocks add it once."""
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
    model = PreActResNet(stage_sizes=(12,), widths=(16,), shortcut_variant=variant, scan=True)
    variables = jax.jit(model.init)(jax.random.key(0, impl="rbg"), x)
    first = model.clone(stage_sizes=(1,), scan=False, features_only=True, shortcut_variant=None)
    run = lambda model, variables: model.apply(variables, x, train=True, mutable=["batch_stats"])[0]  # noqa: E731
    outputs = jax.jit(lambda variables: run(model.clone(features_only=True), variables))(variables)
    alone = jax.jit(lambda variables: run(first, variables))(first.init(jax.random.key(0), x))
    added = np.var(alone["stage_1"]) - np.var(alone["stem"])
    np.testing.assert_allclose(np.var(outputs["stage_1"]) - np.var(outputs["stem"]), 12 * growth * added, rtol=0.35)


def test_shortcut_dropout_without_a_key_says_how():
    model = PreActResNet(**SMALL, order="original", shortcut_variant=ShortcutDropout(0.5))
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    jax.eval_shape(model.apply, variables, IMAGES)  # evaluation draws nothing
    message = r"dropout_rate=0.5 with train=True draws: pass rngs=\{'dropout': key\}"
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda v: model.apply(v, IMAGES, train=True, mutable=["batch_stats"]), variables)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "pre_activation"}, "order: expected one of 'original', .* got 'pre_activation'"),
        ({"shortcut": "none"}, "shortcut: expected one of 'A', 'B', 'C', 'average_pool', got 'none'"),
        ({"shortcut_variant": 0.5}, r"shortcut_variant: expected resjax.ConstantScaling\(..\), .* got 0.5"),
        ({"block": "wide"}, "block: expected one of 'basic', 'bottleneck', 'single', got 'wide'"),
        ({"bottleneck_stride": "3"}, "bottleneck_stride: expected one of '1x1', '3x3', got '3'"),
        ({"widths": (16, 32)}, r"stage_sizes \(18, 18, 18\) and widths \(16, 32\): expected one width"),
        ({"stem": "svhn"}, "stem: expected one of 'cifar', 'cifar_max_pool', 'imagenet', got 'svhn'"),
    ],
)
def test_wrong_fields_are_named(options, message):
    with pytest.raises(InputError, match=message):
        PreActResNet(**options)
