"""Evaluation of photographs: one prediction from several crops of each image, top-1 and top-5."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from resjax.train.classification import classification, count_correct, losses_of_classes
from resjax.train.state import Batch, Objective

TOP = 5


def predict_crops(
    model: nn.Module,
    variables: Any,
    views: Sequence[jax.Array],
    normalize: Callable,
    flip: bool,
    classes: Sequence[int] | None = None,
) -> jax.Array:
    """Log of the mean class probability over all crops of all views, and their mirror images.

    Args:
      model, variables: the network.
      views: uint8 [N, H, W, 3] or [N, crops, H, W, 3]; sizes may differ.
      normalize: maps them to the network's input.
      flip: whether to include the mirror image of each crop.
      classes: the outputs of the network to choose among, in this order; None takes all.

    Returns:
      float32 [N, K], K the number of `classes`.
    """
    chosen = slice(None) if classes is None else np.array(classes)

    def log_probabilities(images: jax.Array) -> jax.Array:
        logits = cast(jax.Array, model.apply(variables, normalize(images), train=False))
        return jax.nn.log_softmax(logits[:, chosen])

    of_views = []
    for view in views:
        crops = view.reshape(len(view), -1, *view.shape[-3:])
        if flip:
            crops = jnp.concatenate([crops, crops[:, :, :, ::-1]], axis=1)
        # One crop of each image at a time, so that memory stays that of one batch.
        of_views.append(jax.lax.map(log_probabilities, crops.swapaxes(0, 1)))
    each = jnp.concatenate(of_views)
    return jax.nn.logsumexp(each, axis=0) - jnp.log(len(each))


def make_crops_eval_step(
    model: nn.Module, normalize: Callable, flip: bool = False, classes: Sequence[int] | None = None
) -> Callable[[Any, Batch, jax.Array], dict[str, jax.Array]]:
    """Builds `eval_step(variables, (views.., labels), valid) -> sums` for `TopTotals`.

    Args:
      model: a classifier of images [N, H, W, C].
      normalize: maps uint8 images to its input.
      flip: whether to average in the mirror image of each view.
      classes: the outputs of the network to choose among; labels are indices into it. None takes all.
    """

    def eval_step(variables: Any, batch: Batch, valid: jax.Array) -> dict[str, jax.Array]:
        *views, labels = batch
        log_probabilities = predict_crops(model, variables, views, normalize, flip, classes)
        losses = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
        losses = losses_of_classes(losses, labels, log_probabilities.shape[-1])
        return {
            "loss": jnp.where(valid, losses, 0).sum(),
            "correct": count_correct(log_probabilities, labels, valid),
            "correct_top5": count_top(log_probabilities, labels, valid),
            "images": valid.sum(dtype=jnp.int32),
        }

    return eval_step


def top_classification(label_smoothing: float = 0.0) -> Objective:
    """`classification` that also counts `correct_top5`."""
    base = classification(label_smoothing)

    def objective(logits, targets, labels):
        loss, counts = base(logits, targets, labels)
        return loss, counts | {"correct_top5": count_top(logits, labels)}

    return objective


def count_top(logits: jax.Array, labels: jax.Array, valid: jax.Array | bool = True) -> jax.Array:
    """Number of `valid` images, int32, whose label in [N] has one of the 5 largest logits of [N, K]."""
    best = jax.lax.top_k(logits, min(TOP, logits.shape[-1]))[1]
    return ((best == labels[:, None]).any(-1) & valid).sum(dtype=jnp.int32)
