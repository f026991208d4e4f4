"""Trained networks as programs for other software: StableHLO and ONNX."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export

from resjax.errors import InputError, printable
from resjax.layers import plain_convolutions
from resjax.models import ResNeXt, SegmentationNetwork, convert_form, restack, unrolled

if TYPE_CHECKING:
    import onnx

    from resjax.interop.network_input import Preprocessing

PLATFORMS = ("cpu", "cuda", "tpu")
Shape = tuple[int | None, int | None, int]


def to_stablehlo(
    model: nn.Module,
    variables: Mapping[str, Any],
    image_shape: Shape,
    normalize: "Preprocessing | None" = None,
    platforms: Sequence[str] = PLATFORMS,
) -> export.Exported:
    """A trained network as one StableHLO program for several platforms, by `jax.export`; any number of images.

    `bytes(to_stablehlo(..).serialize())` is the file; `jax.export.deserialize(content).call(images)` runs it on any of
    the platforms, without this library and without weights beside it. Each platform has its own operators in it.

    Args:
      model, variables: e.g. of `resjax.from_pretrained`.
      image_shape: (H, W, C) of the images; None for a height or width that is free.
      normalize: takes uint8 images and computes (pixels - mean) / std inside: `resjax.preprocessing(..)`, whose
        resizing is not a part of it. None takes normalised float32 images.
      platforms: names as `jax.export` has them.

    Raises:
      InputError: for variables that are not those of `model`, for images that it does not take, and for a free size
        where the network or its normalisation is of one size.

    Example:
      >>> model, variables = resjax.from_pretrained("resnet_20-cifar10")
      >>> exported = resjax.to_stablehlo(model, variables, (None, None, 3))
      >>> exported.platforms, exported.call(jnp.zeros((2, 40, 48, 3))).shape
      (('cpu', 'cuda', 'tpu'), (2, 10))
    """
    apply, images = _inference(model, variables, image_shape, normalize)
    variables = jax.tree.map(jnp.asarray, unfreeze(dict(variables)))
    program = export.export(jax.jit(lambda images: apply(variables, images)), platforms=tuple(platforms))
    return _traced(lambda: program(images), model, image_shape)


def to_onnx(
    model: nn.Module,
    variables: Mapping[str, Any],
    image_shape: Shape,
    normalize: "Preprocessing | None" = None,
    name: str = "resjax",
) -> "onnx.ModelProto":
    """A trained network as an ONNX model of opset 18 in float32; needs `pip install 'resjax[onnx]'`.

    Its input is `images` [N, H, W, C], as here; inside, the layout is ONNX's. Kernels are initialisers under their own
    paths. Its output is `logits`, or the name of each stage for `features_only=True`. `onnx.save(model, path)` writes
    it.

    Args:
      model, variables: e.g. of `resjax.from_pretrained`.
      image_shape: (H, W, C) of the images; None for a height or width that is free.
      normalize: as of `to_stablehlo`.
      name: of the graph.

    Raises:
      InputError: as `to_stablehlo`, without the package, and for an operation of a network of your own that has no
        counterpart here.

    Example:
      >>> model, variables = resjax.from_pretrained("resnet_20-cifar10")
      >>> [output.name for output in resjax.to_onnx(model, variables, (32, 32, 3)).graph.output]
      ['logits']
    """
    try:
        from resjax.interop.onnx_graph import write_graph
    except ImportError as error:
        raise InputError(f"to_onnx: needs a package that is not there ({error}): pip install 'resjax[onnx]'") from None
    variables = dict(restack(unfreeze(dict(variables)), ()))
    model = _in_float32(unrolled(model))
    if isinstance(model, ResNeXt) and model.form != "grouped_convolution":
        variables = convert_form(variables, "grouped_convolution", model.cardinality)
        model = model.clone(form="grouped_convolution")
    named = {
        path: np.asarray(leaf, np.float32)
        for path, leaf in flatten_dict(variables).items()
        if path[0] != "intermediates"
    }
    apply, images = _inference(model, unflatten_dict(named), image_shape, normalize)

    def from_leaves(leaves: Sequence[Any], images: Any) -> Any:
        return apply(unflatten_dict(dict(zip(named, leaves, strict=True))), images)

    def trace() -> Any:
        with plain_convolutions():
            return jax.make_jaxpr(from_leaves, return_shape=True)(list(named.values()), images)

    traced, shapes = _traced(trace, model, image_shape)
    outputs = list(shapes) if isinstance(shapes, Mapping) else ["logits" if model.num_classes else "features"]
    constants = [("/".join(path), leaf) for path, leaf in named.items()]
    return write_graph(traced, constants, {"images": images}, sorted(outputs), name)


def _inference(
    model: nn.Module, variables: Mapping[str, Any], image_shape: Shape, normalize: Any
) -> tuple[Callable[[Any, Any], Any], jax.ShapeDtypeStruct]:
    """apply(variables, images), and the images that it takes: their number is a symbol, and each size that is None."""
    height, width, channels = image_shape
    sizes = [name if size is None else str(size) for name, size in (("height", height), ("width", width))]
    least = getattr(model, "minimum_size", 1)
    free = [f"{name} >= {least}" for name in sizes if not name.isdecimal()]
    shape = export.symbolic_shape(f"n, {', '.join(sizes)}, {channels}", constraints=free)
    if normalize is None:
        return lambda variables, images: model.apply(variables, images), jax.ShapeDtypeStruct(shape, jnp.float32)
    per_pixel = np.shape(normalize.mean)[:-1]
    if per_pixel and per_pixel != (height, width):
        raise InputError(
            f"normalize: {normalize.source} has a mean for each of {per_pixel[0]} x {per_pixel[1]} pixels; give"
            f" image_shape={(*per_pixel, channels)}, got {image_shape}"
        )
    mean, std = np.asarray(normalize.mean, np.float32), np.asarray(normalize.std, np.float32)

    def apply(variables, images):
        return model.apply(variables, (images.astype(jnp.float32) - mean) / std)

    return apply, jax.ShapeDtypeStruct(shape, jnp.uint8)


def _traced(trace: Callable[[], Any], model: nn.Module, image_shape: Shape) -> Any:
    """trace(); raises InputError where the network has one size, and for what flax says of variables."""
    try:
        return trace()
    except Exception as error:  # jax and flax raise their own types for sizes that are symbols, and for variables
        if isinstance(error, InputError) and None not in image_shape:
            raise
        reason = printable(str(error).strip().partition("\n")[0] or type(error).__name__, 200)
        way_out = "; give a height and width in image_shape" if None in image_shape else ""
        raise InputError(
            f"{type(model).__name__}: cannot be exported with these variables for images of {image_shape}"
            f" ({reason}){way_out}"
        ) from error


def _in_float32(model: nn.Module) -> nn.Module:
    if isinstance(model, SegmentationNetwork):
        return model.clone(trunk=_in_float32(model.trunk))
    is_field = any(field.name == "dtype" for field in dataclasses.fields(model))
    return model.clone(dtype=jnp.float32) if is_field else model
