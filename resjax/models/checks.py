"""Checks of a network's inputs and fields, for every family."""

import contextlib
import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.errors import InputError, did_you_mean
from resjax.layers import (
    ORDERS,
    AttentionResiduals,
    EffectivePaths,
    Gates,
    HyperConnections,
    StochasticDepth,
    Streams,
    initializer,
)

_CHANNELS_LAST = "jnp.transpose(images, (0, 2, 3, 1)) makes [N, H, W, C] of [N, C, H, W]"


def check_images(images: jax.Array) -> None:
    """Raises InputError unless `images` is a float array [N, H, W, C]."""
    if not (hasattr(images, "ndim") and hasattr(images, "dtype")):
        raise InputError(f"images: expected a float array [N, H, W, C], got {type(images).__name__}")
    if images.ndim != 4:
        way_out = ""
        if images.ndim == 3 and images.shape[-1] <= 4:
            way_out = "; images[None] makes a batch of one image [H, W, C]"
        elif images.ndim == 3:
            way_out = "; images[..., None] gives gray images [N, H, W] their channel"
        elif images.ndim == 2:
            way_out = "; images[None, :, :, None] makes a batch of one gray image [H, W]"
        raise InputError(f"images: expected a float array [N, H, W, C], got shape {images.shape}{way_out}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"images: expected floating point [N, H, W, C], got {images.dtype}; normalise first, e.g. (x - mean) / std"
        )


@contextlib.contextmanager
def fitting_variables(model: nn.Module) -> Iterator[None]:
    """Says in our words what is wrong with variables that are not the network's: Flax names a scope of its own."""
    known, given = ("params", "batch_stats"), list(model.variables)
    bare = model.scope is not None and not model.is_initializing() and "params" not in given
    try:
        if bare:
            raise flax.errors.ScopeCollectionNotFound("params", "", "")
        yield
    except (
        flax.errors.ScopeCollectionNotFound,
        flax.errors.ScopeParamNotFoundError,
        flax.errors.ScopeParamShapeError,
        flax.errors.ScopeVariableNotFoundError,
    ) as error:
        if missing := [name for name in known if name not in given]:
            raise InputError(
                f"variables: have no {' and no '.join(map(repr, missing))}; give the whole of what init or"
                " from_pretrained returned, {'params': .., 'batch_stats': ..}, not a part of it"
            ) from None
        said = str(error).partition(" (https://")[0]
        raise InputError(
            f"variables: are not those of this {type(model).__name__}; another depth, width or number of classes?"
            f" ({said})"
        ) from None


def check_blocks(params: Any, stage: str, blocks: int) -> None:
    """Raises InputError for variables with more blocks than a stage has, of which the last would not be used."""
    given = sum(name.startswith("block_") for name in params.get(stage, {})) if isinstance(params, Mapping) else 0
    if given > blocks:
        raise InputError(
            f"variables: have {given} blocks in {stage}, this network has {blocks}; they are of a deeper network"
        )


def check_channels(images: jax.Array, expected: int | None) -> None:
    """Raises InputError for images [N, C, H, W], and for another number of channels than the network has.

    Args:
      images: the network's input, of four axes.
      expected: input channels of the network's first kernel; None at initialisation, when the images decide them. Then
        images count as [N, C, H, W] if the second axis fits gray, colour or alpha (at most 4), and the last two fit an
        image: square, of at least 8 pixels, or both of at least 16. An image of 4 rows and 16 columns with 16 channels
        would be mistaken, one of 3 rows with 12 channels would not.
    """
    _, first, rows, columns = images.shape
    if expected is None:
        is_image = rows == columns >= 8 or (first in (3, 4) and min(rows, columns) >= 16)
        if first <= 4 and is_image:
            raise InputError(
                f"images: shape {images.shape} would make a network of {columns} input channels, and looks like"
                f" [N, C, H, W]: expected [N, H, W, C]; {_CHANNELS_LAST}"
            )
        return
    found = images.shape[-1]
    if found == expected:
        return
    if first == expected and found != expected:
        way_out = _CHANNELS_LAST
    elif (found, expected) == (1, 3):
        way_out = "jnp.repeat(images, 3, axis=-1) makes three equal channels of a gray one"
    elif (found, expected) == (4, 3):
        way_out = "images[..., :3] leaves an alpha channel out"
    else:
        way_out = "give images of its channels, or initialise a network with yours"
    raise InputError(
        f"images: expected [N, H, W, {expected}], the channels of this network's weights, got shape {images.shape};"
        f" {way_out}"
    )


def check_size(images: jax.Array, least: int) -> None:
    """Raises InputError if the images are smaller than the network's strides allow: `least` pixels per side."""
    # Of a size that is a symbol, as for `jax.export`, this is not known.
    if any(isinstance(size, int) and size < least for size in images.shape[1:3]):
        raise InputError(f"images: expected at least {least} x {least} pixels for this network, got {images.shape}")


def checked_gates(gates: Gates | None, num_blocks: int, images: int) -> Gates:
    """Returns `gates`, or open gates for None.

    Raises:
      InputError: if they do not fit the network's `num_blocks` and a batch of `images`.
    """
    gates = gates if gates is not None else Gates()
    if not isinstance(gates, Gates):
        raise InputError(f"gates: expected resjax.Gates, got {type(gates).__name__}")
    if num_blocks == 0 and jax.tree.leaves(gates):
        raise InputError("gates: this network has no residual blocks, so it takes no gates")
    check_gates(gates, num_blocks, images)
    return gates


def check_gates(gates: Gates, num_blocks: int, images: int, what: str = "gates") -> None:
    """Raises InputError unless each array given is real, [num_blocks] or, where allowed, [num_blocks, images]."""
    if gates.backward is not None:
        if not isinstance(gates.backward, Gates):
            raise InputError(f"{what}.backward: expected resjax.Gates, got {type(gates.backward).__name__}")
        if gates.backward.active is not None or gates.backward.backward is not None:
            raise InputError(f"{what}.backward: takes branch and skip alone")
        check_gates(gates.backward, num_blocks, images, f"{what}.backward")
    for name in ("branch", "skip", "active"):
        gate, allowed = getattr(gates, name), f"({num_blocks},), one entry per residual block"
        shapes: list[tuple[int, ...] | None] = [None, (num_blocks,)]
        if name != "active":
            shapes.append((num_blocks, images))
            allowed += f", or ({num_blocks}, {images}), one for each image too"
        if (shape := None if gate is None else getattr(gate, "shape", ())) not in shapes:
            raise InputError(f"{what}.{name}: expected an array of shape {allowed}; got {shape or repr(gate)}")
        if gate is not None and jnp.issubdtype(gate.dtype, jnp.complexfloating):
            raise InputError(f"{what}.{name}: expected real numbers, got {gate.dtype}")
        if name == "active" and gate is not None and gate.dtype != bool:
            raise InputError(f"{what}.active: expected bool, got {gate.dtype}")


def check_choice(name: str, value: Any, choices: tuple) -> None:
    """Raises InputError unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def check_positive(name: str, values: Any) -> None:
    """Raises InputError unless `values` is a positive integer or a non-empty tuple of positive integers."""
    items = values if isinstance(values, (tuple, list)) else (values,)
    if not items or not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in items):
        raise InputError(f"{name}: expected positive integers, got {values!r}")


def blocks_of_depth(depth: int, per_block: int, offset: int) -> int:
    """The n of depth = per_block n + offset; raises InputError if there is none."""
    n, rest = divmod(depth - offset, per_block)
    if n < 1 or rest:
        near = [max(n, 1) * per_block + offset, (max(n, 1) + 1) * per_block + offset]
        raise InputError(
            f"depth: expected {per_block} n + {offset} for n >= 1, got {depth}; nearest are {near[0]} and {near[1]}"
        )
    return n


def check_rate(name: str, value: Any) -> None:
    """Raises InputError unless `value` is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise InputError(f"{name}: expected a number in [0, 1), got {value!r}")


def check_common(model: nn.Module) -> None:
    """Raises InputError unless the fields of every family are valid, and Literals hold one of their values."""
    kind = type(model)
    for name, members in _choices(kind).items():  # type: ignore[arg-type]  # mypy: as hashable as an instance of it
        value, choices = getattr(model, name), tuple(member for member in members if member is not int)
        if int in members and value not in choices:
            check_positive(name, value)
        else:
            check_choice(name, value, choices)
    if not isinstance(model.num_classes, int) or isinstance(model.num_classes, bool) or model.num_classes < 0:
        raise InputError(f"num_classes: expected an integer >= 0 (0 gives pooled features), got {model.num_classes!r}")
    try:
        known = jnp.issubdtype(jnp.dtype(model.dtype), jnp.floating)
    except TypeError:
        known = False
    if not known:
        near = did_you_mean(str(model.dtype), ["float32", "bfloat16", "float16", "float64"])
        raise InputError(f"dtype: expected a floating-point dtype such as jnp.bfloat16, got {model.dtype!r}{near}")
    for field in dataclasses.fields(model):
        if field.name.endswith("_init"):
            initializer(getattr(model, field.name), field.name)
    if model.stochastic_depth is not None:
        if not isinstance(model.stochastic_depth, (StochasticDepth, EffectivePaths)):
            raise InputError(
                "stochastic_depth: expected resjax.StochasticDepth or resjax.EffectivePaths, got"
                f" {model.stochastic_depth!r}"
            )
        if model.num_blocks == 0:
            raise InputError("stochastic_depth: this network has no residual blocks")
        model.stochastic_depth.survival_probabilities(model.num_blocks)


def check_streams(model: Any) -> None:
    """Raises InputError unless the blocks of a residual network can have its `streams`."""
    rule = model.streams
    if rule is None:
        return
    if not isinstance(rule, Streams):
        raise InputError(f"streams: expected resjax.HyperConnections(..) or AttentionResiduals(..), got {rule!r}")
    block = model.stages()[0].block
    behind_sum = ORDERS[block.order].sum
    if block.shortcut == "none":
        raise InputError("streams: a plain network has no residual stream")
    if block.variant is not None:
        raise InputError(f"streams: their weights take the place of {type(block.variant).__name__}; choose one")
    if isinstance(rule, HyperConnections) and "B" in behind_sum:
        raise InputError(f"streams: order {block.order!r} normalises behind the addition, each stream by itself")
    if isinstance(rule, AttentionResiduals):
        if behind_sum:
            raise InputError(
                f"streams: AttentionResiduals add nothing up, and order {block.order!r} has its nonlinearity behind the"
                " addition; choose a network with pre-activation (preresnet, wrn)"
            )
        if model.scan is True:
            raise InputError("streams: the blocks of AttentionResiduals read ever more sources: scan=False or 'auto'")


_VALUES: dict[Any, tuple] = {bool: (True, False), int: (int,), type(None): (None,)}


@functools.cache
def _choices(cls: type) -> dict[str, tuple]:
    """The values that each field with a Literal type takes, or one that has them or a bool; `int`: any positive one."""
    found = {}
    for name, kind in typing.get_type_hints(cls).items():
        members = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
        literals = [typing.get_args(member) for member in members if typing.get_origin(member) is Literal]
        others = [_VALUES.get(member) for member in members if typing.get_origin(member) is not Literal]
        if literals and None not in others:
            found[name] = tuple(value for values in [*others, *literals] for value in values or ())
    return found
