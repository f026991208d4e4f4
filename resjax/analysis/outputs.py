"""The outputs of a network's blocks, in evaluation mode."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.analysis.chain import is_block
from resjax.errors import InputError
from resjax.models import Network, restack, unrolled

Outputs = Callable[[Any, jax.Array], dict[str, jax.Array]]


def block_outputs(model: Network, variables: Any, images: Any) -> tuple[Outputs, Any, tuple[str, ...]]:
    """A function (variables, images) -> outputs [N, H, W, C] of the blocks by name, its variables, and the names.

    Blocks are those of a residual network or its plain twin, or else the normalised convolutions of a VGG's stages.

    Args:
      model, variables: the network.
      images: [N, H, W, C]; only the shape matters.

    Raises:
      InputError: for a network with neither.
    """
    model, variables = unrolled(model), restack(variables, ())

    def outputs(variables, images):
        blocks: dict[str, jax.Array] = {}
        layers: dict[str, jax.Array] = {}

        def observe(layer, args, kwargs, context):
            y = layer(*args, **kwargs)
            module = context.module
            if context.method_name == "__call__":
                if is_block(module):
                    blocks["/".join(module.path)] = y
                elif len(module.path) == 2 and module.path[0].startswith("stage_") and "norm_" in module.path[1]:
                    layers["/".join(module.path)] = y
            return y

        with nn.intercept_methods(observe):
            model.apply(variables, images)
        return blocks or layers

    image = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
    names: list[str] = []

    def listed(variables, images):
        found = outputs(variables, images)
        names.extend(found)
        return found

    jax.eval_shape(listed, variables, image)
    if not names:
        raise InputError(f"{type(model).__name__}: its stages have no blocks; give a residual or plain network")
    return outputs, variables, tuple(names)
