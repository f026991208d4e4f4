"""SGD as the papers' code runs it."""

from collections.abc import Callable, Sequence
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
    factors: Callable[[Any], Any] | None = None,
    warm_up: optax.GradientTransformationExtraArgs | None = None,
    momentum_form: str = "torch",
    head_decay_factor: float = 1.0,
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay.

    In Torch's form: v = m v + (g + w p), then p -= lr v, or with Nesterov p -= lr (g + w p + m v). In Caffe's:
    v = m v + lr (g + w p), then p -= v, or p -= lr (g + w p) + m v. They are the same until the rate changes; then
    Torch's velocity is at once multiplied by the new rate, Caffe's keeps the steps that were taken at the old one.

    Args:
      learning_rate: a number, or a schedule of steps.
      momentum: m.
      nesterov: whether to look ahead (second form).
      weight_decay: w, coupled: added to the gradient before momentum (not AdamW's decoupled form).
      decay: what decays: "all" parameters, as in fb.resnet.torch and Wide ResNet's code; "kernels" alone, as in
        the papers of Microsoft: convolution and linear weights, neither BN parameters nor biases; or "not_biases": all
        but the biases, of BN, too.
      clip_norm: largest global L2 norm of the gradient, before decay; 0 does not clip.
      momentum_resets: steps before which v is set to zero. Wide ResNet's code rebuilds its optimizer at each drop.
      factors: parameters -> a tree of the factors of their learning rates, see `learning_rate_factors`.
      warm_up: see `warm_up_until`.
      momentum_form: "torch", or "caffe": that of the solvers of He et al. 2015 and Highway networks, and of MXNet's.
      head_decay_factor: of the weight decay of what decays below a module named `head..`.

    Raises:
      InputError: for a `decay` or a `momentum_form` of another name.
    """
    if decay not in _DECAYED:
        raise InputError(f"decay: expected one of {', '.join(map(repr, _DECAYED))}, got {decay!r}")
    if momentum_form not in ("torch", "caffe"):
        raise InputError(f"momentum_form: expected 'torch' or 'caffe', got {momentum_form!r}")
    decays = [optax.add_decayed_weights(weight_decay, mask=_DECAYED[decay])]
    if head_decay_factor != 1:
        more = (head_decay_factor - 1) * weight_decay
        decays.append(optax.add_decayed_weights(more, mask=lambda params: _in_head(params, _DECAYED[decay])))
    velocity = [_reset_at(optax.trace(momentum, nesterov), momentum_resets) if momentum else optax.identity()]
    rate = [
        optax.scale_by_learning_rate(learning_rate),
        _times(factors) if factors else optax.identity(),
        *([warm_up] if warm_up else []),
    ]
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        *decays,
        *(velocity + rate if momentum_form == "torch" else rate + velocity),
    )


def learning_rate_factors(head: float = 1.0, biases: float = 1.0, scales: float = 1.0) -> Callable[[Any], Any]:
    """Factors of learning rates for `sgd`: of what belongs to a head, of biases and of scales; of a head's bias, both.

    Args:
      head: of parameters below a module named `head..`.
      biases: of leaves named `bias`, of convolutions, linear layers and BN (its beta).
      scales: of leaves named `scale`, of BN (its gamma); 0 leaves them as they are.
    """
    of_leaf = {"bias": biases, "scale": scales}

    def factors(params):
        def factor(path, _):
            return (head if _belongs_to_head(path) else 1.0) * of_leaf.get(path[-1].key, 1.0)

        return jax.tree_util.tree_map_with_path(factor, params)

    return factors


def _times(factors):
    return optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, factors(params)))


def kernels(params: Any) -> Any:
    """Mask of the leaves named `kernel`: convolution and linear weights."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _in_head(params: Any, mask: Callable[[Any], Any] | None) -> Any:
    """Mask of those leaves that `mask` chooses which belong to a head."""
    chosen = mask(params) if mask else jax.tree.map(lambda _: True, params)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf and _belongs_to_head(path), chosen)


def _belongs_to_head(path: tuple[Any, ...]) -> bool:
    """Whether a parameter is below a module named `head..`."""
    return any(entry.key.startswith("head") for entry in path[:-1])


def not_biases(params: Any) -> Any:
    """Mask of the leaves not named `bias`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != "bias", params)


_DECAYED = {"all": None, "kernels": kernels, "not_biases": not_biases}


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
