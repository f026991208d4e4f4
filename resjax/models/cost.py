"""Exact size, cost and depth of a network, from its traced shapes. Nothing is allocated or run."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core as jax_core

from resjax.layers import plain_convolutions


def parameter_count(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Number of trained parameters (convolutions, BN scale and bias, linear), without running statistics.

    Args:
      model: a network of `resjax.models`.
      image_shape: (H, W, C) of one image.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


def multiply_adds(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of the convolutions and matrix products of one image's forward pass (a FLOP count is twice this).

    The body of a loop counts as often as it runs. `jax.jit(f).lower(..).compile().cost_analysis()` counts it once, and
    on a CPU it also counts this library's products with zeros. To compare, build the network with `scan=False` and
    lower it under `resjax.layers.plain_convolutions`.

    Args:
      model: a network of `resjax.models`.
      image_shape: (H, W, C) of one image.
    """
    return _count(_traced(model, image_shape)[1])


def weighted_layers(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Convolutional and linear layers on the longest path from an image to the logits: the depth of a network.

    This is the count of He et al. 2015 (arXiv 1512.03385, section 4.2): the projection of a shortcut is parallel to its
    block's layers. The depth in a Wide ResNet's name counts its three projections, but not the linear layer.

    Args:
      model: a network of `resjax.models`, or any other linen module.
      image_shape: (H, W, C) of one image.
    """
    variables, jaxpr = _traced(model, image_shape)
    depths = [None] * len(jax.tree.leaves(variables)) + [0]
    return max(depth or 0 for depth in _depths(jaxpr, depths))


def _traced(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[Any, jax_core.Jaxpr]:
    """Shapes of the variables, and the jaxpr of one image's forward pass of (variables, images)."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    # The faster implementations also multiply zeros. The lambda is a new function: no trace of `apply` is reused.
    with plain_convolutions():
        return variables, jax.make_jaxpr(lambda *arguments: model.apply(*arguments))(variables, images).jaxpr


def _depths(jaxpr: Any, depths: Sequence[int | None]) -> list[int | None]:
    """Number of layers before each output of a jaxpr, given that of each input; None if no image contributes."""
    known = dict(zip(jaxpr.invars, depths, strict=True))

    def depth_of(atom):
        return None if isinstance(atom, jax_core.Literal) else known.get(atom)

    for eqn in jaxpr.eqns:
        known |= zip(eqn.outvars, _depths_behind(eqn, [depth_of(atom) for atom in eqn.invars]), strict=True)
    return [depth_of(atom) for atom in jaxpr.outvars]


def _depths_behind(eqn: Any, depths: list[int | None]) -> list[int | None]:
    inner: list[Any] = [
        getattr(sub, "jaxpr", sub) for sub in jax.tree.leaves(eqn.params, is_leaf=_is_jaxpr) if _is_jaxpr(sub)
    ]
    if eqn.primitive.name == "scan":
        return _depths_behind_scan(eqn, inner[0], depths)
    if eqn.primitive.name == "cond":
        return [_deepest(found) for found in zip(*(_depths(branch, depths[1:]) for branch in inner), strict=True)]
    if inner and len(inner[0].invars) == len(depths):
        return _depths(inner[0], depths)
    weighs = eqn.primitive.name in ("conv_general_dilated", "dot_general") and None in depths
    deepest = _deepest(depths)
    return [deepest if deepest is None else deepest + weighs] * len(eqn.outvars)


def _depths_behind_scan(eqn: Any, body: Any, depths: list[int | None]) -> list[int | None]:
    # Constants, carried values, scanned values: the last have one more axis outside the loop's body than inside. The
    # equation's parameters for their numbers have other names in each version of JAX.
    num_scanned, num_stacked = (
        sum(a.aval.shape != b.aval.shape for a, b in zip(outside, inside, strict=True))
        for outside, inside in ((eqn.invars, body.invars), (eqn.outvars, body.outvars))
    )
    num_carried = len(eqn.outvars) - num_stacked
    first = len(depths) - num_carried - num_scanned
    constants, carried, scanned = depths[:first], depths[first : first + num_carried], depths[first + num_carried :]
    stacked: list[int | None] = [None] * num_stacked
    for _ in range(eqn.params["length"]):
        found = _depths(body, [*constants, *carried, *scanned])
        carried, stacked = found[:num_carried], found[num_carried:]
    return [*carried, *stacked]


def _deepest(depths: Sequence[int | None]) -> int | None:
    return max((depth for depth in depths if depth is not None), default=None)


def _count(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        repeats = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        inner = sum(
            _count(getattr(sub, "jaxpr", sub))
            for sub in jax.tree.leaves(eqn.params, is_leaf=_is_jaxpr)
            if _is_jaxpr(sub)
        )
        total += repeats * inner
        if eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += eqn.outvars[0].aval.size * math.prod(kernel) // out_features
        elif eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    return total


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (jax_core.Jaxpr, jax_core.ClosedJaxpr))
