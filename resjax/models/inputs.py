"""Checks of what a network is called with and built from, shared by every family."""

from typing import Any

import jax
import jax.numpy as jnp

from resjax.errors import InputError, did_you_mean
from resjax.layers import Gates


def check_images(images: jax.Array) -> None:
    """Raises InputError unless `images` is a float array [N, H, W, C]."""
    if images.ndim != 4:
        raise InputError(f"images: expected a float array [N, H, W, C], got shape {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"images: expected floating point [N, H, W, C], got {images.dtype}; normalise first, e.g. (x - mean) / std"
        )


def check_size(images: jax.Array, least: int) -> None:
    """Raises InputError where the images are smaller than the network's strides allow, `least` pixels a side."""
    if min(images.shape[1:3]) < least:
        raise InputError(f"images: expected at least {least} x {least} pixels for this network, got {images.shape}")


def checked_gates(gates: Gates | None, num_blocks: int, images: int) -> Gates:
    """Returns `gates`, or open gates for None.

    Raises:
      InputError: where they don't fit the network's `num_blocks` and a batch of `images`.
    """
    gates = gates if gates is not None else Gates()
    if not isinstance(gates, Gates):
        raise InputError(f"gates: expected resjax.Gates, got {type(gates).__name__}")
    if num_blocks == 0 and jax.tree.leaves(gates):
        raise InputError("gates: this network has no residual blocks, so it takes no gates")
    gates.check(num_blocks, images)
    return gates


def check_choice(name: str, value: Any, choices: tuple) -> None:
    """Raises InputError unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def check_positive(name: str, values: Any) -> None:
    """Raises InputError unless `values` is a positive integer or a non-empty tuple of positive integers."""
    items = values if isinstance(values, (tuple, list)) else (values,)
    if not items or not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in items):
        raise InputError(f"{name}: expected positive integers, got {values!r}")


def check_rate(name: str, value: Any) -> None:
    """Raises InputError unless `value` is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise InputError(f"{name}: expected a number in [0, 1), got {value!r}")


def check_common(model: Any) -> None:
    """Raises InputError unless the fields that every family has are sound: `num_classes`, `dtype`."""
    if not isinstance(model.num_classes, int) or isinstance(model.num_classes, bool) or model.num_classes < 0:
        raise InputError(f"num_classes: expected an integer >= 0 (0 gives pooled features), got {model.num_classes!r}")
    try:
        known = jnp.issubdtype(jnp.dtype(model.dtype), jnp.floating)
    except TypeError:
        known = False
    if not known:
        near = did_you_mean(str(model.dtype), ["float32", "bfloat16", "float16", "float64"])
        raise InputError(f"dtype: expected a floating-point dtype such as jnp.bfloat16, got {model.dtype!r}{near}")
