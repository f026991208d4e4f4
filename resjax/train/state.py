"""The state of a training run: everything that a step reads and writes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from resjax.errors import InputError
from resjax.train.wrappers import slow_params

Batch = tuple[jax.Array, ...]
"""uint8 images [N, H, W, C], then their int32 labels [N], or their masks and sizes."""

Objective = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
"""(network output, targets, labels) -> (loss, counts): the mean loss, and named counts to sum over the epoch."""


class TrainState(struct.PyTreeNode):
    """A run is a function of (config, seed, step), and this is its value at `step`.

    Attributes:
      step: int32, steps taken.
      seed: int32; all randomness of a step is drawn from fold_in(key(seed), step).
      params: trained parameters, float32.
      batch_stats: running BN statistics, float32.
      opt_state: optimizer state.
      average: exponential moving average of {"params", "batch_stats"}, or None.
    """

    step: jax.Array
    seed: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    average: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """Variables to evaluate: the moving average, else lookahead's slow parameters, else the trained parameters."""
        if self.average is not None:
            return self.average
        slow = slow_params(self.opt_state)
        return {"params": self.params if slow is None else slow, "batch_stats": self.batch_stats}


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int | jax.Array,
    image_shape: tuple[int, int, int],
    moving_average: bool = False,
    variables: Any = None,
) -> TrainState:
    """The state at step 0.

    Args:
      model: the network.
      optimizer: its transformation of gradients.
      seed: seed of initial weights, order and augmentation.
      image_shape: (H, W, C) of a training image.
      moving_average: whether to keep a moving average of the variables, which is then evaluated.
      variables: initial variables; None initialises the network from the seed.

    Raises:
      InputError: for a seed that is no number, or a shape that is not of one image.
    """
    if not jnp.issubdtype(jnp.result_type(seed), jnp.integer):
        raise InputError(f"seed: expected an integer, got {jnp.result_type(seed)}")
    if len(image_shape) != 3:
        raise InputError(f"image_shape: expected (H, W, C) of one image, got {tuple(image_shape)}")
    if variables is None:
        variables = model.init(init_key(seed), jnp.zeros((1, *image_shape), jnp.float32))
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        seed=jnp.asarray(seed, jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # A copy, because the state is donated, and a buffer can be donated only once.
        average=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if moving_average else None,
    )


@jax.jit
def is_finite(state: TrainState) -> jax.Array:
    """Whether every number of a state is finite: parameters, statistics, optimizer's state and moving average."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def init_key(seed: int | jax.Array) -> jax.Array:
    """Key for the initial parameters."""
    return jax.random.fold_in(jax.random.key(seed), 0)


def order_key(seed: int | jax.Array, epoch: int | jax.Array) -> jax.Array:
    """Key for the order of the images in an epoch."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)


def step_key(seed: jax.Array, step: jax.Array) -> jax.Array:
    """Key for the random draws of one step: augmentation and dropout."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), step)
