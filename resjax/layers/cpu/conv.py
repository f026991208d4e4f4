"""Forms of one 2-D convolution: XLA's own, and those that are faster on a CPU."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad
from jax.sharding import Mesh, PartitionSpec

from resjax.layers.cpu.primitive import primitive

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# A step of the loop that accumulates a kernel gradient takes at most this number of images of a device, and no more of
# dy than fits into a core's second-level cache, from which it is read once for each input channel.
_CHUNK_IMAGES = 16
_CHUNK_BYTES = 7 * 2**18
# Convolutions with fewer output channels than the first number leave a CPU's matrix kernels half empty: they compute
# several neighbouring pixels at once, up to the second number of channels. Those with just the first number, too, if
# their kernels are small, with as few input channels: 1.5 times as fast on AVX-512; of 32 input channels 0.8 times.
_NARROW, _FULL_WIDTH = 16, 32
# Up to this number of groups each becomes a convolution of its own in the program; more of them run in a loop.
_UNROLLED_GROUPS = 8


class Geometry(NamedTuple):
    """How a kernel moves over an image: (low, high) zeros along height and width, stride, dilation, groups.

    `input_dilation` puts that many steps between the pixels of the input, zeros in between, as the gradient of a
    strided convolution needs it.
    """

    pads: tuple[tuple[int, int], tuple[int, int]]
    strides: int = 1
    dilation: int = 1
    input_dilation: int = 1
    groups: int = 1


def conv_xla(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Convolves x [N, H, W, C_in] with kernel [kh, kw, C_in / groups, C_out] as XLA does."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (geometry.strides,) * 2,
        geometry.pads,
        lhs_dilation=(geometry.input_dilation,) * 2,
        rhs_dilation=(geometry.dilation,) * 2,
        dimension_numbers=_LAYOUT,
        feature_group_count=geometry.groups,
    )


def every_nth_pixel(x: jax.Array, strides: int) -> jax.Array:
    """x[:, ::strides, ::strides] of x [N, H, W, C]; by indexing, sizes that are symbols would gather pixel by pixel."""
    return lax.slice(x, (0, 0, 0, 0), x.shape, (1, strides, strides, 1))


def conv_cpu(x: jax.Array, kernel: jax.Array, geometry: Geometry, mesh: Mesh | None = None) -> jax.Array:
    """The same; on a CPU 1x1 convolutions as matrix products, narrow ones a few pixels at a time, groups one by one.

    `mesh` is that of the devices that share the batch, split along its one axis; None where that is not known.

    On a CPU both gradients are written as forward convolutions: inside `lax.scan` and `lax.while_loop` XLA's CPU
    backend runs those that autodiff writes, with their other layouts, in a naive kernel, 30 to 50 times slower. On
    other platforms value and gradients are those of `conv_xla`.
    """
    # asarray: jax 0.7 hands a NumPy constant of a traced function on as an array without methods.
    return _conv.bind(jnp.asarray(x), jnp.asarray(kernel), geometry=geometry, mesh=mesh)


# x, kernel and dy make one trilinear form, of which the gradient by any one is an operator that is linear in the other
# two: the convolution, and the gradients of its input and of its kernel.


def _conv_on_cpu(x, kernel, *, geometry, mesh):
    del mesh  # of the kernel's gradient
    return _forward(x, kernel, geometry)


def _conv_plain(x, kernel, *, geometry, mesh):
    del mesh
    return conv_xla(x, kernel, geometry)


def _conv_on_gpu(x, kernel, *, geometry, mesh):
    """Takes the pixels that a 1x1 kernel sees first.

    Otherwise its gradient is convolved with as many zeros as there are pixels that the stride leaves out. On a TPU both
    are part of the convolution, and nothing is written down between them.
    """
    del mesh
    if kernel.shape[:2] == (1, 1) and geometry.strides > 1 and geometry.pads == ((0, 0), (0, 0)):
        x, geometry = every_nth_pixel(x, geometry.strides), geometry._replace(strides=1)
    return conv_xla(x, kernel, geometry)


def _output_shape(x, kernel, *, geometry, mesh=None):
    sizes = (
        (_extent(size, geometry.input_dilation) + low + high - _extent(k, geometry.dilation)) // geometry.strides + 1
        for size, k, (low, high) in zip(x.shape[1:3], kernel.shape[:2], geometry.pads, strict=True)
    )
    return (x.shape[0], *sizes, kernel.shape[-1])


def _extent(size, dilation):
    """Of `size` pixels or taps once dilated."""
    return (size - 1) * dilation + 1


def _several_convolutions(arrays, axes, *, geometry, mesh):
    """Under `jax.vmap`: one kernel sees more images, one image is seen by more kernels, or each has groups of its own.

    The new axis of images lies inside that of the batch, which devices may share.
    """
    (x, kernel), (of_x, of_kernel) = arrays, axes
    if of_kernel is None:
        x = jnp.moveaxis(x, of_x, 1)
        y = _conv.bind(x.reshape(-1, *x.shape[2:]), kernel, geometry=geometry, mesh=mesh)
        return jnp.moveaxis(y.reshape(*x.shape[:2], *y.shape[1:]), 1, 0)
    count = kernel.shape[of_kernel]
    if of_x is not None or geometry.groups > 1:
        x = _side_by_side(x, of_x, count)
        geometry = geometry._replace(groups=geometry.groups * count)
    return _apart(_conv.bind(x, _side_by_side(kernel, of_kernel, count), geometry=geometry, mesh=mesh), count)


def _side_by_side(array, axis, count):
    """`count` arrays [.., C], stacked along `axis` or, for None, the same one, as one [.., count C]."""
    if axis is None:
        return jnp.tile(array, count)
    array = jnp.moveaxis(array, axis, -2)
    return array.reshape(*array.shape[:-2], -1)


def _apart(array, count):
    """[.., count C] -> [count, .., C]."""
    return jnp.moveaxis(array.reshape(*array.shape[:-1], count, -1), -2, 0)


_conv = primitive("conv_cpu", _conv_on_cpu, _output_shape, _several_convolutions, _conv_plain, _conv_on_gpu)


def _input_gradient_on_cpu(kernel, dy, *, size, geometry, mesh):
    """dy against the kernel turned by 180 degrees, in and out exchanged in each group."""
    del mesh
    groups, dilation = geometry.groups, geometry.dilation
    pads = []
    for extent, out, k, (low, _) in zip(size, dy.shape[1:3], kernel.shape[:2], geometry.pads, strict=True):
        reach = _extent(out, geometry.strides)
        span = _extent(k, dilation) - 1
        pads.append((span - low, extent + low - reach))
    kh, kw, c_in, c_out = kernel.shape
    turned = jnp.flip(kernel, (0, 1)).reshape(kh, kw, c_in, groups, c_out // groups)
    turned = turned.transpose(0, 1, 4, 3, 2).reshape(kh, kw, c_out // groups, groups * c_in)
    return _forward(dy, turned, Geometry((pads[0], pads[1]), 1, dilation, geometry.strides, groups))


def _input_gradient_plain(kernel, dy, *, size, geometry, mesh, conv=_conv_plain):
    x = jax.ShapeDtypeStruct(_input_shape(kernel, dy, size=size, geometry=geometry), dy.dtype)
    (dx,) = jax.linear_transpose(lambda x: conv(x, kernel, geometry=geometry, mesh=mesh), x)(dy)
    return dx


def _input_shape(kernel, dy, *, size, geometry, mesh=None):
    return (dy.shape[0], *size, kernel.shape[2] * geometry.groups)


def _several_input_gradients(arrays, axes, *, size, geometry, mesh):
    (kernel, dy), (of_kernel, of_dy) = arrays, axes
    if of_kernel is None:
        dy = jnp.moveaxis(dy, of_dy, 1)
        dx = _input_gradient.bind(kernel, dy.reshape(-1, *dy.shape[2:]), size=size, geometry=geometry, mesh=mesh)
        return jnp.moveaxis(dx.reshape(*dy.shape[:2], *dx.shape[1:]), 1, 0)
    count = kernel.shape[of_kernel]
    geometry = geometry._replace(groups=geometry.groups * count)
    kernel, dy = _side_by_side(kernel, of_kernel, count), _side_by_side(dy, of_dy, count)
    return _apart(_input_gradient.bind(kernel, dy, size=size, geometry=geometry, mesh=mesh), count)


_input_gradient = primitive(
    "conv_cpu_input_gradient",
    _input_gradient_on_cpu,
    _input_shape,
    _several_input_gradients,
    _input_gradient_plain,
    functools.partial(_input_gradient_plain, conv=_conv_on_gpu),
)


def _kernel_gradient_of(x, dy, size, geometry, mesh):
    """On CPUs each device sums its own images', and the sums meet once.

    Left to XLA, they would meet in each trip of a loop: devices then wait for each other as often, and for ever where
    XLA starts another reduction on the threads that are left meanwhile.
    """
    devices = jax.device_count() if mesh is None else mesh.size
    how = {"size": size, "geometry": geometry}
    if mesh is None or devices == 1 or x.shape[0] % devices or mesh.devices.flat[0].platform != "cpu":
        return _kernel_gradient.bind(x, dy, **how, may_be_split=devices > 1)
    (axis,) = mesh.axis_names

    def own(x, dy):
        return _kernel_gradient.bind(x, dy, **how, may_be_split=False)[None]

    split = PartitionSpec(axis)
    # check_vma=False: loops would have to say of their zeros that they differ from device to device.
    return jax.shard_map(own, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False)(x, dy).sum(0)


def _kernel_gradient_on_cpu(x, dy, *, size, geometry, may_be_split):
    return _device_gradient(x, dy, size, geometry, may_be_split)


def _kernel_gradient_plain(x, dy, *, size, geometry, may_be_split, conv=_conv_plain):
    del may_be_split
    kernel = jax.ShapeDtypeStruct(_kernel_shape(x, dy, size=size, geometry=geometry), x.dtype)
    (gradient,) = jax.linear_transpose(lambda kernel: conv(x, kernel, geometry=geometry, mesh=None), kernel)(dy)
    return gradient


def _kernel_shape(x, dy, *, size, geometry, may_be_split=False):
    del may_be_split
    return (*size, x.shape[-1] // geometry.groups, dy.shape[-1])


def _several_kernel_gradients(arrays, axes, *, geometry, **parameters):
    (x, dy), (of_x, of_dy) = arrays, axes
    count = x.shape[of_x] if of_x is not None else dy.shape[of_dy]
    if of_x is not None or geometry.groups > 1:
        x = _side_by_side(x, of_x, count)
        geometry = geometry._replace(groups=geometry.groups * count)
    return _apart(_kernel_gradient.bind(x, _side_by_side(dy, of_dy, count), geometry=geometry, **parameters), count)


_kernel_gradient = primitive(
    "conv_cpu_kernel_gradient",
    _kernel_gradient_on_cpu,
    _kernel_shape,
    _several_kernel_gradients,
    _kernel_gradient_plain,
    functools.partial(_kernel_gradient_plain, conv=_conv_on_gpu),
)

ad.defbilinear(
    _conv,
    lambda dy, x, kernel, **how: _input_gradient.bind(kernel, dy, size=x.aval.shape[1:3], **how),
    lambda dy, x, kernel, **how: _kernel_gradient_of(x, dy, kernel.aval.shape[:2], **how),
)
ad.defbilinear(
    _input_gradient,
    lambda x, kernel, dy, size, **how: _kernel_gradient_of(x, dy, kernel.aval.shape[:2], **how),
    lambda x, kernel, dy, size, **how: _conv.bind(x, kernel, **how),
)
ad.defbilinear(
    _kernel_gradient,
    lambda kernel, x, dy, geometry, **_: _input_gradient.bind(
        kernel, dy, size=x.aval.shape[1:3], geometry=geometry, mesh=None
    ),
    lambda kernel, x, dy, geometry, **_: _conv.bind(x, kernel, geometry=geometry, mesh=None),
)


def _forward(x, kernel, geometry):
    if geometry.groups > 1:
        return _grouped_forward(x, kernel, geometry)
    if kernel.shape[:2] == (1, 1) and min(map(min, geometry.pads)) >= 0:
        return _pointwise(x, kernel, geometry)
    # Of a width that is not known yet, nor is how many pixels the last tile lacks.
    tile = _tile(*kernel.shape[-2:]) if isinstance(x.shape[2], int) else 1
    if tile > 1 and kernel.shape[1] > 1 and geometry.strides == geometry.dilation == geometry.input_dilation == 1:
        return _tiled(x, kernel, geometry, tile)
    return conv_xla(x, kernel, geometry)


def _pointwise(x, kernel, geometry):
    """A 1x1 convolution as a matrix product."""
    zero = jnp.zeros((), x.dtype)
    if geometry.input_dilation == 1:
        x = lax.pad(x, zero, ((0, 0, 0), *((*pad, 0) for pad in geometry.pads), (0, 0, 0)))
    strides = geometry.strides
    y = jnp.tensordot(every_nth_pixel(x, strides), kernel[0, 0], 1)
    if geometry.input_dilation > 1:  # zeros in, zeros out: they need no product
        interior = geometry.input_dilation - 1
        y = lax.pad(y, zero, ((0, 0, 0), *((*pad, interior) for pad in geometry.pads), (0, 0, 0)))
    return y


def _tile(c_in, features):
    """Neighbouring pixels to compute at once, as so many times the output channels."""
    is_narrow = features < _NARROW or (features == _NARROW and c_in <= _NARROW)
    return min(4, _FULL_WIDTH // features) if is_narrow else 1


def _tiled(x, kernel, geometry, tile):
    """The convolution with `tile` shifted copies of its kernel side by side, moving by `tile` pixels along the row."""
    n, _, width, _ = x.shape
    kh, kw, _, features = kernel.shape
    (low, high) = geometry.pads[1]
    out_width = width + low + high - kw + 1
    copies = [jnp.pad(kernel, ((0, 0), (i, tile - 1 - i), (0, 0), (0, 0))) for i in range(tile)]
    pads = (geometry.pads[0], (low, high + -out_width % tile))
    y = lax.conv_general_dilated(x, jnp.concatenate(copies, -1), (1, tile), pads, dimension_numbers=_LAYOUT)
    y = y.reshape(n, y.shape[1], -1, features)
    return y[:, :, :out_width]


def _grouped_forward(x, kernel, geometry):
    merged = _groups_to_merge(kernel.shape[2], geometry.groups)
    groups = geometry.groups // merged
    single = geometry._replace(groups=1)
    kernels = _block_diagonal(kernel, geometry.groups, merged)
    if groups <= _UNROLLED_GROUPS:
        parts = zip(jnp.split(x, groups, axis=-1), kernels, strict=True)
        return jnp.concatenate([_forward(part, kernel, single) for part, kernel in parts], axis=-1)
    y = lax.map(lambda part: _forward(part[0], part[1], single), (_to_front(x, groups), kernels))
    return _to_back(y)


def _groups_to_merge(features, groups):
    """Groups to convolve as one, with zeros between them: few channels alone leave most of a vector empty."""
    merged = 1
    while features * merged < 8 and groups % (2 * merged) == 0:
        merged *= 2
    return merged


def _block_diagonal(kernel, groups, merged):
    """[kh, kw, C_in / groups, C_out] as [groups / merged, kh, kw, merged C_in / groups, merged C_out / groups]."""
    kh, kw, c_in, c_out = kernel.shape
    kernel = kernel.reshape(kh, kw, c_in, groups // merged, merged, c_out // groups)
    blocks = jnp.einsum("hwigmo,nm->ghwnimo", kernel, jnp.eye(merged, dtype=kernel.dtype))
    return blocks.reshape(groups // merged, kh, kw, merged * c_in, merged * c_out // groups)


def _diagonal_blocks(blocks, groups, merged):
    """The inverse of `_block_diagonal`."""
    count, kh, kw, c_in, c_out = blocks.shape
    blocks = blocks.reshape(count, kh, kw, merged, c_in // merged, merged, c_out // merged)
    return jnp.einsum("ghwmimo->hwigmo", blocks).reshape(kh, kw, c_in // merged, groups * (c_out // merged))


def _to_front(x, groups):
    """[N, H, W, C] -> [groups, N, H, W, C / groups]."""
    return jnp.moveaxis(x.reshape(*x.shape[:3], groups, -1), 3, 0)


def _to_back(x):
    """The inverse of `_to_front`."""
    x = jnp.moveaxis(x, 0, 3)
    return x.reshape(*x.shape[:3], -1)


def _device_gradient(x, dy, size, geometry, may_be_split):
    groups = geometry.groups
    pads = []
    for extent, out, k, (low, _) in zip(x.shape[1:3], dy.shape[1:3], size, geometry.pads, strict=True):
        pads.append((low, _extent(k, geometry.dilation) - 1 + _extent(out, geometry.strides) - extent - low))
    geometry = geometry._replace(pads=(pads[0], pads[1]))
    kernel_shape = _kernel_shape(x, dy, size=size, geometry=geometry)
    if groups == 1:
        return _accumulated_gradient(x, dy, kernel_shape, geometry, may_be_split)
    merged = _groups_to_merge(kernel_shape[2], groups)
    count, single = groups // merged, geometry._replace(groups=1)
    shape = (*size, merged * kernel_shape[2], kernel_shape[3] // count)

    def gradient(parts):
        return _accumulated_gradient(parts[0], parts[1], shape, single, may_be_split)

    if count <= _UNROLLED_GROUPS or may_be_split:
        parts = zip(jnp.split(x, count, axis=-1), jnp.split(dy, count, axis=-1), strict=True)
        blocks = jnp.stack([gradient(part) for part in parts])
    else:
        blocks = lax.map(gradient, (_to_front(x, count), _to_front(dy, count)))
    return _diagonal_blocks(blocks, groups, merged)


def _accumulated_gradient(x, dy, kernel_shape, geometry, may_be_split):
    """The kernel gradient in chunks of images, accumulated in a loop.

    What a loop reads is in memory, whereas outside one XLA fuses the transposition of x with all that computed x, and
    runs through that again, column by column.
    """
    if kernel_shape[:2] == (1, 1) and max(map(max, geometry.pads)) <= 0:
        return _pointwise_gradient(every_nth_pixel(x, geometry.strides), dy)[None, None]
    images = x.shape[0]
    chunk = images if may_be_split else _chunk(images, dy)
    if chunk == images:
        return _chunk_gradient(x, dy, kernel_shape, geometry)
    x, dy = (array.reshape(images // chunk, chunk, *array.shape[1:]) for array in (x, dy))

    def add(i, total):
        of_x, of_dy = (lax.dynamic_index_in_dim(array, i, keepdims=False) for array in (x, dy))
        return total + _chunk_gradient(of_x, of_dy, kernel_shape, geometry)

    # Sums of bfloat16 chunks would be rounded once a chunk.
    total = jnp.zeros(kernel_shape, jnp.promote_types(x.dtype, jnp.float32))
    return lax.fori_loop(0, images // chunk, add, total).astype(x.dtype)


def _chunk(images, dy):
    """Images in a step of the loop."""
    most = min(_CHUNK_IMAGES, _CHUNK_BYTES // (dy[0].size * dy.dtype.itemsize))
    chunk = max(size for size in range(1, max(1, most) + 1) if images % size == 0)
    return images if chunk < most // 4 else chunk


def _pointwise_gradient(x, dy):
    """x [N, H, W, C_in] against dy [N, H, W, C_out] as a matrix product, of which XLA transposes the first factor.

    It fuses that with all that computed the factor: for the wide end of a bottleneck, every block of the stage so far.
    """
    if x.shape[-1] <= dy.shape[-1]:
        return jnp.tensordot(x, dy, ((0, 1, 2), (0, 1, 2)))
    return jnp.tensordot(dy, x, ((0, 1, 2), (0, 1, 2))).T


def _chunk_gradient(x, dy, kernel_shape, geometry):
    """x against dy as a convolution: images in the role of input channels, C_in in that of the batch."""
    kh, kw, c_in, c_out = kernel_shape
    strides, dilation = geometry.strides, geometry.dilation
    tile = _tile(c_in, c_out) if kw > 1 and strides == dilation == 1 else 1
    low, high = geometry.pads[1]
    extra = -dy.shape[2] % tile
    dy = jnp.pad(dy, ((0, 0), (0, 0), (0, extra), (0, 0)))
    dy = dy.reshape(*dy.shape[:2], -1, tile * c_out)
    y = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (dilation, dilation),
        (geometry.pads[0], (low, high + extra)),
        rhs_dilation=(strides, strides * tile),
        dimension_numbers=_LAYOUT,
    )
    y = y.reshape(c_in, kh, kw + tile - 1, tile, c_out)
    shifted = [y[:, :, i : i + kw, i] for i in range(tile)]
    return sum(shifted[1:], shifted[0]).transpose(1, 2, 0, 3)
