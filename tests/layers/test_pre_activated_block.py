"""Pre-activated blocks as in Wide ResNets: what the shortcut reads where the shape changes, and where dropout sits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import Gates
from resjax.layers import BatchNorm, BlockSpec, Conv, ConvSpec, ResidualBlock

X = np.random.default_rng(0).normal(size=(4, 7, 6, 5)).astype(np.float32)


def _block(kernel_sizes, features=5, strides=1, dropout_rate=0.0):
    convs = tuple(
        ConvSpec(size, features, strided=i == 0, dropout_rate=dropout_rate if i else 0.0)
        for i, size in enumerate(kernel_sizes)
    )
    changes = strides != 1 or features != X.shape[-1]
    spec = BlockSpec(convs, "full_pre_activation", strides=strides, shares_activation=changes)
    return ResidualBlock(Conv, BatchNorm, spec)


@pytest.mark.quick
@pytest.mark.parametrize(("features", "strides"), [(8, 2), (8, 1), (5, 2)])
def test_a_transition_projects_the_activated_input(features, strides, draw_variables):
    """Where width or resolution changes, BN and ReLU are shared, and the projection has no BN of its own."""
    block, closed = _block((3, 3), features, strides=strides), Gates(branch=jnp.float32(0))
    variables = draw_variables(block, X, closed, False)
    params, stats = variables["params"], variables["batch_stats"]["norm_1"]
    y = jax.jit(lambda x: block.apply(variables, x, closed, False))(X)
    normalised = (X - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["norm_1"]["scale"]
    activated = np.maximum(normalised + params["norm_1"]["bias"], 0)
    expected = activated[:, ::strides, ::strides] @ params["shortcut_conv"]["kernel"][0, 0]
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert params.keys() == {"norm_1", "norm_2", "conv_1", "conv_2", "shortcut_conv"}


@pytest.mark.parametrize("kernel_sizes", [(3,), (3, 3), (3, 1, 3), (1, 3), (3, 1, 1)])
def test_each_convolution_has_its_kernel_and_a_norm_before_it(kernel_sizes):
    block = _block(kernel_sizes)
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), X, Gates(), False))["params"]
    for i, size in enumerate(kernel_sizes, start=1):
        assert params[f"conv_{i}"]["kernel"].shape == (size, size, 5, 5)
        assert params[f"norm_{i}"]["scale"].shape == (5,)
    assert len(params) == 2 * len(kernel_sizes)


def test_dropout_sits_between_the_second_relu_and_the_second_convolution(draw_variables):
    """With an identity for the second convolution, the branch shows what dropout left: each value doubled, or 0."""
    gates = Gates(skip=jnp.float32(0))
    variables = draw_variables(_block((3, 3)), X, gates, False)
    identity = np.zeros((3, 3, 5, 5), np.float32)
    identity[1, 1] = np.eye(5)
    variables["params"]["conv_2"]["kernel"] = identity

    @functools.partial(jax.jit, static_argnums=0)
    def branch(rate, key):
        apply = functools.partial(
            _block((3, 3), dropout_rate=rate).apply, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return apply(variables, X, gates, True)[0]

    whole, dropped = (np.asarray(branch(rate, jax.random.key(0))) for rate in (0.0, 0.5))
    active, kept = whole > 0, dropped > 0
    assert whole.min() == 0 and active.mean() > 0.2  # behind the ReLU
    np.testing.assert_allclose(dropped[kept], 2 * whole[kept], rtol=1e-5)
    np.testing.assert_array_equal(dropped[~kept], 0)
    share = kept[active].mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(active.sum())
