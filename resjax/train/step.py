"""One training step, as a pure function."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import MOMENTS, empty_moments
from resjax.models.checks import check_positive, check_rate
from resjax.train.classification import classification
from resjax.train.sharding import replicated
from resjax.train.state import Batch, Objective, TrainState, step_key

Prepare = Callable[..., tuple[jax.Array, jax.Array]]
"""(key, uint8 images, labels) -> (float images, targets): normalisation and augmentation.

The targets of a classifier are probabilities [N, K]. If `make_train_step` gets `steps_per_epoch`, it also takes
`epoch`, int32, counted from 0.
"""


def _prepared(
    prepare: Prepare, classifies: bool, key: jax.Array, images: jax.Array, *labels: Any, **when: Any
) -> tuple[jax.Array, Any]:
    """What `prepare` returns; raises InputError where it does not do what `make_train_step` says."""
    expected = "make_train_step: prepare(key, images, labels) -> (float images [N, H, W, C], targets)"
    try:
        inspect.signature(prepare).bind(key, images, *labels, **when)
    except TypeError as error:
        raise InputError(f"{expected}; this one does not take {2 + len(labels)} arguments: {error}") from None
    except ValueError:  # a callable without a signature
        pass
    result = prepare(key, images, *labels, **when)
    if not isinstance(result, tuple) or len(result) != 2:
        raise InputError(f"{expected}; this one returned {type(result).__name__}, no pair")
    found, targets = result
    shape, dtype = jnp.shape(found), jnp.result_type(found)
    if len(shape) != 4 or shape[0] != len(images) or not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"{expected}; this one returned images of {dtype} {list(shape)} for {len(images)} images")
    shape, dtype = jnp.shape(targets), jnp.result_type(targets)
    if classifies and (len(shape) != 2 or shape[0] != len(images) or not jnp.issubdtype(dtype, jnp.floating)):
        raise InputError(
            f"{expected}, of float [N, K] for a classifier; this one returned targets of {dtype} {list(shape)}:"
            " jax.nn.one_hot(labels, K) makes them"
        )
    return found, targets


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    prepare: Prepare,
    average_decay: float = 0.0,
    objective: Objective | None = None,
    micro_batches: int = 1,
    sharding: Any = None,
    steps_per_epoch: int | None = None,
    gradient_metrics: Mapping[str, Callable[[Any], jax.Array]] | None = None,
    trained: Callable[[Any], Any] | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds `train_step(state, batch) -> (state, metrics)`.

    Weight decay belongs to the optimizer. Metrics are scalars: `loss` (mean), `gradient_norm` (global L2 norm), and the
    objective's counts; with `gradient_metrics`, `gradient_means` holds their values by name.

    Args:
      model: a network of `resjax.models`.
      optimizer: see `resjax.train.OPTIMIZERS`; its update is given `error_of_batch`, where the objective counts what is
        `correct`, and `gradient_at`, the gradient of the same batch, augmentation and draws with other parameters.
        Loss, counts, BN statistics and gradient norm belong to the parameters before the update.
      prepare: `prepare(key, images, labels) -> (images, targets)` normalises and augments a batch; compiled into the
        step. It takes a PRNG key, to draw from, uint8 images [N, H, W, C] and int32 labels [N] (what the batch holds),
        and returns float images [N, H, W, C] and, for a classifier, one-hot or mixed targets, float [N, K]:
        `lambda key, images, labels: (normalize(images), jax.nn.one_hot(labels, K))`. With `steps_per_epoch` it also
        takes `epoch`, int32, counted from 0.
      average_decay: decay per step of the moving average of parameters and BN statistics; 0 keeps none.
      objective: loss and counts; None is `classification()`.
      micro_batches: k, the number of parts of a batch that run one after another to save memory. Gradients and running
        statistics are those of the whole batch. BN of scope n sees the same groups of images as with k = 1; global BN
        sees a part. Dropout and stochastic depth draw for each part separately.
      sharding: sharding of the state if it is split over the devices, see `resjax.train.state_sharding`. The step
        gathers the parameters once, and each device updates its part. None: all of it is on each device.
      steps_per_epoch: given if `prepare` differs between epochs.
      gradient_metrics: functions of the gradients of `params` by name; each returns a scalar.
      trained: the mask of the parameters that have a gradient, see `trained_parameters`; of the others it is zero, and
        nothing is computed for it. None: all have one.

    Raises:
      InputError: for a rate out of [0, 1), or `micro_batches` that are not positive. The step raises it for a state
        without the average that `average_decay` updates, for a batch that is none, and for a `prepare` that takes or
        returns something else.
    """
    check_rate("average_decay", average_decay)
    check_positive("micro_batches", micro_batches)
    if jnp.dtype(getattr(model, "dtype", jnp.float32)) == jnp.float16:
        warnings.warn(
            "dtype float16: gradients below 6e-8 become 0, for there is no loss scaling; bfloat16 needs none",
            stacklevel=2,
        )
    classifies = objective is None
    objective = objective or classification()
    scope = getattr(model, "norm_scope", "global")
    together = scope if isinstance(scope, int) else 1
    update = optax.with_extra_args_support(optimizer).update

    def gradients_of(params, statistics, key, images, targets, labels):
        """((loss, counts, gradients), statistics) of one part of a batch; statistics: (batch_stats, moments)."""

        def loss_fn(params):
            if trained is not None:
                choose = lambda own, leaf: leaf if own else jax.lax.stop_gradient(leaf)  # noqa: E731
                params = jax.tree.map(choose, trained(params), params)
            variables = {"params": params, "batch_stats": statistics[0], MOMENTS: statistics[1]}
            mutable = ["batch_stats", MOMENTS]
            logits, new = model.apply(variables, images, train=True, mutable=mutable, rngs={"dropout": key})
            if classifies and logits.shape != targets.shape:
                raise InputError(
                    f"make_train_step: prepare returned targets of {targets.shape[-1]} classes; the network has"
                    f" {logits.shape[-1]}"
                )
            loss, counts = objective(logits, targets, *labels)
            return loss, (counts, (new.get("batch_stats", {}), new.get(MOMENTS, {})))

        (loss, (counts, statistics)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return (loss, counts, gradients), statistics

    def accumulated(params, statistics, key, *batch):
        """The same for a whole batch, part by part."""
        parts = jax.tree.map(lambda array: parts_of_batch(array, micro_batches, together), batch)

        def add(carry, part):
            (total, statistics), (i, part) = carry, part
            found, statistics = gradients_of(params, statistics, jax.random.fold_in(key, i), *part)
            return (jax.tree.map(jnp.add, total, found), statistics), None

        first = jax.tree.map(lambda array: array[0], parts)
        shapes, _ = jax.eval_shape(gradients_of, params, statistics, key, *first)
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (found, statistics), _ = jax.lax.scan(add, (zero, statistics), (jnp.arange(micro_batches), parts))
        loss, counts, gradients = found
        loss, gradients = jax.tree.map(lambda value: value / micro_batches, (loss, gradients))
        return (loss, counts, gradients), statistics

    of_batch = accumulated if micro_batches > 1 else gradients_of

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        if not isinstance(batch, (tuple, list)):
            raise InputError(
                "train_step: expected a batch (uint8 images [N, H, W, C], int32 labels [N]), got "
                + type(batch).__name__
            )
        images, *labels = batch
        prepare_key, dropout_key = jax.random.split(step_key(state.seed, state.step))
        when = {} if steps_per_epoch is None else {"epoch": state.step // steps_per_epoch}
        images, targets = _prepared(prepare, classifies, prepare_key, images, *labels, **when)
        statistics = state.batch_stats, empty_moments(state.batch_stats) if micro_batches > 1 else {}

        def gradients_at(params):
            """((loss, counts, gradients), statistics) of the batch with these parameters."""
            if sharding is not None:
                whole = jax.tree.map(lambda s: replicated(s.mesh), sharding.params)
                params = jax.lax.with_sharding_constraint(params, whole)
            (loss, counts, gradients), new = of_batch(params, statistics, dropout_key, images, targets, labels)
            if sharding is not None:
                gradients = jax.lax.with_sharding_constraint(gradients, sharding.params)
            return (loss, counts, gradients), new

        (loss, counts, gradients), (batch_stats, _) = gradients_at(state.params)
        known: dict[str, Any] = {"gradient_at": lambda params: gradients_at(params)[0][2]}
        if "correct" in counts:
            known["error_of_batch"] = 1 - counts["correct"] / len(images)
        updates, opt_state = update(gradients, state.opt_state, state.params, **known)
        params = optax.apply_updates(state.params, updates)
        average = None
        if state.average is not None:
            current = {"params": params, "batch_stats": batch_stats}
            average = optax.incremental_update(current, state.average, 1 - average_decay)
        elif average_decay:
            raise InputError(
                f"average_decay {average_decay}: the state has no average; create_state(.., moving_average=True)"
            )
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradients)} | counts
        if gradient_metrics:
            metrics["gradient_means"] = {name: metric(gradients) for name, metric in gradient_metrics.items()}
        state = state.replace(
            step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, average=average
        )
        return state, metrics

    return train_step


def parts_of_batch(array: jax.Array, parts: int, together: int = 1) -> jax.Array:
    """Splits [N, ...] into [parts, N / parts, ...]: each part gets one of every `parts` groups of images.

    A group is `together` consecutive images. A device with consecutive images then has some images of each part, and
    nothing moves between devices.

    Raises:
      InputError: if N is not a multiple of parts * together.
    """
    images = array.shape[0]
    if images % (parts * together):
        raise InputError(
            f"micro_batches {parts}: a batch of {images} images is no multiple of {parts * together}"
            + (f" (BN normalises {together} images together)" if together > 1 else "")
        )
    groups = array.reshape(-1, parts, together, *array.shape[1:])
    return jnp.moveaxis(groups, 1, 0).reshape(parts, images // parts, *array.shape[1:])
