"""Convolution: value and both gradients against loops over the kernel in NumPy, and the layer against Flax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from resjax import InputError
from resjax.layers import Conv, conv2d, initializer
from tests.helpers.convolutions import Convolution, assert_close, convolutions

CHOSEN = [
    Convolution((8, 8), (3, 3), 1, (1, 1), (3, 4)),  # of a stage
    Convolution((8, 8), (3, 3), 2, (1, 1), (4, 8)),  # of a transition, even size: the last padded row is not read
    Convolution((9, 7), (3, 3), 2, (1, 1), (4, 8)),  # of a transition, odd size
    Convolution((8, 9), (1, 1), 2, (0, 0), (4, 8)),  # projection shortcut
    Convolution((15, 16), (7, 7), 2, (3, 3), (3, 2)),  # ImageNet stem
    Convolution((7, 7), (1, 1), 3, (2, 3), (1, 1)),  # more padding than kernel
    Convolution((3, 3), (7, 7), 1, (3, 3), (1, 2)),  # kernel larger than the image
    Convolution((6, 6), (3, 3), 1, (1, 1), (3, 4), images=64),  # on a CPU the kernel gradient sums chunks of images
    Convolution((6, 5), (3, 3), 2, (1, 1), (3, 4), images=40),
    Convolution((4, 4), (1, 1), 1, (0, 0), (3, 4), images=37),  # prime: in one piece
    Convolution((7, 9), (3, 3), 1, (4, 4), (3, 20), dilation=4),  # taps that lie in the padding alone
    Convolution((9, 7), (3, 3), 2, (1, 1), (4, 8), groups=4),  # of a ResNeXt
    Convolution((5, 5), (3, 3), 1, (1, 1), (1, 1), groups=16),  # depthwise
    Convolution((4, 5), (3, 3), 2, (1, 1), (8, 2), groups=16),  # many groups of many channels
]
TOLERANCES = {"float32": 3e-6, "float64": 1e-13, "bfloat16": 2**-7}


def _value_and_gradients(case, dtype):
    """Alone, and summed over x, 2 x in a loop, where XLA compiles convolutions in another way; and NumPy's."""
    x, kernel = (np.asarray(jnp.asarray(array, dtype), np.float64) for array in case.draw())
    value, pullback = case.reference(x, kernel)
    dy = np.asarray(jnp.asarray(np.random.default_rng(1).normal(size=value.shape), dtype), np.float64)
    expected = (value, *pullback(dy))
    x, kernel, dy = (jnp.asarray(array, dtype) for array in (x, kernel, dy))

    def once(x):
        conv = lambda x, kernel: conv2d(x, kernel, case.strides, case.padding, case.dilation, case.groups)  # noqa: E731
        y, vjp = jax.vjp(conv, x, kernel)
        return y, *vjp(dy)

    @jax.jit
    def alone_and_looped(x, count):
        body = lambda i, sums: jax.tree.map(jnp.add, sums, once((i + 1).astype(dtype) * x))  # noqa: E731
        return once(x), lax.fori_loop(0, count, body, jax.tree.map(jnp.zeros_like, jax.eval_shape(once, x)))

    alone, looped = alone_and_looped(x, 2)
    assert {array.dtype for array in alone} == {jnp.dtype(dtype)}
    assert_close(alone, expected, TOLERANCES[dtype])
    # Value and kernel gradient are linear in x, 1 + 2 = 3; dx does not depend on it.
    assert_close(looped, (3 * expected[0], 2 * expected[1], 3 * expected[2]), TOLERANCES[dtype])


@pytest.mark.quick
@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_value_and_gradients_of_a_networks_convolutions(case):
    _value_and_gradients(case, "float32")


@given(case=convolutions(), dtype=st.sampled_from(sorted(TOLERANCES)))
def test_value_and_gradients_are_the_sums_over_the_kernel(float64, case, dtype):
    """Nothing but the rounding of the dtype separates them."""
    with float64():
        _value_and_gradients(case, dtype)


@pytest.mark.quick
@pytest.mark.parametrize(("inputs", "features", "groups"), [(6, 8, 4), (8, 6, 4), (2, 4, 4)])
def test_groups_that_do_not_divide_are_named(inputs, features, groups):
    message = f"{groups} groups must divide the input channels, {inputs}, and the output channels, {features}"
    with pytest.raises(InputError, match=message):
        jax.eval_shape(Conv(features, groups=groups).init, jax.random.key(0), jnp.zeros((1, 8, 8, inputs)))


def _layer_and_flaxs(kernel_size=(3, 3), padding=None, dilation=1, groups=1, **options):
    pads = padding or tuple(dilation * (k - 1) // 2 for k in kernel_size)
    options = {"strides": 2, "use_bias": True} | options
    ours = Conv(6, kernel_size, padding=padding, dilation=dilation, groups=groups, **options)
    theirs = nn.Conv(
        6,
        kernel_size,
        padding=[(pad, pad) for pad in pads],
        kernel_dilation=dilation,
        feature_group_count=groups,
        kernel_init=initializer(ours.kernel_init),
        **options,
    )
    return ours, theirs


@pytest.mark.quick
@given(
    kernel_size=st.sampled_from([(1, 1), (3, 3), (1, 3), (7, 7)]),
    padding=st.sampled_from([None, (0, 0), (2, 0), (1, 3)]),
    dilation=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2]),
    strides=st.sampled_from([1, 2]),
    use_bias=st.booleans(),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_layer_is_flaxs_with_symmetric_padding(draw_variables, dtype, **options):
    """Names, shapes, dtypes and result: one can replace the other in a checkpoint."""
    x = np.random.default_rng(0).normal(size=(2, 13, 14, 4)).astype(np.float32)
    ours, theirs = _layer_and_flaxs(dtype=dtype, **options)
    assert jax.eval_shape(ours.init, jax.random.key(0), x) == jax.eval_shape(theirs.init, jax.random.key(0), x)
    variables = draw_variables(ours, x)
    result, expected = (jax.jit(layer.apply)(variables, x) for layer in (ours, theirs))
    assert result.dtype == expected.dtype == dtype
    assert_close([result], [np.asarray(expected, np.float64)], 3e-6 if dtype == "float32" else 2**-7)


def test_initial_values_are_flaxs():
    initial = [jax.jit(layer.init)(jax.random.key(1), jnp.zeros((1, 8, 8, 3))) for layer in _layer_and_flaxs()]
    jax.tree.map(np.testing.assert_array_equal, *initial)


def test_stride_2_is_centred_on_even_pixels():
    """As in Torch: the centre of the kernel reads pixels 0, 2, ..; XLA's `SAME` would read 1, 3, .. of an even size."""
    image = np.random.default_rng(0).normal(size=(1, 8, 9, 1)).astype(np.float32)
    centre = np.pad(np.ones((1, 1, 1, 1), np.float32), ((1, 1), (1, 1), (0, 0), (0, 0)))
    np.testing.assert_array_equal(conv2d(image, centre, 2, (1, 1)), image[:, ::2, ::2])


def test_computes_in_its_dtype_and_keeps_float32_parameters():
    x = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    layer = Conv(2, dtype=jnp.bfloat16, use_bias=True)
    y, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {array.dtype for array in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.quick
def test_wrong_channels_are_named(draw_variables):
    variables = draw_variables(Conv(4), jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(InputError, match=r"\(3, 3, 3, 4\) takes 3 input channels, got 5 \(input \(1, 8, 8, 5\)\)"):
        Conv(4).apply(variables, jnp.zeros((1, 8, 8, 5)))
