"""Pooling with explicit padding."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from resjax.layers.backend import faster_forms


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 3x3 window of x [N, H, W, C] at stride 2, padded by 1 on each side: [N, H', W', C].

    As Torch pads; XLA's `SAME` pads (0, 1) at stride 2 and is shifted by a pixel. Of equal values the first, row by
    row, takes the gradient. NaN stays NaN.
    """
    if faster_forms():
        return _max_pool_cpu(x)
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def max_pool_halved(x: jax.Array) -> jax.Array:
    """The largest of each 2x2 window of x [N, H, W, C] at stride 2: [N, H // 2, W // 2, C].

    An odd last row or column is left out. Of equal values the first, row by row, takes the gradient. NaN stays NaN.
    """
    if faster_forms():
        return _halved_cpu(x)
    return nn.max_pool(x, (2, 2), (2, 2))


@jax.custom_vjp
def _max_pool_cpu(x):
    """Nine shifted views of the image compared: in XLA's own form the gradient is eight times slower on a CPU."""
    taps = _taps(x)
    largest = taps[0]
    for tap in taps[1:]:
        largest = jnp.maximum(largest, tap)
    return largest


def _max_pool_forward(x):
    largest, place = _largest_and_place(_taps(x))
    # An array without elements brings the size of the image, which is no type of JAX.
    return largest, (place, jnp.zeros((0, *x.shape[1:3])))


def _largest_and_place(taps):
    """The largest of arrays of one shape, elementwise, and the number of the first that has it, int8."""
    largest, place = taps[0], jnp.zeros(taps[0].shape, jnp.int8)
    for i, tap in enumerate(taps[1:], start=1):
        wins = (tap > largest) | jnp.isnan(tap)
        largest, place = jnp.where(wins, tap, largest), jnp.where(wins, jnp.int8(i), place)
    return largest, place


def _max_pool_backward(residuals, dy):
    place, size = residuals
    _, height, width = size.shape

    def chosen(row, column):
        return jnp.where(place == 3 * row + column, dy, jnp.zeros((), dy.dtype))

    # Rows and columns of even number are the middle of a window each, odd ones the end of one and the start of another.
    even = _interleave(chosen(1, 1), chosen(1, 2) + _next(chosen(1, 0), 2), 2, width)
    end = _interleave(chosen(2, 1), chosen(2, 2) + _next(chosen(2, 0), 2), 2, width)
    start = _interleave(chosen(0, 1), chosen(0, 2) + _next(chosen(0, 0), 2), 2, width)
    return (_interleave(even, end + _next(start, 1), 1, height),)


_max_pool_cpu.defvjp(_max_pool_forward, _max_pool_backward)


def _taps(x):
    """The windows' first, second, .. ninth pixels, row by row, [N, H', W', C] each."""
    n, height, width, channels = x.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), ((0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)))
    return [
        lax.slice(x, (0, i, j, 0), (n, i + 2 * rows - 1, j + 2 * columns - 1, channels), (1, 2, 2, 1))
        for i in range(3)
        for j in range(3)
    ]


def _next(x, axis):
    """Each row's (axis 1) or column's (axis 2) successor; zeros at the end."""
    rest = lax.slice_in_dim(x, 1, None, axis=axis)
    return lax.concatenate([rest, jnp.zeros_like(lax.slice_in_dim(x, 0, 1, axis=axis))], axis)


def _interleave(even, odd, axis, size):
    """Rows or columns of `even` and `odd` in turns, the first `size` of them."""
    shape = list(even.shape)
    shape[axis] *= 2
    return lax.slice_in_dim(jnp.stack([even, odd], axis + 1).reshape(shape), 0, size, axis=axis)


@jax.custom_vjp
def _halved_cpu(x):
    """Compared as in `_max_pool_cpu`."""
    return _halved_forward(x)[0]


def _halved_forward(x):
    n, height, width, channels = x.shape
    windows = x[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2, channels)
    largest, place = _largest_and_place([windows[:, :, i, :, j] for i in range(2) for j in range(2)])
    return largest, (place, jnp.zeros((0, height, width)))


def _halved_backward(residuals, dy):
    place, size = residuals
    _, height, width = size.shape
    n, rows, columns, channels = dy.shape
    numbers = jnp.arange(4, dtype=jnp.int8).reshape(2, 1, 2, 1)
    chosen = place[:, :, None, :, None] == numbers
    dx = jnp.where(chosen, dy[:, :, None, :, None], jnp.zeros((), dy.dtype))
    dx = dx.reshape(n, 2 * rows, 2 * columns, channels)
    return (jnp.pad(dx, ((0, 0), (0, height - 2 * rows), (0, width - 2 * columns), (0, 0))),)


_halved_cpu.defvjp(_halved_forward, _halved_backward)
