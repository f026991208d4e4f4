"""Running sums of the metrics of a pass over images."""

from collections.abc import Iterable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from resjax.errors import InputError

NO_FAILURE = -1


def check_labels(labels: jax.Array | np.ndarray, num_classes: int, ignored: int | None = None) -> None:
    """Raises InputError unless all labels are classes. For a traced array only the dtype is checked.

    Compiled code cannot raise an error for a value, so training data are checked here first. The functions of
    `resjax.train` that take labels call this when they are not compiled.

    Args:
      labels: integers of any shape.
      num_classes: K; classes are 0 .. K - 1.
      ignored: another label that is allowed.
    """
    if not (jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == bool):
        raise InputError(f"labels: expected integers, got {labels.dtype}")
    if isinstance(labels, jax.core.Tracer) or not getattr(labels, "is_fully_addressable", True):
        return
    values = np.asarray(labels)
    wrong = (values < 0) | (values >= num_classes)
    if ignored is not None:
        wrong &= values != ignored
    if wrong.any():
        place = tuple(map(int, np.argwhere(wrong)[0]))
        also = "" if ignored is None else f", or {ignored}, which is ignored"
        raise InputError(
            f"labels: expected 0 .. {num_classes - 1}{also}; got {values[place]} at {place}, and"
            f" {np.count_nonzero(wrong) - 1:,} more that are none"
        )


class Sums(struct.PyTreeNode):
    """Sums over the images seen so far in an epoch or an evaluation. All are scalars.

    Attributes:
      loss: sum of the loss over images, float32.
      images: images counted, int32.
      gradient_means: for each gradient metric of `make_train_step`, its sum over the images and their number, float32
        [2]; empty if there are none.
      failed_step: first step whose loss or gradient was not finite, int32; `NO_FAILURE` while there is none.
    """

    loss: jax.Array
    images: jax.Array
    gradient_means: dict[str, jax.Array]
    failed_step: jax.Array

    def mean_loss(self) -> float:
        """Mean loss per image."""
        return float(self.loss) / max(int(self.images), 1)

    def mean_gradient_metrics(self) -> dict[str, float]:
        """Mean per image of each gradient metric."""
        return {name: float(total) / max(float(images), 1) for name, (total, images) in self.gradient_means.items()}

    def with_gradient_metrics(self, names: Iterable[str]) -> Self:
        """These sums, ready to count the gradient metrics `names`, too."""
        return self.replace(gradient_means={name: jnp.zeros(2, jnp.float32) for name in names})


def _nothing() -> dict[str, Any]:
    """The fields of empty `Sums`. Each is an array of its own, because donation requires it."""
    return {
        "loss": jnp.float32(0),
        "images": jnp.int32(0),
        "gradient_means": {},
        "failed_step": jnp.int32(NO_FAILURE),
    }


class Totals(Sums):
    """Sums of a classifier of images.

    Attributes besides those of `Sums`:
      correct: images whose largest logit is their label's, int32.
    """

    correct: jax.Array

    @classmethod
    def zero(cls) -> "Totals":
        """Empty sums."""
        return cls(**_nothing(), correct=jnp.int32(0))

    def accuracy(self) -> float:
        """Fraction of correct images, in [0, 1]."""
        return int(self.correct) / max(int(self.images), 1)


class TopTotals(Totals):
    """Sums of a classifier of photographs.

    Attributes besides those of `Totals`:
      correct_top5: images whose label has one of the five largest logits, int32.
    """

    correct_top5: jax.Array

    @classmethod
    def zero(cls) -> "TopTotals":
        """Empty sums."""
        return cls(**_nothing(), correct=jnp.int32(0), correct_top5=jnp.int32(0))


class PixelTotals(Sums):
    """Sums of a classifier of pixels.

    Attributes besides those of `Sums`:
      confusion: pixels by true class (row) and predicted class (column), int32 [K, K]: at most 2^31 - 1 a cell.
    """

    confusion: jax.Array

    @classmethod
    def zero(cls, num_classes: int) -> "PixelTotals":
        """Empty sums."""
        confusion = jnp.zeros((num_classes, num_classes), jnp.int32)
        return cls(**_nothing(), confusion=confusion)

    def accuracy(self) -> float:
        """Fraction of the labelled pixels whose class is predicted, in [0, 1]."""
        confusion = np.asarray(self.confusion, np.int64)
        return int(confusion.trace()) / max(int(confusion.sum()), 1)

    def class_iou(self) -> np.ndarray:
        """Intersection over union of each class, float64 [K]; NaN if it is neither labelled nor predicted."""
        confusion = np.asarray(self.confusion, np.int64)
        union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
        return np.where(union > 0, confusion.diagonal() / np.maximum(union, 1), np.nan)

    def mean_iou(self) -> float:
        """Mean of `class_iou` over the classes that have one; 0 if none has.

        It says nothing about classes that are neither labelled nor predicted, see `class_iou`.
        """
        iou = self.class_iou()
        return float(np.nanmean(iou)) if not np.isnan(iou).all() else 0.0
