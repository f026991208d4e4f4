"""Every form of the convolution against `flax.linen.Conv`, in value and both gradients, over generated shapes."""

import functools
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resjax import InputError
from resjax.layers import Conv, split_batch
from resjax.train import batch_sharding, data_mesh

# Images of a batch, on one device: one; few; two chunks of the kernel gradient's loop; some that no chunk divides; on
# eight devices: two chunks on each.
IMAGES = (1, 3, 20, 37, 256)
# Channels of a group, in and out: narrower than a vector, at the edges of the forms, wider.
CHANNELS = ((1, 1), (3, 16), (4, 4), (8, 12), (12, 8), (16, 15), (5, 32), (40, 7))
KERNELS = ((1, 1), (3, 3), (7, 7), (1, 3), (5, 1))


def generated(count, seed=0):
    """Distinct cases, of all combinations."""
    cases = list(itertools.product(KERNELS, (1, 2, 3), (1, 2), (1, 2, 6, 32), CHANNELS, IMAGES, (5, 8, 11), (6, 9)))
    return random.Random(seed).sample(cases, count)


def both(case, padding=None, dtype=jnp.float64):
    """Our layer, flax's of the same parameters, and an input."""
    kernel_size, strides, dilation, groups, (c_in, c_out), images, height, width = case
    options = {"kernel_size": kernel_size, "use_bias": False, "dtype": dtype}
    ours = Conv(groups * c_out, strides=strides, dilation=dilation, groups=groups, padding=padding, **options)
    pads = padding or tuple(dilation * (k - 1) // 2 for k in kernel_size)
    theirs = nn.Conv(
        groups * c_out,
        strides=strides,
        kernel_dilation=dilation,
        feature_group_count=groups,
        padding=[(pad, pad) for pad in pads],
        **options,
    )
    rng = np.random.default_rng(1)
    images = min(images, 3) if groups * max(c_in, c_out) > 100 else images
    x = rng.normal(size=(images, height, width, groups * c_in))
    kernel = rng.normal(size=(*kernel_size, c_in, groups * c_out))
    return ours, theirs, {"params": {"kernel": kernel}}, x


def value_and_gradients(layer, variables, x, seed=2):
    shape = jax.eval_shape(layer.apply, variables, x)
    dy = np.random.default_rng(seed).normal(size=shape.shape).astype(shape.dtype)
    mesh = data_mesh(jax.devices() if len(x) % 8 == 0 else jax.devices()[:1])

    @jax.jit
    @split_batch(mesh)
    def run(variables, x, dy):
        y, pull = jax.vjp(layer.apply, variables, x)
        return y, *jax.tree.leaves(pull(dy))

    return run(variables, x, dy)


@pytest.mark.parametrize("part", range(3))
@pytest.mark.usefixtures("in_float64")
def test_forms_compute_what_flax_computes(part):
    for case in generated(24)[part::3]:
        ours, theirs, variables, x = both(case)
        for a, b in zip(*(value_and_gradients(layer, variables, x) for layer in (ours, theirs)), strict=True):
            assert a.shape == b.shape, case
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max(), err_msg=str(case))


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("padding", [(0, 0), (2, 0), (1, 3)])
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3)])
def test_explicit_padding(kernel_size, padding):
    for strides, groups in itertools.product((1, 2), (1, 2)):
        ours, theirs, variables, x = both((kernel_size, strides, 1, groups, (4, 6), 2, 8, 9), padding)
        for a, b in zip(*(value_and_gradients(layer, variables, x) for layer in (ours, theirs)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3)])
def test_bfloat16_stays_within_its_rounding_of_float64(kernel_size, groups, float64):
    case = (kernel_size, 1, 1, groups, (8, 8), 4, 8, 8)
    with float64():
        _, exact, variables, x = both(case)
        wanted = value_and_gradients(exact, variables, x)
        ours, _, _, _ = both(case, dtype=jnp.bfloat16)
        found = value_and_gradients(ours, variables, x)
    assert found[0].dtype == jnp.bfloat16
    for a, b in zip(found, wanted, strict=True):
        error = np.abs(np.asarray(a, np.float64) - np.asarray(b)).max()
        assert error < 0.03 * np.abs(b).max()


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


def primitives(monkeypatch, choice):
    monkeypatch.setenv("RESJAX_CONV", choice)
    ours, _, variables, x = both(((1, 1), 1, 1, 1, (4, 4), 2, 5, 6), dtype=jnp.float32)
    return str(jax.make_jaxpr(ours.apply)(variables, x))


def test_the_environment_turns_the_forms_off(monkeypatch):
    assert "dot_general" in primitives(monkeypatch, "auto")
    assert "conv_general_dilated" in primitives(monkeypatch, "xla")
    with pytest.raises(InputError, match="RESJAX_CONV: expected 'auto' or 'xla', got 'fast'"):
        primitives(monkeypatch, "fast")
