"""Convolution: value and both gradients against loops over the kernel in NumPy, and against Flax and XLA's autodiff."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from resjax import InputError
from resjax.layers import Conv, conv2d, initializer


@dataclasses.dataclass(frozen=True)
class Case:
    """Shapes of one convolution."""

    image: tuple[int, int]
    kernel: tuple[int, int]
    strides: int
    padding: tuple[int, int]
    channels: tuple[int, int]
    batch: int = 2

    def __str__(self):
        joined = ["x".join(map(str, pair)) for pair in (self.image, self.kernel, self.padding, self.channels)]
        return "image{}-kernel{}-pad{}-channels{}".format(*joined) + f"-stride{self.strides}-batch{self.batch}"


def _generated(number, seed):
    """Shapes that a network may meet: any parity of size, kernel and stride, whole rows left over at the far border."""
    rng = np.random.default_rng(seed)
    cases = []
    while len(cases) < number:
        image, channels = tuple(rng.integers(1, 12, 2).tolist()), tuple(rng.integers(1, 6, 2).tolist())
        kernel = tuple(rng.choice([1, 2, 3, 5, 7], 2).tolist())
        padding = tuple(rng.integers(0, 4, 2).tolist())
        if all(size + 2 * pad >= k for size, pad, k in zip(image, padding, kernel, strict=True)):
            cases.append(Case(image, kernel, int(rng.integers(1, 4)), padding, channels, int(rng.integers(1, 4))))
    return cases


CHOSEN = [
    Case((8, 8), (3, 3), 1, (1, 1), (3, 4)),  # of a stage
    Case((8, 8), (3, 3), 2, (1, 1), (4, 8)),  # of a transition, even size: the last padded row is not read
    Case((9, 7), (3, 3), 2, (1, 1), (4, 8)),  # of a transition, odd size
    Case((8, 9), (1, 1), 2, (0, 0), (4, 8)),  # projection shortcut
    Case((15, 16), (7, 7), 2, (3, 3), (3, 2)),  # ImageNet stem
    Case((7, 7), (1, 1), 3, (2, 3), (1, 1)),  # more padding than kernel
    Case((3, 3), (7, 7), 1, (3, 3), (1, 2)),  # kernel larger than the image
    Case((6, 6), (3, 3), 1, (1, 1), (3, 4), batch=64),  # on a CPU the kernel gradient sums chunks of images: 2 of 32
    Case((6, 5), (3, 3), 2, (1, 1), (3, 4), batch=40),  # 2 of 20
    Case((4, 4), (1, 1), 1, (0, 0), (3, 4), batch=37),  # prime: in one piece
]


def _draw(case, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(case.batch, *case.image, case.channels[0]))
    return x, rng.normal(size=(*case.kernel, *case.channels))


def _numpy_conv(x, kernel, case):
    """Value, and a function from its cotangent to those of x and kernel: one matrix product per kernel position."""
    (top, left), s = case.padding, case.strides
    padded = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
    height, width = ((size - k) // s + 1 for size, k in zip(padded.shape[1:3], case.kernel, strict=True))
    positions = list(np.ndindex(case.kernel))
    views = [np.s_[:, i : i + (height - 1) * s + 1 : s, j : j + (width - 1) * s + 1 : s] for i, j in positions]
    value = sum(padded[view] @ kernel[position] for view, position in zip(views, positions, strict=True))

    def pullback(dy):
        dx, dkernel = np.zeros_like(padded), np.zeros_like(kernel)
        for view, position in zip(views, positions, strict=True):
            dx[view] += dy @ kernel[position].T
            dkernel[position] = np.einsum("nhwi,nhwo->io", padded[view], dy)
        return dx[:, top : top + x.shape[1], left : left + x.shape[2]], dkernel

    return value, pullback


def _assert_close(got, expected, tolerance):
    """Element by element, relative to the largest element of each array."""
    for name, ours, theirs in zip(("value", "dx", "dkernel"), got, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(np.abs(theirs).max(), 1), err_msg=name)


def _check(case, dtype, tolerance):
    x, kernel = _draw(case)
    value, pullback = _numpy_conv(x, kernel, case)
    dy = np.random.default_rng(1).normal(size=value.shape)
    expected = (value, *pullback(dy))
    x, kernel, dy = (jnp.asarray(array, dtype) for array in (x, kernel, dy))

    def once(x):
        y, vjp = jax.vjp(lambda x, kernel: conv2d(x, kernel, case.strides, case.padding), x, kernel)
        return y, *vjp(dy)

    @jax.jit
    def alone_and_looped(x, count):
        """Alone, and summed over x, 2 x, ..: XLA compiles convolutions inside loops in another way."""
        body = lambda i, sums: jax.tree.map(jnp.add, sums, once((i + 1).astype(dtype) * x))  # noqa: E731
        return once(x), lax.fori_loop(0, count, body, jax.tree.map(jnp.zeros_like, jax.eval_shape(once, x)))

    alone, looped = alone_and_looped(x, 2)
    _assert_close(alone, expected, tolerance)
    # Value and kernel gradient are linear in x, 1 + 2 = 3; dx does not depend on it.
    _assert_close(looped, (3 * expected[0], 2 * expected[1], 3 * expected[2]), tolerance)


@pytest.mark.quick
@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_value_and_gradients_are_the_sums_over_the_kernel(case):
    _check(case, jnp.float32, 3e-6)


@pytest.mark.parametrize("case", CHOSEN + _generated(15, seed=0), ids=str)
def test_nothing_but_rounding_separates_them_in_float64(case, in_float64):
    _check(case, jnp.float64, 1e-13)


@pytest.mark.parametrize("case", CHOSEN[:5], ids=str)
def test_gradients_are_those_of_autodiff_through_flax(case, in_float64):
    """Through a nonlinear function of the output, of input and kernel at once."""
    x, kernel = (jnp.asarray(array) for array in _draw(case))
    pads = [(pad, pad) for pad in case.padding]
    theirs = nn.Conv(case.channels[1], case.kernel, case.strides, pads, use_bias=False, param_dtype=jnp.float64)

    def ours_loss(x, kernel):
        return jnp.sin(conv2d(x, kernel, case.strides, case.padding)).sum()

    def flax_loss(x, kernel):
        return jnp.sin(theirs.apply({"params": {"kernel": kernel}}, x)).sum()

    (ours, ours_gradients), (flaxs, flax_gradients) = (
        jax.jit(jax.value_and_grad(loss, (0, 1)))(x, kernel) for loss in (ours_loss, flax_loss)
    )
    _assert_close((ours, *ours_gradients), (flaxs, *flax_gradients), 1e-13)


GROUPED_OR_DILATED = [  # image, kernel, strides, channels, groups, dilation
    ((8, 8), 3, 1, (4, 8), 1, 2),  # of a network for dense prediction
    ((7, 9), 3, 1, (3, 20), 1, 4),  # taps that lie in the padding alone
    ((9, 7), 3, 2, (4, 8), 1, 2),
    ((8, 9), 3, 2, (4, 20), 1, 3),
    ((9, 8), 7, 2, (3, 8), 1, 2),
    ((5, 6), 1, 2, (4, 8), 1, 3),  # one tap has no distance
    ((8, 8), 3, 1, (16, 16), 2, 1),  # of a ResNeXt
    ((9, 7), 3, 2, (16, 32), 4, 1),  # the first block of one of its stages
    ((9, 8), 7, 2, (4, 8), 2, 1),
    ((7, 6), 1, 2, (4, 8), 4, 1),
    ((6, 7), 1, 1, (6, 3), 3, 1),
    ((5, 5), 3, 1, (16, 16), 16, 1),  # depthwise
    ((4, 5), 3, 2, (128, 32), 16, 1),  # many groups of many channels
    ((5, 4), 3, 1, (24, 192), 24, 1),
    ((9, 9), 3, 2, (4, 8), 2, 2),
    ((9, 8), 7, 1, (8, 8), 4, 2),
]


@pytest.mark.parametrize(
    ("case", "dtype", "tolerance"),
    [pytest.param(case, "float32", 3e-6, marks=pytest.mark.quick) for case in GROUPED_OR_DILATED]
    + [(case, "bfloat16", 2**-7) for case in GROUPED_OR_DILATED[::2]],
    ids=str,
)
def test_groups_and_dilation_are_flaxs(case, dtype, tolerance, draw_variables):
    """Value and both gradients from the same parameters; padded so that stride 1 keeps the size."""
    image, kernel, strides, channels, groups, dilation = case
    (inputs, features), size = channels, (kernel, kernel)
    pads = ((dilation * (kernel - 1) // 2,) * 2,) * 2
    options = {"strides": strides, "use_bias": False, "dtype": dtype}
    ours = Conv(features, size, dilation=dilation, groups=groups, **options)
    theirs = nn.Conv(features, size, padding=pads, kernel_dilation=dilation, feature_group_count=groups, **options)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *image, inputs)).astype(np.float32)
    variables = draw_variables(ours, x)
    assert variables["params"]["kernel"].shape == (*size, inputs // groups, features)
    dy = rng.normal(size=(2, *(-(-extent // strides) for extent in image), features)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(layer, x, kernel):
        value, vjp = jax.vjp(lambda x, kernel: layer.apply({"params": {"kernel": kernel}}, x), x, kernel)
        return value, *vjp(dy.astype(value.dtype))

    got, expected = (value_and_gradients(layer, x, variables["params"]["kernel"]) for layer in (ours, theirs))
    assert got[0].dtype == dtype
    _assert_close(*([np.asarray(array, np.float32) for array in arrays] for arrays in (got, expected)), tolerance)


@pytest.mark.quick
@pytest.mark.parametrize(("inputs", "features", "groups"), [(6, 8, 4), (8, 6, 4), (2, 4, 4)])
def test_groups_that_do_not_divide_are_named(inputs, features, groups):
    message = f"{groups} groups must divide the input channels, {inputs}, and the output channels, {features}"
    with pytest.raises(InputError, match=message):
        jax.eval_shape(Conv(features, groups=groups).init, jax.random.key(0), jnp.zeros((1, 8, 8, inputs)))


@pytest.mark.parametrize("strides", [1, 2])
def test_bfloat16_rounds_once(strides):
    """The result and gradients are the exact ones of the rounded inputs, but for the last of bfloat16's 8 bits."""
    case = Case((9, 8), (3, 3), strides, (1, 1), (5, 6))
    x, kernel = (np.asarray(jnp.asarray(array, jnp.bfloat16), np.float64) for array in _draw(case))
    value, pullback = _numpy_conv(x, kernel, case)
    y, vjp = jax.vjp(
        lambda x, kernel: conv2d(x, kernel, strides, case.padding),
        *(jnp.asarray(array, jnp.bfloat16) for array in (x, kernel)),
    )
    got = (y, *vjp(jnp.ones_like(y)))
    assert {array.dtype for array in got} == {jnp.dtype(jnp.bfloat16)}
    _assert_close([np.asarray(array, np.float64) for array in got], (value, *pullback(np.ones_like(value))), 2**-8)


def _layer_and_flaxs(kernel_size, use_bias):
    pads = [((k - 1) // 2,) * 2 for k in kernel_size]
    ours = Conv(5, kernel_size, strides=2, use_bias=use_bias)
    return ours, nn.Conv(5, kernel_size, 2, pads, use_bias=use_bias, kernel_init=initializer(ours.kernel_init))


@pytest.mark.quick
@pytest.mark.parametrize(("kernel_size", "use_bias"), [((3, 3), True), ((1, 3), False), ((7, 7), False)])
def test_layer_is_flaxs_with_symmetric_padding(kernel_size, use_bias, draw_variables):
    """Names, shapes, dtypes and result: one can replace the other in a checkpoint."""
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    ours, theirs = _layer_and_flaxs(kernel_size, use_bias)
    assert jax.eval_shape(ours.init, jax.random.key(0), x) == jax.eval_shape(theirs.init, jax.random.key(0), x)
    variables = draw_variables(ours, x)
    result, expected = (jax.jit(layer.apply)(variables, x) for layer in (ours, theirs))
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_initial_values_are_flaxs():
    initial = [
        jax.jit(layer.init)(jax.random.key(1), jnp.zeros((1, 8, 8, 3))) for layer in _layer_and_flaxs((3, 3), True)
    ]
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


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_vmap_over_inputs_and_kernels_is_a_loop(axes):
    """Also through the gradients, whose rule is written by hand."""
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=size).astype(np.float32) for size in ((3, 2, 6, 5, 4), (3, 3, 3, 4, 2)))
    x, kernel = (array if axis == 0 else array[0] for array, axis in zip((x, kernel), axes, strict=True))
    gradient = jax.jit(jax.grad(lambda x, kernel: jnp.square(conv2d(x, kernel, 2, (1, 1))).sum(), (0, 1)))
    mapped = jax.jit(jax.vmap(gradient, axes))(x, kernel)
    for i in range(3):
        alone = gradient(x[i] if axes[0] == 0 else x, kernel[i] if axes[1] == 0 else kernel)
        for got, expected in zip(mapped, alone, strict=True):
            np.testing.assert_allclose(got[i], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.quick
def test_wrong_channels_are_named(draw_variables):
    variables = draw_variables(Conv(4), jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(InputError, match=r"\(3, 3, 3, 4\) takes 3 input channels, got 5 \(input \(1, 8, 8, 5\)\)"):
        Conv(4).apply(variables, jnp.zeros((1, 8, 8, 5)))
