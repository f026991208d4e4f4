"""The state of a training run: everything that a step reads and writes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct


@struct.dataclass
class TrainState:
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
        """What to evaluate: the moving average where there is one, else the parameters as they are."""
        if self.average is not None:
            return self.average
        return {"params": self.params, "batch_stats": self.batch_stats}


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
      seed: of initial weights, order and augmentation.
      image_shape: (H, W, C) of a training image.
      moving_average: whether the state holds an average of the variables, too, which is then what is evaluated.
      variables: to start from; None initialises the network from the seed.
    """
    if variables is None:
        variables = model.init(init_key(seed), jnp.zeros((1, *image_shape), jnp.float32))
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        seed=jnp.asarray(seed, jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # A copy: the state is donated, and a buffer may be donated only once.
        average=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if moving_average else None,
    )


def init_key(seed: int | jax.Array) -> jax.Array:
    """Key of the initial parameters."""
    return jax.random.fold_in(jax.random.key(seed), 0)


def order_key(seed: int | jax.Array, epoch: int | jax.Array) -> jax.Array:
    """Key of the order of the images in an epoch."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)


def step_key(seed: jax.Array, step: jax.Array) -> jax.Array:
    """Key of the draws of one step: augmentation and dropout."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), step)
