"""Residual networks without BN: Fixup against its authors' code, written again, and the papers' claims at the start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import DepthScaling, InputError, LearnedScaling, create_model, train
from resjax.models import PreActResNet, ResNet

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
FIXUP = {"stage_sizes": (2, 2), "widths": (3, 5), "normalization": "fixup"}


def _conv(x, kernel, strides=1):
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    return jax.lax.conv_general_dilated(x, kernel, (strides,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _authors_forward(params, x):
    """github.com/hongyi-zhang/Fixup, cifar/models/fixup_resnet_cifar.py, with their names of the scalars behind."""
    x = jax.nn.relu(_conv(x, params["stem"]["conv"]["kernel"]) + params["stem"]["norm"]["bias"])  # bias1
    for stage, block in (("stage_1", 1), ("stage_1", 2), ("stage_2", 1), ("stage_2", 2)):
        own, strides = params[stage][f"block_{block}"], 2 if (stage, block) == ("stage_2", 1) else 1
        bias1a, bias1b, bias2a, bias2b = (own[f"norm_{i}"]["bias"] for i in (1, 2, 3, 4))
        y = jax.nn.relu(_conv(x + bias1a, own["conv_1"]["kernel"], strides) + bias1b)
        y = _conv(y + bias2a, own["conv_2"]["kernel"]) * own["branch_factor"] + bias2b
        if strides == 2:
            pooled = (x + bias1a)[:, ::2, ::2]
            x = jnp.concatenate([pooled, jnp.zeros_like(pooled)[..., : y.shape[-1] - pooled.shape[-1]]], -1)
        x = jax.nn.relu(y + x)
    linear = params["head"]["linear"]
    return (x.mean((1, 2)) + params["final_norm"]["bias"]) @ linear["kernel"] + linear["bias"]  # bias2, fc


def test_fixup_is_the_network_of_its_authors(draw_variables):
    model = ResNet(**FIXUP)
    variables = draw_variables(model, IMAGES)
    assert variables.keys() == {"params"}
    np.testing.assert_allclose(
        jax.jit(model.apply)(variables, IMAGES), _authors_forward(variables["params"], IMAGES), rtol=1e-4, atol=1e-4
    )
    blocks = 4
    scalars = 1 + blocks * 5 + 1
    kernels = 27 * 3 + 2 * 81 * 2 + (135 + 225) + 225 * 2 + 5 * 10 + 10
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == kernels + scalars


@pytest.mark.parametrize(("block", "exponent"), [("basic", -0.5), ("bottleneck", -0.25)])
def test_fixup_starts_as_section_3_says(block, exponent):
    """L**(-1 / (2 m - 2)) for all but the last convolution, zero for it and the classifier; biases 0, factors 1."""
    shortcut = "A" if block == "basic" else "B"
    options = {"block": block, "shortcut": shortcut, "stage_sizes": (2, 2), "widths": (16, 32)}
    model = create_model("resnet_20", normalization="fixup", head_kernel_init="zeros", **options)
    params = jax.jit(model.init)(jax.random.key(0), IMAGES)["params"]
    assert not np.any(params["head"]["linear"]["kernel"]) and not np.any(
        jax.jit(model.apply)({"params": params}, IMAGES)
    )
    *scaled, last = (name for name in sorted(params["stage_2"]["block_2"]) if name.startswith("conv_"))
    for stage in ("stage_1", "stage_2"):
        for own in params[stage].values():
            assert own["branch_factor"] == 1 and not np.any(own[last]["kernel"])
            assert not any(np.any(own[f"norm_{i + 1}"]["bias"]) for i in range(2 * len(scaled) + 2))
    for name in scaled:
        kernel = params["stage_2"]["block_2"][name]["kernel"]
        fan_out = np.prod(kernel.shape[:2]) * kernel.shape[3]
        assert np.std(kernel) == pytest.approx(np.sqrt(2 / fan_out) * 4**exponent, rel=0.06)
    # Every branch is zero, so that the last features are those of the stem, but for the channels that are added.
    stages = jax.jit(model.clone(features_only=True).apply)({"params": params}, IMAGES)
    if block == "basic":
        np.testing.assert_array_equal(stages["final"][..., :16], stages["stem"][:, ::2, ::2])


def _change(num_blocks, **fields):
    """The mean absolute change of the logits in one small step of SGD over its rate, a tenth for biases and factors."""
    model = ResNet(stage_sizes=(num_blocks,), widths=(16,), scan=True, **fields)
    labels, rate = np.array([0, 3, 9, 3]), 1e-4

    @jax.jit
    def change(key):
        params = model.init(key, IMAGES)["params"]

        def loss(params):
            logits = model.apply({"params": params}, IMAGES)
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean(), logits

        gradient, before = jax.grad(loss, has_aux=True)(params)
        rates = train.learning_rate_factors(biases=0.1, scales=0.1)(params)
        after = loss(jax.tree.map(lambda p, g, factor: p - rate * factor * g, params, gradient, rates))[1]
        return jnp.abs(after - before).mean() / rate

    return np.mean([change(jax.random.key(seed)) for seed in range(3)])


def test_a_step_moves_the_function_by_as_much_at_any_depth():
    """Fixup's claim, with the rates of the authors' code, and a classifier that does not start at zero: it would hide
    all but itself in the first step. By the standard initialisation without BN, a step moves it by ever more."""
    fixup = [_change(blocks, normalization="fixup") for blocks in (9, 27, 54)]  # of 20, 56 and 110 layers
    assert max(fixup) < 1.6 * min(fixup)
    standard = [_change(blocks, normalization="none") for blocks in (9, 15)]
    assert standard[1] > 10 * standard[0] and standard[0] > 10 * max(fixup)


def _growth(variant, num_blocks):
    """How much the blocks make the stream's mean square grow."""
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
    options = {"normalization": "none", "block": "single", "scan": True, "kernel_init": "he_normal_fan_in"}
    options |= {"stage_sizes": (num_blocks,), "widths": (32,), "features_only": True}
    model = PreActResNet(**options, shortcut_variant=variant)
    outputs = jax.jit(lambda: model.apply(model.init(jax.random.key(0), x), x))()
    return np.square(outputs["stage_1"]).mean() / np.square(np.maximum(outputs["stem"], 0)).mean()


def test_without_bn_scaled_branches_keep_the_size_of_the_stream_at_any_depth():
    """With 1 / sqrt(L), branches of L blocks add as much as those of 4 L; SkipInit adds nothing at first. Without a
    factor, He's initialisation nearly doubles the square at each block."""
    shallow, deep = (_growth(DepthScaling(), num_blocks) for num_blocks in (6, 24))
    assert deep == pytest.approx(shallow, rel=0.25) and shallow > 2
    assert _growth(LearnedScaling(), 24) == 1
    assert _growth(DepthScaling(exponent=0.0), 24) > 1.7**18 * shallow


def test_factors_of_branches_have_the_rate_of_scales():
    params = jax.eval_shape(ResNet(**FIXUP).init, jax.random.key(0), IMAGES)["params"]
    found = train.learning_rate_factors(biases=0.5, scales=0.1)(params)
    assert found["stage_1"]["block_1"]["branch_factor"] == 0.1 and found["stage_1"]["block_1"]["norm_4"]["bias"] == 0.5


@pytest.mark.quick
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"zero_init_residual": True, "normalization": "none"}, "normalization 'none' has no scales of BN"),
        ({"shortcut": "none", "normalization": "fixup"}, "'fixup': a plain network whose blocks start at zero"),
        ({"normalization": "layer"}, "normalization: expected one of 'batch', 'none', 'fixup', got 'layer'"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        ResNet(**fields)
