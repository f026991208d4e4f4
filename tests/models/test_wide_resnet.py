"""Wide ResNet: what it widens, where it projects, and its dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import InputError, create_model
from resjax.models import WideResNet, parameter_count

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


@pytest.mark.quick
@pytest.mark.parametrize(("name", "projecting"), [("wrn_16_1", ("stage_2", "stage_3")), ("wrn_16_2", "all")])
def test_projections_are_where_the_width_changes(name, projecting):
    """With k = 1 the first group is as wide as the stem, and its first block has no projection."""
    model = create_model(name)
    params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    for stage in ("stage_1", "stage_2", "stage_3"):
        assert ("shortcut_conv" in params[stage]["block_1"]) == (projecting == "all" or stage in projecting)
        assert "shortcut_conv" not in params[stage]["block_2"]


def test_the_stem_is_never_widened():
    params = jax.eval_shape(create_model("wrn_16_4").init, jax.random.key(0), IMAGES)["params"]
    assert params["stem"]["conv"]["kernel"].shape == (3, 3, 3, 16)
    assert params["stage_1"]["block_1"]["norm_1"]["scale"].shape == (16,)
    assert params["final_norm"]["scale"].shape == (256,)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "widths", "count"),
    [
        ("wrn_imagenet_18_1.5", (96, 192, 384, 768), 25_875_816),
        ("wrn_imagenet_18_2", (128, 256, 512, 1024), 45_618_216),
        ("wrn_imagenet_18_3", (192, 384, 768, 1536), 101_783_976),
        ("wrn_imagenet_34_1.5", (96, 192, 384, 768), 48_613_608),
        ("wrn_imagenet_34_2", (128, 256, 512, 1024), 86_036_008),
    ],
)
def test_imagenet_networks_widen_their_blocks_but_not_the_stem(name, widths, count):
    model = create_model(name)
    params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
    assert params["stem"]["conv"]["kernel"].shape == (7, 7, 3, 64)
    for i, width in enumerate(widths, start=1):
        assert params[f"stage_{i}"]["block_2"]["conv_1"]["kernel"].shape == (3, 3, width, width)
        assert "shortcut_norm" in params[f"stage_{i}"]["block_1"]  # a ResNet's projection, also where only widened
    assert parameter_count(model, (224, 224, 3)) == count


def test_wrn_50_2_doubles_the_3x3_convolutions_alone():
    model = create_model("wrn_50_2")
    params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
    for i, width in enumerate((64, 128, 256, 512), start=1):
        block = params[f"stage_{i}"]["block_2"]
        shapes = [block[f"conv_{j}"]["kernel"].shape for j in (1, 2, 3)]
        assert shapes == [(1, 1, 4 * width, 2 * width), (3, 3, 2 * width, 2 * width), (1, 1, 2 * width, 4 * width)]
    assert parameter_count(model, (224, 224, 3)) == 68_883_240


@pytest.fixture(scope="module")
def dropout(draw_variables):
    """train(key) and evaluate() -> logits of a network with dropout 0.3, and evaluate() of its twin without."""
    model = WideResNet(depth=10, widening_factor=1, dropout_rate=0.3)
    variables = draw_variables(model, IMAGES)
    apply = functools.partial(model.apply, variables, IMAGES)
    train = jax.jit(lambda key: apply(train=True, mutable=["batch_stats"], rngs={"dropout": key})[0])
    twin = jax.jit(lambda: model.clone(dropout_rate=0.0).apply(variables, IMAGES))
    return train, jax.jit(apply), twin


def test_dropout_is_a_function_of_its_key(dropout):
    train, _, _ = dropout
    first = train(jax.random.key(1))
    np.testing.assert_array_equal(first, train(jax.random.key(1)))
    assert np.abs(first - train(jax.random.key(2))).max() > 0.01


def test_evaluation_has_no_dropout_and_needs_no_key(dropout):
    _, evaluate, twin = dropout
    np.testing.assert_allclose(evaluate(), twin(), rtol=1e-6, atol=1e-6)


@pytest.mark.quick
def test_dropout_without_a_key_says_how():
    model = create_model("wrn_16_4", dropout_rate=0.3)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    with pytest.raises(InputError, match=r"dropout_rate=0.3 with train=True draws: pass rngs=\{'dropout': key\}"):
        jax.eval_shape(lambda v: model.apply(v, IMAGES, train=True, mutable=["batch_stats"]), variables)


def test_without_dropout_training_needs_no_key():
    model = create_model("wrn_16_4")
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    logits, _ = jax.eval_shape(lambda v: model.apply(v, IMAGES, train=True, mutable=["batch_stats"]), variables)
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)
