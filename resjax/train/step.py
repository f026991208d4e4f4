"""One training step and one evaluation step, as pure functions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import MOMENTS, empty_moments
from resjax.models import first_kernel
from resjax.train.sharding import replicated
from resjax.train.state import TrainState, step_key

Batch = tuple[jax.Array, ...]
"""uint8 images [N, H, W, C], then what is known of them: int32 labels [N], or masks and sizes."""

Prepare = Callable[..., tuple[jax.Array, jax.Array]]
"""(key, uint8 images, labels) -> (float images, targets): normalisation and augmentation.

The targets of a classifier are probabilities [N, K]. Where `make_train_step` is told `steps_per_epoch`, it also takes
`epoch`, int32, counted from 0.
"""

Objective = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
"""(network output, targets, labels) -> (loss, counts): the mean loss, and what is summed up over the epoch by name."""


def classification(label_smoothing: float = 0.0) -> Objective:
    """Mean cross-entropy; counts `correct`, the images whose largest logit is their own label's.

    Args:
      label_smoothing: s, targets become (1 - s) t + s / K (Szegedy et al. 2016, arXiv 1512.00567, section 7).
    """

    def objective(logits, targets, labels):
        targets = optax.smooth_labels(targets, label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean(), {"correct": count_correct(logits, labels)}

    return objective


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    prepare: Prepare,
    label_smoothing: float = 0.0,
    average_decay: float = 0.0,
    objective: Objective | None = None,
    micro_batches: int = 1,
    sharding: Any = None,
    steps_per_epoch: int | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds `train_step(state, batch) -> (state, metrics)`.

    Weight decay belongs to the optimizer. Metrics are scalars: `loss` (mean), `gradient_norm` (global L2 norm),
    `first_layer_gradient` (mean absolute value over the kernel that reads the image; NaN where that is not known);
    and the objective's counts.

    Args:
      model: a network of `resjax.models`.
      optimizer: see `resjax.train.sgd`.
      prepare: normalises and augments a batch, drawing from the step's key; compiled into the step.
      label_smoothing: of the default objective.
      average_decay: decay per step of the moving average of parameters and BN statistics; 0 keeps none.
      objective: loss and counts; None is `classification(label_smoothing)`.
      micro_batches: k, parts of a batch that go through the network one after another, for less memory; gradients and
        running statistics are those of the whole batch. BN of scope n sees the same groups of images as with k = 1,
        global BN those of the part; the draws of dropout and stochastic depth are each part's own.
      sharding: of the state, see `resjax.train.state_sharding`, where devices hold shares of it: the step gathers the
        parameters once, and each device updates its share. None: all of it is on each device.
      steps_per_epoch: where `prepare` differs between epochs.
    """
    objective = objective or classification(label_smoothing)
    scope = getattr(model, "norm_scope", "global")
    together = 1 if scope == "global" else scope
    update = optax.with_extra_args_support(optimizer).update

    def gradients_of(params, batch_stats, moments, key, images, targets, labels):
        """((loss, (counts, batch_stats, moments)), gradients) of one part of a batch."""

        def loss_fn(params):
            logits, new = model.apply(
                {"params": params, "batch_stats": batch_stats, MOMENTS: moments},
                images,
                train=True,
                mutable=["batch_stats", MOMENTS],
                rngs={"dropout": key},
            )
            loss, counts = objective(logits, targets, *labels)
            return loss, (counts, new.get("batch_stats", {}), new.get(MOMENTS, {}))

        return jax.value_and_grad(loss_fn, has_aux=True)(params)

    def accumulated(params, batch_stats, key, *batch):
        """The same of a whole batch, part by part."""
        parts = jax.tree.map(lambda array: parts_of_batch(array, micro_batches, together), batch)

        def add(carry, part):
            (total, (batch_stats, moments)), (i, part) = carry, part
            key_i = jax.random.fold_in(key, i)
            (loss, (counts, *statistics)), gradients = gradients_of(params, batch_stats, moments, key_i, *part)
            total = jax.tree.map(jnp.add, total, ((loss, counts), gradients))
            return (total, tuple(statistics)), None

        statistics = batch_stats, empty_moments(batch_stats)
        first = jax.tree.map(lambda array: array[0], parts)
        ((loss, (counts, *_)), gradients) = jax.eval_shape(gradients_of, params, *statistics, key, *first)
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), ((loss, counts), gradients))
        (total, (batch_stats, _)), _ = jax.lax.scan(add, (zero, statistics), (jnp.arange(micro_batches), parts))
        ((loss, counts), gradients) = total
        mean = jax.tree.map(lambda value: value / micro_batches, (loss, gradients))
        return (mean[0], (counts, batch_stats)), mean[1]

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        images, *labels = batch
        prepare_key, dropout_key = jax.random.split(step_key(state.seed, state.step))
        when = {} if steps_per_epoch is None else {"epoch": state.step // steps_per_epoch}
        images, targets = prepare(prepare_key, images, *labels, **when)
        params = state.params
        if sharding is not None:
            params = jax.lax.with_sharding_constraint(
                params, jax.tree.map(lambda s: replicated(s.mesh), sharding.params)
            )
        if micro_batches == 1:
            (loss, (counts, batch_stats, _)), gradients = gradients_of(
                params, state.batch_stats, {}, dropout_key, images, targets, labels
            )
        else:
            (loss, (counts, batch_stats)), gradients = accumulated(
                params, state.batch_stats, dropout_key, images, targets, labels
            )
        if sharding is not None:
            gradients = jax.lax.with_sharding_constraint(gradients, sharding.params)
        known = {"error_of_batch": 1 - counts["correct"] / len(images)} if "correct" in counts else {}
        updates, opt_state = update(gradients, state.opt_state, state.params, **known)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            current = {"params": params, "batch_stats": batch_stats}
            average = optax.incremental_update(current, average, 1 - average_decay)
        first = first_kernel(gradients)
        metrics = {
            "loss": loss,
            "gradient_norm": optax.tree.norm(gradients),
            "first_layer_gradient": jnp.float32(jnp.nan) if first is None else jnp.abs(first).mean(),
        } | counts
        state = state.replace(
            step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, average=average
        )
        return state, metrics

    return train_step


def parts_of_batch(array: jax.Array, parts: int, together: int = 1) -> jax.Array:
    """Splits [N, ...] into [parts, N / parts, ...]: of each `parts` groups of images, one goes into each part.

    So every device that holds a stretch of the batch holds its share of each part, and nothing moves.

    Args:
      array: images, or what is known of them.
      parts: number of parts.
      together: consecutive images that stay together, a group.

    Raises:
      InputError: where N is no multiple of parts * together.
    """
    images = array.shape[0]
    if images % (parts * together):
        raise InputError(
            f"micro_batches {parts}: a batch of {images} images is no multiple of {parts * together}"
            + (f" (BN normalises {together} images together)" if together > 1 else "")
        )
    groups = array.reshape(-1, parts, together, *array.shape[1:])
    return jnp.moveaxis(groups, 1, 0).reshape(parts, images // parts, *array.shape[1:])


def make_eval_step(
    model: nn.Module,
    normalize: Callable[[jax.Array], jax.Array],
    views: Callable[[jax.Array], Sequence[tuple[float, jax.Array]]] | None = None,
) -> Callable[[Any, Batch, jax.Array], dict[str, jax.Array]]:
    """Builds `eval_step(variables, batch, valid) -> sums` over the images of the batch where bool [N] `valid` holds.

    Args:
      model: a network of `resjax.models`.
      normalize: uint8 images -> its input.
      views: test-time augmentation: the input -> inputs with their weights in a mean of the logits, for example
        `resjax.data.augment.mirrored_and_shifted`; None takes the input as it is.
    """
    views = views or (lambda images: [(1.0, images)])

    def eval_step(variables: Any, batch: Batch, valid: jax.Array) -> dict[str, jax.Array]:
        images, labels = batch
        weighted = [weight * model.apply(variables, view, train=False) for weight, view in views(normalize(images))]
        logits = sum(weighted[1:], weighted[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return {
            "loss": jnp.where(valid, losses, 0).sum(),
            "correct": count_correct(logits, labels, valid),
            "images": valid.sum(dtype=jnp.int32),
        }

    return eval_step


def count_correct(logits: jax.Array, labels: jax.Array, valid: jax.Array | bool = True) -> jax.Array:
    """Number of images, int32, whose largest logit of [N, K] is that of their label in [N], where `valid`."""
    return ((logits.argmax(-1) == labels) & valid).sum(dtype=jnp.int32)
