"""A 1x1 convolution and the BN behind it as one convolution: the same numbers, and less to keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.layers import BatchNorm, BlockSpec, Conv, ConvSpec, Gates, ResidualBlock, plain_convolutions
from resjax.layers.folded import folded

BOTTLENECK = BlockSpec((ConvSpec(1, 4), ConvSpec(3, 4, strided=True), ConvSpec(1, 16)), strides=2)
CHANNELS = 8
EPSILON = 1e-3


def _random(*shape, seed=0, mean=0.0):
    return (mean + np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def _block(spec=BOTTLENECK, dtype=jnp.float32, **norm):
    def make_norm(name, **fields):
        return BatchNorm(name=name, dtype=dtype, epsilon=EPSILON, **norm, **fields)

    block = ResidualBlock(lambda *args, **fields: Conv(*args, dtype=dtype, **fields), make_norm, spec)
    variables = block.init(jax.random.key(0), jnp.zeros((8, 6, 6, CHANNELS), dtype), Gates(), False)
    leaves, structure = jax.tree.flatten(variables)
    drawn = [leaf + abs(0.3 * _random(*leaf.shape, seed=i)) for i, leaf in enumerate(leaves)]
    return block, jax.tree.unflatten(structure, drawn)


def _trained(block, variables, x):
    """The output, new statistics, and gradients of a random sum of the output."""

    def output(params, x):
        return block.apply({**variables, "params": params}, x, Gates(), True, mutable=["batch_stats"])

    y, pull, statistics = jax.vjp(output, variables["params"], x, has_aux=True)
    return y, statistics, pull(jnp.asarray(_random(*y.shape, seed=9), y.dtype))


@pytest.mark.quick
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("mean", [0.5, 100.0])
def test_value_and_moments_are_those_of_bn_behind_the_convolution(strides, mean):
    """Against NumPy in float64."""
    x, kernel = _random(6, 5, 4, 3, mean=mean), _random(1, 1, 3, 7, seed=1)
    scale, bias = _random(7, seed=2), _random(7, seed=3)
    y, moments = folded(x, kernel, scale, bias, strides=strides, epsilon=EPSILON, dtype=jnp.float32)
    product = np.float64(x)[:, ::strides, ::strides] @ np.float64(kernel[0, 0])
    expected = np.stack([product.mean((0, 1, 2)), product.var((0, 1, 2))])
    np.testing.assert_allclose(moments, expected, rtol=1e-5, atol=1e-5)
    expected = (product - expected[0]) / np.sqrt(expected[1] + EPSILON) * scale + bias
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 if mean < 1 else 1e-4)


@pytest.mark.quick
def test_a_bottleneck_trains_as_with_bn_behind_its_convolutions(float64):
    """Output, running statistics and all gradients in float64, where only the order of operations differs."""
    with float64():
        block, variables = _block(dtype=jnp.float64)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        x = jnp.asarray(_random(8, 6, 6, CHANNELS), jnp.float64)
        own = jax.jit(lambda v, x: _trained(block, v, x))(variables, x)
        with plain_convolutions():
            plain = jax.jit(lambda v, x: _trained(block, v, x))(variables, x)
    for found, expected in zip(jax.tree.leaves(own), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("train", "norm"),
    [(False, {}), (True, {"frozen": True}), (True, {"norm_scope": 4})],
    ids=["evaluation", "frozen", "ghost batches"],
)
def test_other_statistics_normalise_what_the_convolution_gave(train, norm):
    block, variables = _block(**norm)
    x = _random(8, 6, 6, CHANNELS)

    def run():
        return jax.jit(lambda v: block.apply(v, x, Gates(), train, mutable=["batch_stats"]))(variables)

    own = run()
    with plain_convolutions():
        plain = run()
    for found, expected in zip(jax.tree.leaves(own), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_nothing_as_wide_as_the_output_is_kept_for_the_gradient():
    """But for ReLU's mask and zeros. A plain program keeps what the convolutions of branch and shortcut gave."""
    block, variables = _block()
    x = jnp.asarray(_random(8, 6, 6, CHANNELS))

    def kept():
        def output(params, x):
            return block.apply({**variables, "params": params}, x, Gates(), True, mutable=["batch_stats"])[0]

        _, pull = jax.vjp(output, variables["params"], x)
        wide = [leaf for leaf in jax.tree.leaves(pull) if leaf.shape == (8, 3, 3, 16) and leaf.dtype != jnp.bool_]
        return sum(bool(leaf.any()) for leaf in wide)

    assert kept() == 0
    with plain_convolutions():
        assert kept() >= 2


def test_in_bfloat16_the_statistics_are_those_of_float32():
    """The variance is computed from unrounded products: nearer to float32's than that of a rounded convolution."""
    x, kernel, scale, bias = _random(32, 8, 8, 16, mean=0.5), _random(1, 1, 16, 64, seed=1), jnp.ones(64), jnp.zeros(64)
    x = jnp.asarray(x, jnp.bfloat16)
    product = np.float64(x) @ np.float64(kernel[0, 0])
    expected = np.stack([product.mean((0, 1, 2)), product.var((0, 1, 2))])
    y, moments = folded(x, kernel, scale, bias, strides=1, epsilon=EPSILON, dtype=jnp.bfloat16)
    np.testing.assert_allclose(moments, expected, rtol=1e-5, atol=1e-5)
    normalized = (product - expected[0]) / np.sqrt(expected[1] + EPSILON)
    assert np.sqrt(np.mean(np.square(np.float64(y) - normalized))) < 4e-3  # half of bfloat16's last digit at 1: 2e-3


def test_forward_mode_and_networks_side_by_side():
    """`jax.jvp` gives what the gradient gives, and `jax.vmap` what each network gives."""
    arguments = (_random(2, 4, 3, 2, 3, mean=0.5), _random(2, 1, 1, 3, 7, seed=1), _random(2, 7, seed=2), _random(2, 7))

    def value(*arguments):
        y, moments = folded(*arguments, strides=1, epsilon=EPSILON, dtype=jnp.float32)
        return jnp.sin(y).sum() + moments.sum()

    together = jax.vmap(jax.grad(value, argnums=(0, 1, 2, 3)))(*arguments)
    for i in range(2):
        one = [argument[i] for argument in arguments]
        gradients = jax.grad(value, argnums=(0, 1, 2, 3))(*one)
        for found, expected in zip(together, gradients, strict=True):
            np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-4)
        directions = [_random(*argument.shape, seed=5 + k) for k, argument in enumerate(one)]
        _, tangent = jax.jvp(value, one, directions)
        along = sum(np.vdot(gradient, direction) for gradient, direction in zip(gradients, directions, strict=True))
        np.testing.assert_allclose(tangent, along, rtol=1e-4)
