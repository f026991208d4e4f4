"""Shortcuts A, B and C of He et al. 2015 (arXiv 1512.03385), section 3.3."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import Gates, InputError, create_model
from resjax.layers import BatchNorm, BlockSpec, Conv, ConvSpec, ResidualBlock, subsample_and_pad
from resjax.models import ResNet, parameter_count

IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def _block(features, shortcut, strides):
    convs = (ConvSpec(3, features, strided=True), ConvSpec(3, features))
    return ResidualBlock(Conv, BatchNorm, BlockSpec(convs, shortcut=shortcut, strides=strides))


@pytest.mark.quick
@pytest.mark.parametrize("size", [(8, 8), (7, 6), (1, 5)])
@pytest.mark.parametrize(("features", "strides"), [(6, 2), (3, 2), (5, 1), (8, 3)])
def test_a_takes_every_nth_pixel_and_appends_zero_channels(size, features, strides):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    rows, columns = (range(0, extent, strides) for extent in size)
    expected = np.zeros((2, len(rows), len(columns), features), np.float32)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            expected[:, i, j, :3] = x[:, row, column]
    np.testing.assert_array_equal(subsample_and_pad(x, features, strides), expected)


def test_a_cannot_narrow():
    with pytest.raises(InputError, match="cannot go from 8 to 4: use shortcut B or C"):
        subsample_and_pad(jnp.zeros((1, 4, 4, 8)), 4, 2)


@pytest.mark.parametrize(("features", "strides"), [(8, 2), (4, 2), (8, 1), (4, 1)])
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_a_closed_branch_shows_the_shortcut(shortcut, features, strides, draw_variables):
    """The block is then relu(shortcut); computed here from x and the parameters, also at odd sizes."""
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 4)).astype(np.float32)
    block = _block(features, shortcut, strides)
    closed = Gates(branch=jnp.float32(0))
    variables = draw_variables(block, x, closed, False)
    y = jax.jit(lambda x: block.apply(variables, x, closed, False))(x)
    strided = x[:, ::strides, ::strides]
    if shortcut == "C" or (shortcut == "B" and (features, strides) != (4, 1)):
        params, stats = variables["params"], variables["batch_stats"]["shortcut_norm"]
        projected = strided @ params["shortcut_conv"]["kernel"][0, 0]
        scale, bias = params["shortcut_norm"]["scale"], params["shortcut_norm"]["bias"]
        expected = (projected - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * scale + bias
    else:
        expected = np.concatenate([strided, np.zeros((*strided.shape[:3], features - 4))], -1)
        assert "shortcut_conv" not in variables["params"]
    np.testing.assert_allclose(y, np.maximum(expected, 0), atol=1e-5)


@pytest.mark.parametrize(
    ("shortcut", "projected"),
    [
        ("A", []),
        ("none", []),
        ("B", ["stage_2/block_1", "stage_3/block_1"]),
        ("C", [f"stage_{i}/block_{j}" for i in (1, 2, 3) for j in (1, 2)]),
    ],
)
def test_projections_are_where_the_paper_puts_them(shortcut, projected):
    model = ResNet(stage_sizes=(2, 2, 2), shortcut=shortcut)
    params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    found = [
        f"{stage}/{block}"
        for stage in sorted(params)
        if stage.startswith("stage")
        for block in sorted(params[stage])
        if {"shortcut_conv", "shortcut_norm"} <= set(params[stage][block])
    ]
    assert found == projected


@pytest.mark.parametrize(
    ("name", "overrides", "count"),
    [
        ("resnet_20", {"shortcut": "B"}, 272_474),
        ("resnet_110", {"shortcut": "B"}, 1_730_714),
        ("resnet_110", {"shortcut": "C"}, 1_826_202),
        ("resnet_110", {"num_classes": 100}, 1_733_812),
    ],
)
def test_parameter_counts_of_the_options(name, overrides, count):
    assert parameter_count(create_model(name, **overrides), (32, 32, 3)) == count


def test_a_plain_block_is_the_branch_alone(draw_variables):
    """The residual block with its skip closed and the plain block compute the same from the same parameters."""
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    plain, residual, gates = _block(8, "none", 2), _block(8, "A", 2), Gates(skip=jnp.float32(0))
    variables = draw_variables(plain, x, Gates(), False)
    y = jax.jit(lambda x: plain.apply(variables, x, Gates(), False))(x)
    np.testing.assert_allclose(y, jax.jit(lambda x: residual.apply(variables, x, gates, False))(x), atol=1e-5)
