"""ResNeXt: the three forms of figure 3 are one function, and their variables convert without a change of a bit."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from resjax import Gates, InputError, create_model
from resjax.layers import BlockSpec
from resjax.models import ResNeXt, convert_form, parameter_count, restack
from resjax.models.resnext import FORMS

CARDINALITY = 4
SMALL = {"stage_sizes": (1, 1), "widths": (8, 12), "cardinality": CARDINALITY, "base_width": 32, "num_classes": 3}
IMAGES = np.random.default_rng(0).normal(size=(3, 7, 6, 3))
PAIRS = list(itertools.permutations(FORMS, 2))


def _model(form, **options):
    return ResNeXt(**SMALL, form=form, **options)


@pytest.fixture(scope="module")
def grouped(draw_variables):
    """Variables of the grouped form."""
    return draw_variables(_model("grouped_convolution"), IMAGES.astype(np.float32))


@pytest.fixture(scope="module")
def steps(float64, draw_variables):
    """steps[form] -> logits, running statistics and gradients of one step of a single stage in float64."""
    one_stage = {"stage_sizes": (1,), "widths": (8,), "dtype": jnp.float64}
    results = {}
    with float64():
        grouped = draw_variables(_model("grouped_convolution").clone(**one_stage), IMAGES, dtype=np.float64)
        for form in FORMS:
            model, variables = _model(form).clone(**one_stage), convert_form(grouped, form, CARDINALITY)

            def run(variables, model=model):
                def loss(params):
                    own = {**variables, "params": params}
                    logits, new = model.apply(own, IMAGES, train=True, mutable=["batch_stats"])
                    return jnp.sin(logits).sum(), (logits, new)

                gradients, (logits, new) = jax.grad(loss, has_aux=True)(variables["params"])
                return logits, new, {"params": gradients}

            results[form] = jax.tree.map(np.asarray, jax.jit(run)(variables))
    return results


@pytest.mark.parametrize("form", FORMS[:2])
def test_the_forms_are_one_function(form, steps, in_float64):
    """Logits in training, running statistics, and gradients once these are converted."""
    logits, statistics, gradients = steps[form]
    expected = steps["grouped_convolution"]
    np.testing.assert_allclose(logits, expected[0], rtol=1e-10)
    for tree, other in ((statistics, expected[1]), (gradients, expected[2])):
        grouped = flatten_dict(convert_form(tree, "grouped_convolution", CARDINALITY))
        assert grouped.keys() == flatten_dict(other).keys()
        for path, array in flatten_dict(other).items():
            np.testing.assert_allclose(grouped[path], array, atol=1e-10 * np.abs(array).max(), err_msg="/".join(path))


def test_the_forms_are_one_function_in_evaluation_with_strides(grouped, in_float64):
    grouped = jax.tree.map(np.float64, grouped)
    models = {form: _model(form, dtype=jnp.float64) for form in FORMS}
    variables = {form: convert_form(grouped, form, CARDINALITY) for form in FORMS}
    logits = jax.jit(lambda v: {form: model.apply(v[form], IMAGES) for form, model in models.items()})(variables)
    for form in FORMS[:2]:
        np.testing.assert_allclose(logits[form], logits["grouped_convolution"], rtol=1e-10)


@pytest.mark.parametrize(("start", "form"), PAIRS)
def test_conversion_and_back_changes_no_bit(start, form, grouped):
    variables = convert_form(grouped, start, CARDINALITY)
    shapes = jax.eval_shape(_model(form).init, jax.random.key(0), jnp.asarray(IMAGES))
    there = convert_form(variables, form, CARDINALITY)
    assert jax.tree.map(jnp.shape, there) == jax.tree.map(jnp.shape, shapes)
    back = convert_form(there, start, CARDINALITY)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    assert jax.tree.structure(back) == jax.tree.structure(variables)


def test_scanned_blocks_convert_as_blocks_apart(draw_variables):
    model = ResNeXt(stage_sizes=(3,), widths=(8,), cardinality=4, base_width=32, num_classes=0, scan=True)
    variables = draw_variables(model, IMAGES.astype(np.float32))
    converted = convert_form(variables, FORMS[0], CARDINALITY)
    apart = convert_form(restack(variables, ()), FORMS[0], CARDINALITY)
    assert "blocks" in converted["params"]["stage_1"] and "block_3" in apart["params"]["stage_1"]
    jax.tree.map(np.testing.assert_array_equal, restack(converted, ()), apart)
    back = convert_form(converted, "grouped_convolution", CARDINALITY)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


@pytest.mark.parametrize("form", FORMS)
def test_conversion_to_the_same_form_is_none(form, grouped):
    variables = convert_form(grouped, form, CARDINALITY)
    jax.tree.map(np.testing.assert_array_equal, convert_form(variables, form, CARDINALITY), variables)


@pytest.mark.parametrize("form", FORMS)
def test_counts_do_not_depend_on_the_form(form):
    """Xie et al. 2016, section 5.2: 34.4M for 8x64d; the exact count with BN's scale and bias."""
    assert parameter_count(create_model("resnext_29_8x64d", form=form), (32, 32, 3)) == 34_426_698


@pytest.mark.parametrize(
    ("kernel_init", "variance"),
    # Of a grouped convolution: every output channel counts as fan-out, the inputs of its own group as fan-in.
    [
        ("he_normal_fan_out", lambda taps, fan_in, fan_out: 2 / (taps * fan_out)),
        ("he_normal_fan_in", lambda taps, fan_in, fan_out: 2 / (taps * fan_in)),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_initial_kernels_have_the_spread_of_the_grouped_form(form, kernel_init, variance):
    cardinality, inner, features = 8, 128, 256
    network = ResNeXt(base_width=16, form=form, kernel_init=kernel_init)
    spec = BlockSpec(network.branch_convs(64), shortcut=network.shortcut)
    block = network.make_block()(spec, name="block_1")
    variables = jax.jit(lambda key: block.init(key, jnp.zeros((1, 1, 1, 64)), Gates(), False))(jax.random.key(3))
    variables = {"params": {"block_1": variables["params"]}}
    block = convert_form(variables, "grouped_convolution", cardinality)["params"]["block_1"]
    for name, (taps, fan_in, fan_out) in {
        "conv_1": (1, 64, inner),
        "conv_2": (9, inner // cardinality, inner),
        "conv_3": (1, inner, features),
    }.items():
        kernel = np.asarray(block[name]["kernel"])
        assert kernel.shape[-2:] == (fan_in, fan_out)
        spread = math.sqrt(variance(taps, fan_in, fan_out))
        # The standard deviation of n draws strays by 1 / sqrt(2 n) of itself.
        assert abs(kernel.std() / spread - 1) < 5 / math.sqrt(2 * kernel.size), name
        parts = np.split(kernel, cardinality, axis=-2 if name == "conv_3" else -1)
        assert len({part.tobytes() for part in parts}) == cardinality, f"{name}: paths that start equal stay equal"


def test_the_stride_is_in_the_3x3_convolution_and_the_inner_width_follows_the_template():
    """Figure 3 and table 1 of the paper: 32x4d has 128 channels inside, in 32 groups of 4."""
    params = jax.eval_shape(create_model("resnext_50_32x4d").init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    block = params["params"]["stage_1"]["block_1"]
    assert block["conv_1"]["kernel"].shape == (1, 1, 64, 128)
    assert block["conv_2"]["kernel"].shape == (3, 3, 4, 128)
    assert block["conv_3"]["kernel"].shape == (1, 1, 128, 256)
    assert create_model("resnext_50_32x4d").bottleneck_stride == "3x3"


@pytest.mark.parametrize("form", FORMS[:2])
def test_conversion_with_a_wrong_cardinality_names_the_array(form, grouped):
    with pytest.raises(InputError, match=r"cardinality: 3 does not divide \w+/stage_1/block_1/\w+/\w+ of shape"):
        convert_form(grouped, form, 3)
    with pytest.raises(InputError, match=r"cardinality: .*/conv_2/kernel of shape \(3, 3, 4, 16\) has 4 groups, not 2"):
        convert_form(grouped, form, 2)
    converted = convert_form(grouped, form, CARDINALITY)
    with pytest.raises(InputError, match=r"cardinality: \w+/stage_1/block_1/paths/\w+/\w+ holds 4 paths, not 2"):
        convert_form(converted, "grouped_convolution", 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _model("dense"), "form: expected one of 'split_transform_sum', 'early_concatenation', 'grouped_conv"),
        (lambda: convert_form({}, "dense", 2), "form: expected one of .* got 'dense'"),
        (lambda: ResNeXt(block="basic", cardinality=1, form="early_concatenation"), "form: 'early_con.* bottlenecks"),
        (lambda: ResNeXt(block="basic"), "cardinality, base_width: for bottlenecks only"),
        (lambda: ResNeXt(cardinality=0), "cardinality: expected positive integers, got 0"),
        (
            lambda: ResNeXt(stage_sizes=(1, 1), widths=(8, 16), base_width=4),
            "base_width: expected at least 8 for widths",
        ),
    ],
)
def test_wrong_options_are_told_what_is_right(call, message):
    with pytest.raises(InputError, match=message):
        call()
