"""Parameters and work of a network by the calls of its layers, apart from `resjax.models.cost`."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.layers import Conv
from resjax.models import multiply_adds, parameter_count, unrolled
from resjax.models.speed_resnet import PatchStem


@functools.cache
def counts(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """What `count_layers` gives, which takes long to trace where stages are deep: these are counted as loops."""
    if model.stacked_stages:
        return parameter_count(model, image_shape), multiply_adds(model, image_shape)
    return count_layers(model, image_shape)


def count_layers(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Trained parameters, and multiply-adds of one image's forward pass, in one abstract evaluation."""
    # Only shapes are asked for, and drawing kernels takes as long to trace as the network.
    model = unrolled(model).clone(kernel_init=nn.initializers.zeros)
    work = 0

    def tally(call, args, kwargs, context):
        nonlocal work
        y = call(*args, **kwargs)
        if isinstance(context.module, (Conv, nn.Dense, PatchStem)) and context.method_name == "__call__":
            held = context.module.variables
            work += y.size * math.prod((held.get("params") or held["batch_stats"])["kernel"].shape[:-1])
        return y

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(tally):
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])), work
