"""Every form of the convolution against sums over the kernel in NumPy, in value and both gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings

from resjax import InputError
from resjax.layers import Conv, conv2d, split_batch
from resjax.train import batch_sharding, data_mesh
from tests.helpers.convolutions import Convolution, assert_close, convolutions

# Images of a batch, on one device: one; few; two chunks of the kernel gradient's loop; some that no chunk divides; on
# eight devices: two chunks on each.
IMAGES = (1, 3, 20, 37, 256)
# Channels of a group, in and out: narrower than a vector, at the edges of the forms, wider.
CHANNELS = ((1, 1), (3, 16), (4, 4), (8, 12), (12, 8), (16, 15), (5, 32), (40, 7))


def value_and_gradients(case, x, kernel, dy):
    """On eight devices where they can share the images."""
    mesh = data_mesh(jax.devices() if case.images % 8 == 0 else jax.devices()[:1])

    @jax.jit
    @split_batch(mesh)
    def run(x, kernel, dy):
        conv = lambda x, kernel: conv2d(x, kernel, case.strides, case.padding, case.dilation, case.groups)  # noqa: E731
        y, pull = jax.vjp(conv, x, kernel)
        return y, *pull(dy)

    return run(x, kernel, dy)


def check(case, float64, dtype="float64", tolerance=1e-12):
    x, kernel = case.draw()
    value, pullback = case.reference(x, kernel)
    dy = np.random.default_rng(2).normal(size=value.shape)
    with float64():
        found = value_and_gradients(case, *(jnp.asarray(array, dtype) for array in (x, kernel, dy)))
    assert {array.dtype for array in found} == {jnp.dtype(dtype)}
    assert_close(found, (value, *pullback(dy)), tolerance)


@settings(max_examples=15)
@given(case=convolutions(IMAGES, CHANNELS, groups=(1, 2, 6)))
@example(Convolution((8, 9), (3, 3), 1, (1, 1), (3, 16), images=256))
@example(Convolution((8, 9), (3, 3), 1, (1, 1), (16, 16), images=3))  # two pixels at once
@example(Convolution((5, 6), (1, 1), 2, (0, 0), (4, 4), groups=2, images=256))
@example(Convolution((5, 6), (3, 3), 2, (1, 1), (5, 3), groups=32, images=3))  # groups in a loop
def test_forms_compute_the_sums_over_the_kernel(float64, case):
    check(case, float64)


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_bfloat16_stays_within_its_rounding_of_float64(kernel, groups, float64):
    """Of the inputs, too."""
    case = Convolution((8, 8), kernel, 1, (kernel[0] // 2,) * 2, (8, 8), groups=groups, images=4)
    check(case, float64, "bfloat16", 0.03)


def test_devices_meet_once_whatever_the_loops():
    x = jnp.ones((256, 8, 8, 16))
    layer = Conv(16)
    variables = layer.init(jax.random.key(0), x)
    mesh = data_mesh()

    @functools.partial(jax.jit, in_shardings=(None, batch_sharding(mesh)))
    @split_batch(mesh)
    def gradient(variables, x):
        return jax.grad(lambda variables: jnp.square(layer.apply(variables, x)).sum())(variables)

    program = gradient.lower(variables, x).compile().as_text()
    assert " while(" in program
    assert program.count(" all-reduce(") == 1
    assert program.index(" while(") < program.index(" all-reduce(")


@pytest.fixture
def operators(monkeypatch):
    """operators(NAME=value, ..) -> the jaxpr of a convolution that is traced with these environment variables."""
    x, kernel = jnp.zeros((2, 5, 6, 4)), jnp.zeros((1, 1, 4, 4))

    def trace(**environment):
        for name in ("RESJAX_CPU_OPERATORS", "RESJAX_CONV"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return str(jax.make_jaxpr(lambda x, kernel: conv2d(x, kernel, 1, (0, 0)))(x, kernel))

    return trace


def test_the_environment_chooses_the_operators(operators):
    assert "conv_cpu" in operators() and "conv_cpu" in operators(RESJAX_CPU_OPERATORS="own")
    xla = operators(RESJAX_CPU_OPERATORS="xla")
    assert "conv_general_dilated" in xla and "conv_cpu" not in xla
    with pytest.raises(InputError, match="RESJAX_CPU_OPERATORS: expected 'own' or 'xla', got 'fast'"):
        operators(RESJAX_CPU_OPERATORS="fast")


def test_the_old_name_of_the_environment_works_and_is_said(operators):
    with pytest.warns(FutureWarning, match="RESJAX_CONV=xla is called RESJAX_CPU_OPERATORS=xla now"):
        assert "conv_general_dilated" in operators(RESJAX_CONV="xla")
    with pytest.warns(FutureWarning, match="RESJAX_CONV=auto is called RESJAX_CPU_OPERATORS=own now"):
        assert "conv_cpu" in operators(RESJAX_CONV="auto")
    with pytest.raises(InputError, match="RESJAX_CONV: expected 'auto' or 'xla', got 'fast'"):
        operators(RESJAX_CONV="fast")
    with pytest.raises(InputError, match="RESJAX_CONV=xla and RESJAX_CPU_OPERATORS=own disagree"):
        operators(RESJAX_CONV="xla", RESJAX_CPU_OPERATORS="own")
