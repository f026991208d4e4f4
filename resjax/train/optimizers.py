"""Optimizers: SGD as in the papers' code, and others from optax, all with the same schedules, masks and factors.

Stacked parameters of a scanned stage, or of a block's paths, are separate layers, each with its own norm and matrix.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import optax

from resjax.errors import InputError
from resjax.train.fine_tuning import layer_depths


class Common(TypedDict, total=False):
    """The arguments of every optimizer, see `sgd`; the defaults are also the same, except that of `weight_decay`."""

    weight_decay: float
    decay: str
    head_decay_factor: float
    clip_norm: float
    factors: Callable[[Any], Any] | None
    warm_up: optax.GradientTransformationExtraArgs | None


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
    v = m v + lr (g + w p), then p -= v, or p -= lr (g + w p) + m v. They agree until the rate changes. Then
    Torch's velocity is multiplied by the new rate at once; Caffe's keeps the steps that were taken at the old rate.

    Args:
      learning_rate: a number, or a schedule of steps.
      momentum: m.
      nesterov: whether to use Nesterov's momentum (the second form).
      weight_decay: w, coupled: added to the gradient before momentum (not AdamW's decoupled form).
      decay: the parameters that decay: "all", as in fb.resnet.torch and Wide ResNet's code; "kernels", as in the papers
        of Microsoft: convolution and linear weights, neither BN parameters nor biases; or "not_biases": all but the
        biases, including those of BN.
      clip_norm: largest global L2 norm of the gradient, before decay; 0 does not clip.
      momentum_resets: steps before which v is set to zero. Wide ResNet's code rebuilds its optimizer at each drop.
      factors: parameters -> a tree of the factors of their learning rates, see `learning_rate_factors`.
      warm_up: see `warm_up_until`.
      momentum_form: "torch", or "caffe", the form of MXNet and of the solvers of He et al. 2015 and Highway networks.
      head_decay_factor: factor of the weight decay of parameters below a module named `head..`.

    Raises:
      InputError: for an unknown `decay` or `momentum_form`.

    Example:
      >>> optimizer = sgd(learning_rate=0.1, momentum=0.9)
      >>> weights = jnp.array([1.0])
      >>> state = optimizer.init(weights)
      >>> for _ in range(2):  # the second step is 1.9 times the first
      ...     updates, state = optimizer.update(jnp.array([1.0]), state, weights)
      >>> round(float(updates[0]), 6)
      -0.19
    """
    if momentum_form not in ("torch", "caffe"):
        raise InputError(f"momentum_form: expected 'torch' or 'caffe', got {momentum_form!r}")
    velocity = [_reset_at(optax.trace(momentum, nesterov), momentum_resets) if momentum else optax.identity()]
    return _chain(
        learning_rate,
        decayed=velocity if momentum_form == "torch" else [],
        rated=velocity if momentum_form == "caffe" else [],
        weight_decay=weight_decay,
        decay=decay,
        head_decay_factor=head_decay_factor,
        clip_norm=clip_norm,
        factors=factors,
        warm_up=warm_up,
    )


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    **common: Unpack[Common],
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), in PyTorch's form: p -= lr (m / (sqrt(v) + eps) + w p).

    Args:
      learning_rate: a number, or a schedule of steps.
      b1, b2: decay rates of the averages m of the gradient and v of its square, both with bias correction.
      eps: added to the square root.
      **common: see `sgd`; the weight decay is decoupled.
    """
    return _chain(learning_rate, clipped=[optax.scale_by_adam(b1, b2, eps)], **common)


def lamb(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    trust_ratio: str = "kernels",
    **common: Unpack[Common],
) -> optax.GradientTransformation:
    """LAMB (You et al. 2020, arXiv 1904.00962): p -= lr |p| / |u| u with AdamW's u = m / (sqrt(v) + eps) + w p.

    Args:
      learning_rate, b1, b2, eps: as `adamw` takes them.
      trust_ratio: the parameters that are scaled by |p| / |u|, each by its own; the names are those of `sgd`'s `decay`.
      **common: see `sgd`; the weight decay is decoupled from the averages, and is part of u.
    """
    scaled = [_scale_by_trust_ratio(trust_ratio)]
    return _chain(learning_rate, clipped=[optax.scale_by_adam(b1, b2, eps)], decayed=scaled, **common)


def lars(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    nesterov: bool = False,
    trust_coefficient: float = 0.001,
    trust_ratio: str = "kernels",
    eps: float = 0.0,
    **common: Unpack[Common],
) -> optax.GradientTransformation:
    """LARS (You et al. 2017, arXiv 1708.03888): with u = g + w p, v = m v + lr c |p| / (|u| + eps) u, then p -= v.

    The denominator is the norm of the gradient with its decay, as in optax; the paper has |g| + w |p| instead.

    Args:
      learning_rate: a number, or a schedule of steps.
      momentum, nesterov: for a velocity in Caffe's form, see `sgd`.
      trust_coefficient: c.
      trust_ratio: the parameters that are scaled by c |p| / (|u| + eps), each by its own; names as in `sgd`'s `decay`.
      eps: added to the norm of u.
      **common: see `sgd`; the weight decay is coupled.
    """
    scaled = [_scale_by_trust_ratio(trust_ratio, trust_coefficient, eps)]
    velocity = [optax.trace(momentum, nesterov)] if momentum else []
    return _chain(learning_rate, decayed=scaled, rated=velocity, **common)


def muon(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.95,
    nesterov: bool = True,
    newton_schulz_steps: int = 5,
    adam_factor: float = 0.015,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-10,
    **common: Unpack[Common],
) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for convolutions, AdamW for the rest.

    The velocity of a kernel [h, w, inputs, outputs] is made nearly orthogonal as a matrix [h w inputs, outputs], and
    scaled by sqrt(max(1, outputs / (h w inputs))). A grouped convolution is one such matrix, of all groups. AdamW
    trains all other parameters, and those below a module named `head..`, as the authors advise for classifiers.

    Args:
      learning_rate: learning rate of Muon: a number, or a schedule of steps.
      momentum, nesterov: for the velocity, an average with bias correction.
      newton_schulz_steps: iterations towards an orthogonal matrix.
      adam_factor: ratio of AdamW's learning rate to Muon's.
      b1, b2, eps: for AdamW, see `adamw`.
      **common: see `sgd`; the weight decay is decoupled, with the learning rate of Muon or of AdamW.
    """
    # In optax, a learning rate of -1 gives the direction. Its own Adam would use Nesterov's momentum, too.
    directions = optax.contrib.muon(
        learning_rate=-1.0,
        ns_steps=newton_schulz_steps,
        beta=momentum,
        nesterov=nesterov,
        muon_weight_dimension_numbers=_matrices,
    )
    others = lambda params: jax.tree.map(lambda chosen: not chosen, _hidden_kernels(params))  # noqa: E731
    slower = lambda params: jax.tree.map(lambda own: 1.0 if own else adam_factor, _hidden_kernels(params))  # noqa: E731
    return _chain(
        learning_rate,
        clipped=[
            optax.masked(directions, _hidden_kernels),
            optax.masked(optax.scale_by_adam(b1, b2, eps), others),
        ],
        decayed=[_times(slower)],
        **common,
    )


OPTIMIZERS = {"sgd": sgd, "adamw": adamw, "lamb": lamb, "lars": lars, "muon": muon}
"""Functions that make an optimizer, by name."""


def _chain(
    learning_rate: optax.ScalarOrSchedule,
    clipped: Sequence[optax.GradientTransformation] = (),
    decayed: Sequence[optax.GradientTransformation] = (),
    rated: Sequence[optax.GradientTransformation] = (),
    weight_decay: float = 0.0,
    decay: str = "all",
    head_decay_factor: float = 1.0,
    clip_norm: float = 0.0,
    factors: Callable[[Any], Any] | None = None,
    warm_up: optax.GradientTransformationExtraArgs | None = None,
) -> optax.GradientTransformation:
    """What all optimizers share, in its order: with steps of their own behind clipping, weight decay and rate."""
    mask = _chosen("decay", decay)
    decays = [optax.add_decayed_weights(weight_decay, mask=mask)]
    if head_decay_factor != 1:
        more = (head_decay_factor - 1) * weight_decay
        decays.append(optax.add_decayed_weights(more, mask=lambda params: _in_head(params, mask)))
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        *clipped,
        *decays,
        *decayed,
        optax.scale_by_learning_rate(learning_rate),
        _times(factors) if factors else optax.identity(),
        *([warm_up] if warm_up else []),
        *rated,
    )


def learning_rate_factors(
    head: float = 1.0, biases: float = 1.0, scales: float = 1.0, layer_decay: float = 1.0
) -> Callable[[Any], Any]:
    """Factors of learning rates for a head, for biases and for scales. A head's bias gets both factors.

    Args:
      head: factor of parameters below a module named `head..`.
      biases: factor of leaves named `bias`: of convolutions, linear layers and BN (beta).
      scales: factor of leaves named `scale`, of BN (gamma), and `branch_factor`, of branches; 0 keeps them unchanged.
      layer_decay: factor of each stage for those before it: of S stages, stage i gets layer_decay ** (S + 1 - i), the
        stem counts as stage 0, and the head gets 1 (Clark et al. 2020, arXiv 2003.10555, appendix A, there by layers).
    """
    of_leaf = {"bias": biases, "scale": scales, "branch_factor": scales}

    def factors(params):
        depths, last = layer_depths(params)

        def factor(path, _, depth):
            own = (head if _belongs_to_head(path) else 1.0) * of_leaf.get(path[-1].key, 1.0)
            return own * layer_decay ** (last - depth)

        return jax.tree_util.tree_map_with_path(factor, params, depths)

    return factors


def _times(factors):
    return optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, factors(params)))


def kernels(params: Any) -> Any:
    """Mask of the leaves named `kernel`: convolution and linear weights."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _in_head(params: Any, mask: Callable[[Any], Any] | None) -> Any:
    """Mask of the leaves that `mask` chooses and that belong to a head."""
    chosen = mask(params) if mask else jax.tree.map(lambda _: True, params)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf and _belongs_to_head(path), chosen)


def _belongs_to_head(path: tuple[Any, ...]) -> bool:
    """Whether a parameter is below a module named `head..`."""
    return any(entry.key.startswith("head") for entry in path[:-1])


def not_biases(params: Any) -> Any:
    """Mask of the leaves not named `bias`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != "bias", params)


_MASKS: dict[str, Callable[[Any], Any] | None] = {"all": None, "kernels": kernels, "not_biases": not_biases}


def _chosen(option: str, name: str) -> Callable[[Any], Any] | None:
    """The mask of a name; None chooses all."""
    if name not in _MASKS:
        raise InputError(f"{option}: expected one of {', '.join(map(repr, _MASKS))}, got {name!r}")
    return _MASKS[name]


def _stacked_axes(path: tuple[Any, ...]) -> int:
    """Number of leading axes of a parameter that are layers: the blocks of a scanned stage, the paths of a block."""
    return sum(entry.key in ("blocks", "paths") for entry in path)


def _hidden_kernels(params: Any) -> Any:
    """Mask of the convolution and linear weights that do not belong to a head."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key == "kernel" and not _belongs_to_head(path), params
    )


def _matrices(params: Any) -> Any:
    """The axes of each kernel that are the inputs and the outputs of a matrix; the first axes may be stacked layers."""

    def dimensions(path, leaf):
        return optax.contrib.MuonDimensionNumbers(tuple(range(_stacked_axes(path), leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(dimensions, params)


def _scale_by_trust_ratio(chosen: str, coefficient: float = 1.0, eps: float = 0.0) -> optax.GradientTransformation:
    """`optax.scale_by_trust_ratio` for the chosen parameters, layer by layer if they are stacked."""
    of_layer = optax.scale_by_trust_ratio(trust_coefficient=coefficient, eps=eps)

    def scaled(path, update, param):
        scale = lambda update, param: of_layer.update(update, optax.EmptyState(), param)[0]  # noqa: E731
        for _ in range(_stacked_axes(path)):
            scale = jax.vmap(scale)
        return scale(update, param)

    every = optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates, params))
    mask = _chosen("trust_ratio", chosen)
    return optax.masked(every, mask) if mask else every


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
