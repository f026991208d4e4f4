"""Max-pooling as shifted views of the image compared.

XLA's own form has a gradient that is eight times slower on a CPU, and that moves seven times the bytes on a GPU.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad

from resjax.layers.cpu.primitive import primitive


@jax.custom_jvp
def max_pool_views(x: jax.Array) -> jax.Array:
    """As `resjax.layers.max_pool`."""
    largest, *others = _taps(x, -jnp.inf)
    for tap in others:
        largest = jnp.maximum(largest, tap)
    return largest


@max_pool_views.defjvp
def _max_pool_tangents(primals, tangents):
    (x,), (dx,) = primals, tangents
    largest, place = _largest_and_place(_taps(x, -jnp.inf))
    return largest, _chosen.bind(place, dx, halved=False)


@jax.custom_jvp
def max_pool_halved_views(x: jax.Array) -> jax.Array:
    """As `resjax.layers.max_pool_halved`."""
    return _largest_and_place(_quarters(x))[0]


@max_pool_halved_views.defjvp
def _max_pool_halved_tangents(primals, tangents):
    (x,), (dx,) = primals, tangents
    largest, place = _largest_and_place(_quarters(x))
    return largest, _chosen.bind(place, dx, halved=True)


def _taps(x, border):
    """The windows' first, second, .. ninth pixels, row by row, [N, H', W', C] each; `border` outside the image."""
    n, height, width, channels = x.shape
    rows, columns = (height - 1) // 2 + 1, (width - 1) // 2 + 1  # as XLA writes it: symbolic sizes are the same then
    x = lax.pad(x, jnp.array(border, x.dtype), ((0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)))
    return [
        lax.slice(x, (0, i, j, 0), (n, i + 2 * rows - 1, j + 2 * columns - 1, channels), (1, 2, 2, 1))
        for i in range(3)
        for j in range(3)
    ]


def _quarters(x):
    """The four pixels of the windows that don't overlap, row by row."""
    n, height, width, channels = x.shape
    rows, columns = (height - 2) // 2 + 1, (width - 2) // 2 + 1  # as XLA writes it, and no indexing, which would gather
    windows = lax.slice(x, (0, 0, 0, 0), (n, 2 * rows, 2 * columns, channels))
    windows = windows.reshape(n, rows, 2, columns, 2, channels)
    return [
        lax.index_in_dim(lax.index_in_dim(windows, j, 4, keepdims=False), i, 2, keepdims=False)
        for i in range(2)
        for j in range(2)
    ]


def _largest_and_place(taps):
    """The largest of arrays of one shape, elementwise, and the number of the first that has it, int8."""
    largest, place = taps[0], jnp.zeros(taps[0].shape, jnp.int8)
    for i, tap in enumerate(taps[1:], start=1):
        wins = (tap > largest) | jnp.isnan(tap)
        largest, place = jnp.where(wins, tap, largest), jnp.where(wins, jnp.int8(i), place)
    return largest, place


def _choose(place, x, *, halved):
    """Of x [N, H, W, C] the pixel that `place` [N, H', W', C] names in each window."""
    taps = _quarters(x) if halved else _taps(x, 0)
    result = taps[0]
    for i, tap in enumerate(taps[1:], start=1):
        result = jnp.where(place == i, tap, result)
    return result


def _spread(place, dy, *, size, halved):
    """The transpose: sums up dy in the pixels, of images of `size`, that it was chosen from."""
    return (_spread_halved if halved else _spread_overlapping)(place, dy, *size)


def _spread_overlapping(place, dy, height, width):
    def chosen(row, column):
        return jnp.where(place == 3 * row + column, dy, jnp.zeros((), dy.dtype))

    # Rows and columns of even number are the middle of a window each, odd ones the end of one and the start of another.
    even = _interleave(chosen(1, 1), chosen(1, 2) + _next(chosen(1, 0), 2), 2, width)
    end = _interleave(chosen(2, 1), chosen(2, 2) + _next(chosen(2, 0), 2), 2, width)
    start = _interleave(chosen(0, 1), chosen(0, 2) + _next(chosen(0, 0), 2), 2, width)
    return _interleave(even, end + _next(start, 1), 1, height)


def _gather(place, dy, *, size, halved):
    """The same, pixel by pixel: a GPU then computes it in the kernels that read it."""
    if halved:
        return _spread_halved(place, dy, *size)

    def reaching(axis, tap, missing):
        """(shift, taps [size]) for the window around a pixel, and for the next, which reaches back to odd ones alone.

        The number of the tap, in steps of `tap`, that a pixel is in its window; `missing` where it is in none.
        """
        odd = np.arange(size[axis]) % 2
        return (0, tap * (1 + odd)), (1, np.where(odd, 0, missing))

    dx = jnp.zeros((), dy.dtype)
    for down, of_rows in reaching(0, 3, -100):
        for right, of_columns in reaching(1, 1, -20):
            taps = jnp.asarray((of_rows[:, None] + of_columns)[..., None], jnp.int8)
            places, values = (_twice(_shifted(array, down, right), size) for array in (place, dy))
            dx += jnp.where(places == taps, values, jnp.zeros((), dy.dtype))
    return dx


def _shifted(x, down, right):
    """Of each window the one so many further down and to the right; zeros beyond the last."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (-down, down, 0), (-right, right, 0), (0, 0, 0)))


def _twice(x, size):
    """Each row and column twice, up to `size`."""
    return x.repeat(2, axis=1).repeat(2, axis=2)[:, : size[0], : size[1]]


def _next(x, axis):
    """Each row's (axis 1) or column's (axis 2) successor; zeros at the end."""
    rest = lax.slice_in_dim(x, 1, None, axis=axis)
    return lax.concatenate([rest, jnp.zeros_like(lax.slice_in_dim(x, 0, 1, axis=axis))], axis)


def _interleave(even, odd, axis, size):
    """Rows or columns of `even` and `odd` in turns, the first `size` of them."""
    shape = list(even.shape)
    shape[axis] *= 2
    return lax.slice_in_dim(jnp.stack([even, odd], axis + 1).reshape(shape), 0, size, axis=axis)


def _spread_halved(place, dy, height, width):
    n, rows, columns, channels = dy.shape
    numbers = jnp.arange(4, dtype=jnp.int8).reshape(2, 1, 2, 1)
    chosen = place[:, :, None, :, None] == numbers
    dx = jnp.where(chosen, dy[:, :, None, :, None], jnp.zeros((), dy.dtype))
    dx = dx.reshape(n, 2 * rows, 2 * columns, channels)
    return jnp.pad(dx, ((0, 0), (0, height - 2 * rows), (0, width - 2 * columns), (0, 0)))


def _as_more_images(operator):
    """The rule of `jax.vmap`."""

    def batch(arrays, axes, **parameters):
        count = next(array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None)
        arrays = [
            jnp.broadcast_to(array, (count, *array.shape)) if axis is None else jnp.moveaxis(array, axis, 0)
            for array, axis in zip(arrays, axes, strict=True)
        ]
        result = operator().bind(*(array.reshape(-1, *array.shape[2:]) for array in arrays), **parameters)
        return result.reshape(count, -1, *result.shape[1:])

    return batch


_chosen: Primitive = primitive(
    "max_pool_chosen", _choose, lambda place, x, **_: place.shape, _as_more_images(lambda: _chosen)
)
_spread_of: Primitive = primitive(
    "max_pool_spread",
    _spread,
    lambda place, dy, size, halved: (dy.shape[0], *size, dy.shape[3]),
    _as_more_images(lambda: _spread_of),
    _gather,
)

# Linear in the second array; the first are integers, which have no gradient.
ad.defbilinear(
    _chosen,
    None,
    lambda dy, place, x, halved: _spread_of.bind(place, dy, size=x.aval.shape[1:3], halved=halved),
)
ad.defbilinear(_spread_of, None, lambda x, place, dy, size, halved: _chosen.bind(place, x, halved=halved))
