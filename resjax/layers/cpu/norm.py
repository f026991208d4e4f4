"""Normalising by a batch's own statistics, in few passes over it, with the statistics as each platform is fast at."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.sharding import Mesh, PartitionSpec

from resjax.layers.activation import positive_part
from resjax.layers.cpu.primitive import primitive

MOMENTS_OF_BATCH = "moments_of_batch"
"""Name of mean and variance, for policies of what to keep for the gradient."""

_AXES = (-4, -3, -2)
# One row of so many gives the value from which sums are measured: whatever it is, the mean of all is at most
# sqrt(_ROWS - 1) standard deviations from it, so that the variance loses no more than three of its bits.
_ROWS = 8


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6, 7))
def normalize(
    x: jax.Array | Sequence[jax.Array],
    moments: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    mesh: Mesh | None = None,
    rectified: bool = False,
    dtype: Any = None,
    wide: jax.Array | Sequence[jax.Array] | None = None,
) -> jax.Array:
    """Normalises x [.., N, H, W, C] by its `moments`, in float32 (float64 where x is); scale and bias are [C].

    x may be several arrays, which are joined along C; what is kept for the gradient is these, not the joined array.

    Its gradient, with that of the moments, takes two sums over the gradient of y, in one pass, and one pass more;
    between devices it sends one message in each direction.

    With `rectified`, max(y, 0) is the result. `dtype` is that of the result; None is that of the computation.

    `mesh` is that of the devices that share N, split along its one axis; None where that is not known, or where x has
    more axes. `wide`, if given, is `widened` x, and has its gradient.
    """
    del wide
    mean, var = moments
    x = joined(x)
    y = ((widened(x) - mean) * (lax.rsqrt(var + epsilon) * scale) + bias).astype(dtype or _dtype(x))
    return positive_part(y) if rectified else y


@normalize.defjvp
def _tangents(epsilon, mesh, rectified, dtype, primals, tangents):
    """Value and tangents, in the order that transposes to two sums over dy, in one message, and one pass to dx."""
    (parts, (mean, var), scale, bias, wide), (dparts, (dmean, dvar), dscale, dbias, dwide) = primals, tangents
    y = normalize(*primals[:4], epsilon, mesh, rectified, dtype)
    dparts = dparts if wide is None else dwide
    inverse = lax.rsqrt(var + epsilon)
    factor = inverse * scale
    slope = inverse * dscale - (0.5 * scale) * inverse**3 * dvar
    constant = dbias - factor * dmean
    several = isinstance(parts, (list, tuple))
    parts, dparts = (parts, dparts) if several else ((parts,), (dparts,))
    # Behind a barrier, the sums join the arrays anew: XLA would have the value write the joined array down for them.
    x = joined([lax.optimization_barrier(part) for part in parts]) if several else parts[0]
    of_others = _line(widened(x) - mean, slope, constant, mesh)
    bias = jnp.broadcast_to(bias, mean.shape)
    if rectified:
        of_others = _cut(of_others, _where_cut(x, mean, factor, bias, by_x=False))
    of_parts, begin = [], 0
    for part, dpart in zip(parts, dparts, strict=True):
        of_part = functools.partial(lax.slice_in_dim, start_index=begin, limit_index=begin + part.shape[-1], axis=-1)
        begin += part.shape[-1]
        of_x = widened(dpart) * of_part(factor)
        if rectified:
            of_x = _cut(of_x, _where_cut(part, *map(of_part, (mean, factor, bias)), by_x=True))
        of_parts.append(of_x)
    return y, (joined(of_parts) + of_others).astype(y.dtype)


def joined(x: Any) -> jax.Array:
    """x itself, or of several arrays the one that they make, joined along their last axis."""
    if not isinstance(x, (list, tuple)):
        return x
    return x[0] if len(x) == 1 else jnp.concatenate(x, axis=-1)


def _where_cut(*arrays, by_x):
    return _is_cut.bind(*map(lax.stop_gradient, arrays), by_x=by_x)


def _cut(value, where):
    return jnp.where(where, jnp.zeros((), value.dtype), value)


def _is_cut_once(x, mean, factor, bias, *, by_x):
    """Where max(.., 0) is 0: one answer, which the value gave already."""
    del by_x
    return (widened(x) - mean) * factor + bias <= 0


def _is_cut_on_gpu(x, mean, factor, bias, *, by_x):
    """The sums and dx tell it by x, which both read anyway, each in its own way.

    With one answer for both, the kernel of the sums would write down for that of dx what it chose from dy.
    """
    if by_x:
        return (widened(lax.optimization_barrier(x)) - mean) * factor + bias <= 0
    return (widened(x) - mean) * factor <= -bias


_is_cut: Primitive = primitive(
    "is_cut",
    _is_cut_once,
    lambda x, *_, by_x: jax.ShapeDtypeStruct(x.shape, jnp.bool_),
    lambda arrays, axes, by_x: _is_cut.bind(*_all_mapped(arrays, axes), by_x=by_x),
    gpu=_is_cut_on_gpu,
)


def _all_mapped(arrays, axes):
    """Arrays with the axis of `jax.vmap` in front, those without it repeated along it."""
    count = next(array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None)
    return [
        jnp.broadcast_to(array, (count, *array.shape)) if axis is None else jnp.moveaxis(array, axis, 0)
        for array, axis in zip(arrays, axes, strict=True)
    ]


def widened(x: jax.Array) -> jax.Array:
    """x in the dtype of statistics.

    Functions that are given both read x, and hand its gradient to this: what several of them add up for it is rounded
    to x's dtype once.
    """
    return x.astype(_dtype(x))


def _dtype(x):
    return jnp.promote_types(x.dtype, jnp.float32)


def _moment_tangents(centred, dx, mesh):
    """Tangents of mean and variance, [2, .., 1, 1, 1, C]."""
    n = centred.shape[-4] * centred.shape[-3] * centred.shape[-2]

    def own(centred, dx):
        return jnp.stack([dx.sum(_AXES, keepdims=True), (centred * dx).sum(_AXES, keepdims=True)])

    weights = jnp.array([1 / n, 2 / n], dx.dtype).reshape(2, *(1,) * dx.ndim)
    axis = _axis(mesh, centred)
    if axis is None:
        return weights * own(centred, dx)
    # Each device's sums in a place of its own, and those added outside: the transpose then sends no message.
    sums = jax.shard_map(
        lambda *arrays: own(*arrays)[None],
        mesh=mesh,
        in_specs=(PartitionSpec(axis),) * 2,
        out_specs=PartitionSpec(axis),
        check_vma=False,
    )(centred, dx)
    return weights * sums.sum(0)


def _line(centred, slope, constant, mesh):
    """centred * slope + constant."""
    coefficients = jnp.stack([slope, constant])

    def own(centred, coefficients):
        slope, constant = coefficients
        return centred * slope + constant

    axis = _axis(mesh, centred)
    if axis is None:
        return own(centred, coefficients)
    return jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(PartitionSpec(axis), PartitionSpec()),
        out_specs=PartitionSpec(axis),
        check_vma=False,
    )(centred, coefficients)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def moments_of(
    x: jax.Array,
    near: jax.Array,
    mesh: Mesh | None = None,
    own_on_cpu: bool = True,
    wide: jax.Array | None = None,
) -> jax.Array:
    """Mean and biased variance of x [.., N, H, W, C] over N, H, W: [2, .., 1, 1, 1, C], float32 (float64 where x is).

    Args:
      x: images.
      near: [C], about their mean; how near costs digits of bfloat16's variance on GPUs and TPUs, and of no other.
      mesh: that of `normalize`.
      own_on_cpu: whether a CPU takes fewer passes than XLA's other platforms, where x is not bfloat16.
      wide: `widened` x; if it is given, it has the gradient.
    """
    del wide
    near = lax.stop_gradient(near.astype(_dtype(x)).reshape((1,) * (x.ndim - 1) + (-1,)))
    of_device = _own_moments.bind if own_on_cpu else _moments_plain

    axis = _axis(mesh, x)
    if mesh is None or axis is None:
        return checkpoint_name(of_device(x, near), MOMENTS_OF_BATCH)
    devices = mesh.size

    def together(x, near):
        # A sum, each device's in a place of its own: XLA combines it with other sums that are due.
        moments = of_device(x, near)
        places = jax.nn.one_hot(lax.axis_index(axis), devices, dtype=moments.dtype)
        means, variances = jnp.moveaxis(lax.psum(jnp.multiply.outer(places, moments), axis), 1, 0)
        mean = means.mean(0)
        return jnp.stack([mean, variances.mean(0) + jnp.square(means - mean).mean(0)])

    split, whole = PartitionSpec(axis), PartitionSpec()
    moments = jax.shard_map(together, mesh=mesh, in_specs=(split, whole), out_specs=whole, check_vma=False)(x, near)
    return checkpoint_name(moments, MOMENTS_OF_BATCH)


@moments_of.defjvp
def _tangents_of_moments(mesh, own_on_cpu, primals, tangents):
    (x, near, wide), (dx, _, dwide) = primals, tangents
    moments = moments_of(x, near, mesh, own_on_cpu)
    dx = dx if wide is None else dwide
    return moments, _moment_tangents(widened(x) - moments[0], widened(dx), mesh)


def _axis(mesh, x):
    """The axis of the mesh along which devices share x, for each to read its own images; None where none do."""
    if mesh is None or mesh.size == 1 or x.ndim != 4 or x.shape[0] % mesh.size:
        return None
    (axis,) = mesh.axis_names
    return axis


def _moments_cpu(x, near):
    """Measured from the mean of a few rows."""
    del near
    return _moments_from(x, widened(x[..., ::_ROWS, :, :]).mean(_AXES, keepdims=True))


def _moments_plain(x, near):
    # The mean of all carries the rounding of its sum, large where the mean is, which the second pass takes out again
    # (Chan et al. 1983, Algorithms for Computing the Sample Variance). In one pass, which the convolution that made x
    # can take along, the variance loses as many of float32's 24 digits as the mean's distance from `near`, squared, is
    # larger: of running statistics hardly any, and x has 8.
    return _moments_from(x, near if x.dtype == jnp.bfloat16 else widened(x).mean(_AXES, keepdims=True))


def _moments_from(x, near):
    """Mean and variance of x, measured from `near`."""
    x, near = widened(x), lax.stop_gradient(near)
    shift = (x - near).mean(_AXES, keepdims=True)
    var = jnp.square(x - near).mean(_AXES, keepdims=True) - jnp.square(shift)
    return jnp.stack([near + shift, jnp.maximum(var, 0)])


_own_moments: Primitive = primitive(
    "moments_of_batch",
    _moments_cpu,
    lambda x, near: jax.ShapeDtypeStruct((2, *x.shape[:-4], 1, 1, 1, x.shape[-1]), _dtype(x)),
    lambda arrays, axes: jnp.moveaxis(_own_moments.bind(*_all_mapped(arrays, axes)), 1, 0),
    _moments_plain,
)


def _own_moments_jvp(primals, tangents):
    """For derivatives of derivatives in a loop: there JAX differentiates the body as it was traced."""
    (x, near), (dx, _) = primals, tangents
    moments = _own_moments.bind(x, near)
    if type(dx) is ad.Zero:
        return moments, jnp.zeros_like(moments)
    return moments, _moment_tangents(widened(x) - moments[0], widened(dx), None)


def _is_cut_jvp(primals, tangents, *, by_x):
    del tangents  # the answer is a yes or no
    cut = _is_cut.bind(*primals, by_x=by_x)
    return cut, ad.Zero(jax.typeof(cut).to_tangent_aval())


ad.primitive_jvps[_own_moments] = _own_moments_jvp
ad.primitive_jvps[_is_cut] = _is_cut_jvp
