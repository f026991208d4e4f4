"""SGD as the papers' code runs it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from resjax.errors import InputError


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay: str = "all",
    clip_norm: float = 0.0,
    momentum_resets: Sequence[int] = (),
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay.

    In Torch's form: v = m v + (g + w p), then p -= lr v, or with Nesterov p -= lr (g + w p + m v).

    Args:
      learning_rate: a number, or a schedule of steps.
      momentum: m.
      nesterov: whether to look ahead (second form).
      weight_decay: w, coupled: added to the gradient before momentum (not AdamW's decoupled form).
      decay: what decays: "all" parameters, as in fb.resnet.torch and Wide ResNet's code, or "kernels" alone, as in
        the papers of Microsoft: convolution and linear weights, neither BN parameters nor biases.
      clip_norm: largest global L2 norm of the gradient, before decay; 0 does not clip.
      momentum_resets: steps before which v is set to zero. Wide ResNet's code rebuilds its optimizer at each drop.

    Raises:
      InputError: for a `decay` of another name.
    """
    if decay not in ("all", "kernels"):
        raise InputError(f"decay: expected 'all' or 'kernels', got {decay!r}")
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(weight_decay, mask=kernels if decay == "kernels" else None),
        _reset_at(optax.trace(momentum, nesterov), momentum_resets) if momentum else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


def kernels(params: Any) -> Any:
    """Mask of the leaves named `kernel`: convolution and linear weights."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _reset_at(inner: optax.GradientTransformation, steps: Sequence[int]) -> optax.GradientTransformation:
    """`inner` with its state set to zero before each of `steps`."""
    if not steps:
        return inner
    steps = tuple(steps)

    def init(params):
        return jnp.zeros((), jnp.int32), inner.init(params)

    def update(updates, state, params=None):
        count, inner_state = state
        keep = jnp.all(count != jnp.asarray(steps))
        inner_state = jax.tree.map(lambda leaf: jnp.where(keep, leaf, jnp.zeros_like(leaf)), inner_state)
        updates, inner_state = inner.update(updates, inner_state, params)
        return updates, (count + 1, inner_state)

    return optax.GradientTransformation(init, update)
