"""Exact size and work of a network, from its traced shapes: nothing is allocated or run."""

import math

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

    Args:
      model: a network of `resjax.models`.
      image_shape: (H, W, C) of one image.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    # The faster forms compute products with zeros, too. The lambda is a new function: no trace of `apply` is reused.
    with plain_convolutions():
        jaxpr = jax.make_jaxpr(lambda *arguments: model.apply(*arguments))(variables, images).jaxpr
    return _count(jaxpr)


def _count(jaxpr) -> int:
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


def _is_jaxpr(value) -> bool:
    return isinstance(value, (jax_core.Jaxpr, jax_core.ClosedJaxpr))
