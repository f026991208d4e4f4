"""Classification: the objective of a training step, and a step of evaluation."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from resjax.errors import InputError
from resjax.models.checks import check_rate
from resjax.train.metrics import check_labels
from resjax.train.state import Batch, Objective


def classification(label_smoothing: float = 0.0) -> Objective:
    """Mean cross-entropy; counts `correct`, the images whose largest logit is their own label's.

    Args:
      label_smoothing: s, targets become (1 - s) t + s / K (Szegedy et al. 2016, arXiv 1512.00567, section 7).

    The objective raises InputError for labels out of range. Compiled code cannot raise; there, the loss is NaN.

    Raises:
      InputError: for a number out of [0, 1). The objective raises it for logits of a single class.

    Example:
      >>> logits, targets = jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
      >>> loss, sums = classification()(logits, targets, jnp.array([0, 0]))
      >>> round(float(loss), 4), int(sums["correct"])  # the mean of log(1 + e^-2) and log(1 + e^2)
      (1.1269, 1)
    """
    check_rate("label_smoothing", label_smoothing)

    def objective(logits, targets, labels):
        classes = logits.shape[-1]
        if classes == 1:
            raise InputError("num_classes 1: the cross-entropy of one class is 0 whatever the network says; expected 2")
        targets = optax.smooth_labels(targets, label_smoothing)
        losses = losses_of_classes(optax.softmax_cross_entropy(logits, targets), labels, classes)
        return losses.mean(), {"correct": count_correct(logits, labels)}

    return objective


def make_eval_step(
    model: nn.Module,
    normalize: Callable[[jax.Array], jax.Array],
    views: Callable[[jax.Array], Sequence[tuple[float, jax.Array]]] | None = None,
) -> Callable[[Any, Batch, jax.Array], dict[str, jax.Array]]:
    """Builds `eval_step(variables, batch, valid) -> sums` over the images of the batch where bool [N] `valid` holds.

    Args:
      model: a network of `resjax.models`.
      normalize: maps uint8 images to its input.
      views: test-time augmentation: maps the input to pairs of a weight and an input, whose logits are averaged. For
        example `resjax.data.augment.mirrored_and_shifted`. None takes the input as it is.
    """
    views = views or (lambda images: [(1.0, images)])

    def eval_step(variables: Any, batch: Batch, valid: jax.Array) -> dict[str, jax.Array]:
        images, labels = batch
        weighted = [
            weight * cast(jax.Array, model.apply(variables, view, train=False))
            for weight, view in views(normalize(images))
        ]
        logits = sum(weighted[1:], weighted[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        losses = losses_of_classes(losses, labels, logits.shape[-1])
        return {
            "loss": jnp.where(valid, losses, 0).sum(),
            "correct": count_correct(logits, labels, valid),
            "images": valid.sum(dtype=jnp.int32),
        }

    return eval_step


def losses_of_classes(losses: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """The losses [N], with NaN where the label in [N] is not in 0 .. num_classes - 1.

    Without this the loss would look normal: one-hot vectors are zero for such labels, and indices wrap.

    Raises:
      InputError: outside compiled code, for such a label, or for labels that are not integers.
    """
    check_labels(labels, num_classes)
    return jnp.where((labels >= 0) & (labels < num_classes), losses, jnp.nan)


def count_correct(logits: jax.Array, labels: jax.Array, valid: jax.Array | bool = True) -> jax.Array:
    """Number of `valid` images, int32, whose label in [N] has the largest logit of [N, K].

    Raises:
      InputError: for labels of another shape, which would broadcast.
    """
    if labels.shape != logits.shape[:-1]:
        raise InputError(f"labels: expected the shape {list(logits.shape[:-1])}, got {list(labels.shape)}")
    return ((logits.argmax(-1) == labels) & valid).sum(dtype=jnp.int32)
