"""What a network consists of: stem, stages, blocks and layers, with their shapes, from its trace. Nothing is run."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict

from resjax.layers import (
    ORDERS,
    BatchNorm,
    Bias,
    Conv,
    DepthAttention,
    Dropout,
    ResidualBlock,
    StreamMixing,
    gelu,
    plain_convolutions,
    relu,
)
from resjax.models.densenet import DenseLayer
from resjax.models.highway import HighwayLayer
from resjax.models.speed_resnet import PatchStem
from resjax.models.stacking import unrolled

_ZEROS = {"A": "every {} pixel, zero channels", "average_pool": "average of {0} x {0}, zero channels"}
_ORDINALS = {2: "2nd", 3: "3rd"}


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a network: a layer, a block, a stage, or the network itself.

    Attributes:
      name: in the variables, e.g. "stage_1"; of several alike that of the first.
      kind: class of the module.
      text: what it does, in words; "" for one that only holds others.
      shape: of its output, without the batch.
      parameters: trained ones, exact; of all repetitions.
      multiply_adds: of one image; of all repetitions.
      parts: what it consists of, in the order in which they run.
      repeats: number of parts of the same structure that follow each other.
      shortcut: of a residual block, what the other path to its output does; "" for parts without one.
      behind_sum: what follows the addition of the two paths, e.g. "ReLU".
    """

    name: str
    kind: str
    text: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    parts: tuple["Part", ...] = ()
    repeats: int = 1
    shortcut: str = ""
    behind_sum: str = ""


@dataclasses.dataclass
class _Call:
    """A module that is being called."""

    module: nn.Module
    name: str
    text: str = ""
    inside: tuple[int, ...] = ()
    outside: tuple[int, ...] = ()
    macs: int = 0
    shortcut: str = ""
    behind_sum: str = ""
    calls: list["_Call"] = dataclasses.field(default_factory=list)


def outline(model: nn.Module, image_shape: tuple[int, int, int]) -> Part:
    """The parts of a network for one image; parts of one structure that follow each other are one part.

    Args:
      model: a network of `resjax.models`, or any other linen module that is called with images.
      image_shape: (H, W, C) of one image.

    Raises:
      InputError: for images that the network does not take.

    Example:
      >>> import resjax
      >>> network = resjax.models.outline(resjax.create_model("resnet_20"), (32, 32, 3))
      >>> [(part.name, part.shape) for part in network.parts[2:]]
      [('stage_2', (16, 16, 32)), ('stage_3', (8, 8, 64)), ('head', (10,))]
      >>> [(part.name, part.repeats, part.shortcut) for part in network.parts[2].parts]
      [('block_1', 1, 'every 2nd pixel, zero channels'), ('block_2', 2, 'identity')]
    """
    model = unrolled(model)
    root = _Call(model, "")
    open_calls = [root]

    def watch(layer, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__" or module is open_calls[-1].module:
            return layer(*args, **kwargs)
        is_root = len(open_calls) == 1 and not module.path
        call = root if is_root else _Call(module, module.path[-1])
        if not is_root:
            open_calls[-1].calls.append(call)
            open_calls.append(call)
        try:
            result = layer(*args, **kwargs)
        finally:
            if not is_root:
                open_calls.pop()
        call.inside, call.outside = _shape(args[0] if args else None), _shape(result)
        _describe(call, args)
        return result

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    with plain_convolutions(), nn.intercept_methods(watch):
        jax.eval_shape(lambda *arguments: model.apply(*arguments), variables, images)
    sizes = {path: math.prod(leaf.shape) for path, leaf in flatten_dict(variables["params"]).items()}
    return _part(root, (), sizes)


def _shape(value: Any) -> tuple[int, ...]:
    if isinstance(value, tuple):  # beside the batch statistics of the earlier outputs that a dense layer reads
        value = value[0]
    if isinstance(value, list):  # the earlier outputs
        return (*value[-1].shape[1:-1], sum(each.shape[-1] for each in value))
    if isinstance(value, dict):
        value = list(value.values())[-1]
    return tuple(getattr(value, "shape", (1,))[1:])


def _describe(call: _Call, args: tuple[Any, ...]) -> None:
    """Fills in what a layer does in words, what it costs, and where a block's shortcut goes."""
    module: Any = call.module
    match module:
        case Conv() | nn.Conv():
            kernel = (module.kernel_size,) if isinstance(module.kernel_size, int) else tuple(module.kernel_size)
            groups = getattr(module, "groups", getattr(module, "feature_group_count", 1))
            strides, dilation = getattr(module, "strides", 1), getattr(module, "dilation", 1)
            more = [f"/{strides}"] if isinstance(strides, int) and strides > 1 else []
            more += [f"dilation {dilation}"] if dilation > 1 else []
            more += [f"{groups} groups"] if groups > 1 else []
            call.text = " ".join([f"conv {'x'.join(map(str, kernel))}, {module.features}", *more])
            call.macs = math.prod(call.outside) * math.prod(kernel) * call.inside[-1] // groups
        case BatchNorm() | Bias():
            activation = args[2] if len(args) > 2 else None
            does = "BN" if isinstance(module, BatchNorm) else "one bias" if module.shared else "bias"
            call.text = does if activation is None else f"{does} {_activation(activation)}"
        case StreamMixing():
            call.text = f"{module.rule.count} streams mixed"
        case DepthAttention():
            call.text = "attention over earlier blocks"
            call.macs = len(args[0]) * math.prod(call.inside)
        case nn.Dense():
            call.text = f"linear {module.features}"
            call.macs = math.prod(call.outside) * call.inside[-1]
        case Dropout() | nn.Dropout():
            call.text = f"dropout {module.rate:g}" if module.rate else ""
        case PatchStem():
            call.text = f"fixed patches 2x2, {call.outside[-1]} GELU"
            call.macs = math.prod(call.outside) * 4 * call.inside[-1]
        case DenseLayer():
            call.shortcut = "concatenated"
        case HighwayLayer():
            call.shortcut = "carry, gated"
        case ResidualBlock():
            call.shortcut = _shortcut(call, module)
            if call.shortcut and (order := ORDERS[module.spec.order].sum):
                call.behind_sum = ("BN " if "B" in order else "") + _activation(module.spec.activation)


def _activation(function: Any) -> str:
    return {relu: "ReLU", gelu: "GELU"}.get(function, getattr(function, "__name__", "activation"))


def _shortcut(call: _Call, block: ResidualBlock) -> str:
    spec = block.spec
    if spec.shortcut == "none":
        return ""
    projections = [each for each in call.calls if each.name == "shortcut_conv"]
    if projections:
        return projections[0].text
    if call.inside == call.outside:
        return "identity"
    if spec.strides == 1:
        return "zero channels"
    is_average = spec.shortcut == "average_pool"
    return _ZEROS[spec.shortcut].format(
        spec.strides if is_average else _ORDINALS.get(spec.strides, f"{spec.strides}th")
    )


def _part(call: _Call, path: tuple[str, ...], sizes: dict[tuple[str, ...], int]) -> Part:
    parts: list[Part] = []
    is_chain, here = not call.shortcut, call.inside
    for each in call.calls:
        part = _part(each, (*path, each.name), sizes)
        if part.text or part.parts or part.parameters:
            parts += _resized(here, each.inside) if is_chain else []
            if parts and _structure(parts[-1]) == _structure(part):
                part = _together(parts.pop(), part)
            parts.append(part)
            if part.kind == "BatchNorm":  # which may pool what it has normalised
                parts += _resized(each.inside, each.outside)
            here = part.shape
    parts += _resized(here, call.outside) if is_chain and parts else []
    parameters = sum(size for key, size in sizes.items() if key[: len(path)] == path)
    macs = call.macs + sum(part.multiply_adds for part in parts)
    kind = type(call.module).__name__
    return Part(
        call.name, kind, call.text, call.outside, parameters, macs, tuple(parts), 1, call.shortcut, call.behind_sum
    )


def _resized(before: tuple[int, ...], after: tuple[int, ...]) -> list[Part]:
    """What is no module of its own and changes the resolution: pooling, between two parts."""
    if len(before) != 3 or before[:2] == after[:2]:
        return []
    text = "global pooling" if len(after) == 1 else "pooling" if after[0] < before[0] else "interpolation"
    return [Part("", "", text, after, 0, 0)]


def _structure(part: Part) -> tuple[Any, ...]:
    """What parts have in common that are drawn once; they may read different numbers of channels."""
    shape = () if part.kind == "BatchNorm" else part.shape
    return part.kind, part.text, shape, part.shortcut, tuple((_structure(p), p.repeats) for p in part.parts)


def _together(first: Part, second: Part) -> Part:
    sums = {key: getattr(first, key) + getattr(second, key) for key in ("parameters", "multiply_adds", "repeats")}
    return dataclasses.replace(first, **sums)
