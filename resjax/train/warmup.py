"""A warm-up that ends when the training error is low enough."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from resjax.errors import InputError

_DECAY = 0.98


class WarmUpState(NamedTuple):
    """State of `warm_up_until`.

    Attributes:
      error: running average of the mini-batches' training error, in [0, 1]; 1 at the start.
      over: whether the warm-up is over.
      factor: factor of the last update.
    """

    error: jax.Array
    over: jax.Array
    factor: jax.Array


def warm_up_until(error: float, factor: float) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by `factor` until the training error has fallen below `error`, and by 1 from then on.

    He et al. 2015 (arXiv 1512.03385, section 4.2) train ResNet-110 at a tenth of its learning rate until the training
    error is below 80%. Here the training error is an exponential average over about 50 mini-batches, starting at 100%.

    Args:
      error: in [0, 1]. The update takes the error of each mini-batch as the keyword `error_of_batch`.
      factor: factor of the learning rate during the warm-up.

    Raises:
      InputError: from the update, if it is called without `error_of_batch`.
    """

    def init(params: Any) -> WarmUpState:
        del params
        return WarmUpState(jnp.float32(1), jnp.array(False), jnp.float32(factor))

    def update(updates, state, params=None, *, error_of_batch=None, **others):
        del params, others
        if error_of_batch is None:
            raise InputError("warm-up until an error: this task reports no training error; warm up by epochs")
        now = jnp.where(state.over, jnp.float32(1), jnp.float32(factor))
        average = _DECAY * state.error + (1 - _DECAY) * error_of_batch
        updates = jax.tree.map(lambda update: update * now.astype(update.dtype), updates)
        return updates, WarmUpState(average, state.over | (average < error), now)

    return optax.GradientTransformationExtraArgs(init, update)


def learning_rate_factor(opt_state: Any) -> jax.Array | float:
    """The factor by which a warm-up multiplied the last update, as a new array; 1 without a warm-up."""
    states = jax.tree.leaves(opt_state, is_leaf=lambda leaf: isinstance(leaf, WarmUpState))
    found = [state.factor for state in states if isinstance(state, WarmUpState)]
    return jnp.copy(found[0]) if found else 1.0
