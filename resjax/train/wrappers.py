"""Optimizers around an optimizer: sharpness-aware minimization and lookahead."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from resjax.errors import InputError


def sharpness_aware(optimizer: optax.GradientTransformation, rho: float) -> optax.GradientTransformationExtraArgs:
    """SAM (Foret et al. 2021, arXiv 2010.01412): `optimizer` gets the gradient at p + rho g / |g| instead of that at p.

    It has the state of `optimizer`. `optax.contrib.sam` passes no extra arguments to the update, which
    `warm_up_until` needs, and its step is NaN if the gradient is zero.

    Args:
      optimizer: the optimizer that gets the gradient.
      rho: length of the step uphill, as a norm over all parameters.

    Raises:
      InputError: from the update, if it is called without `gradient_at`, the same batch's gradient as a function of the
        parameters.
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(updates, state, params=None, *, gradient_at=None, **others):
        if gradient_at is None:
            raise InputError("sharpness-aware minimization: the update needs gradient_at, a function of parameters")
        norm = optax.tree.norm(updates)
        length = jnp.where(norm > 0, rho / jnp.where(norm > 0, norm, 1), 0)
        uphill = jax.tree.map(lambda param, gradient: param + length * gradient, params, updates)
        return inner.update(gradient_at(uphill), state, params, **others)

    return optax.GradientTransformationExtraArgs(inner.init, update)


class LookaheadState(NamedTuple):
    """State of `lookahead`.

    Attributes:
      inner: state of the optimizer.
      slow_params: parameters that follow the trained ones.
      steps: int32, steps since both were equal.
    """

    inner: Any
    slow_params: Any
    steps: jax.Array


def lookahead(
    optimizer: optax.GradientTransformation, period: int, step_size: float = 0.5
) -> optax.GradientTransformationExtraArgs:
    """Lookahead (Zhang et al. 2019, arXiv 1907.08610): after each `period` steps of p, s += a (p - s), then p = s.

    Unlike in `optax.lookahead`, the parameters keep their structure: s is in the state, see `slow_params`.

    Args:
      optimizer: takes the steps of p; its state is unchanged when p returns to s.
      period: steps between two returns.
      step_size: a.
    """
    inner = optax.with_extra_args_support(optimizer)

    def init(params):
        # A copy: the state is donated, and a buffer may be donated only once.
        return LookaheadState(inner.init(params), jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **others):
        updates, inner_state = inner.update(updates, state.inner, params, **others)
        steps = (state.steps + 1) % period

        def moved(slow, param, update):
            return jnp.where(steps == 0, slow + step_size * (param + update - slow), slow)

        slow = jax.tree.map(moved, state.slow_params, params, updates)
        updates = jax.tree.map(
            lambda slow, param, update: jnp.where(steps == 0, slow - param, update), slow, params, updates
        )
        return updates, LookaheadState(inner_state, slow, steps)

    return optax.GradientTransformationExtraArgs(init, update)


def slow_params(opt_state: Any) -> Any:
    """The slow parameters of `lookahead` in an optimizer state, also in a checkpoint's form; None if there are none."""

    def holds(node):
        return isinstance(node, LookaheadState) or (isinstance(node, dict) and "slow_params" in node)

    for node in jax.tree.leaves(opt_state, is_leaf=holds):
        if holds(node):
            return node["slow_params"] if isinstance(node, dict) else node.slow_params
    return None
