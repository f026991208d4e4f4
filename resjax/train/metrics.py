"""Running sums of what a pass over images measures."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

NO_FAILURE = -1


@struct.dataclass
class Sums:
    """Sums over the images seen so far in an epoch or an evaluation; scalars.

    Attributes:
      loss: sum of the loss over images, float32.
      images: images counted, int32.
      first_layer_gradient: sum over the images of their step's mean absolute gradient of the first kernel, float32.
      failed_step: first step whose loss or gradient was not finite, int32; `NO_FAILURE` while there is none.
    """

    loss: jax.Array
    images: jax.Array
    first_layer_gradient: jax.Array
    failed_step: jax.Array

    def mean_loss(self) -> float:
        """Mean loss per image."""
        return float(self.loss) / max(int(self.images), 1)

    def mean_first_layer_gradient(self) -> float:
        """Mean over the steps of the mean absolute gradient of the first kernel."""
        return float(self.first_layer_gradient) / max(int(self.images), 1)


def _nothing():
    """The fields of `Sums` before anything is counted; each an array of its own, as donation asks."""
    return {
        "loss": jnp.float32(0),
        "images": jnp.int32(0),
        "first_layer_gradient": jnp.float32(0),
        "failed_step": jnp.int32(NO_FAILURE),
    }


@struct.dataclass
class Totals(Sums):
    """Sums of a classifier of images.

    Attributes, beside those of `Sums`:
      correct: images whose largest logit is their label's, int32.
    """

    correct: jax.Array

    @classmethod
    def zero(cls) -> "Totals":
        """Nothing counted yet."""
        return cls(**_nothing(), correct=jnp.int32(0))

    def accuracy(self) -> float:
        """Share of correct images, in [0, 1]."""
        return int(self.correct) / max(int(self.images), 1)


@struct.dataclass
class TopTotals(Totals):
    """Sums of a classifier of photographs.

    Attributes, beside those of `Totals`:
      correct_top5: images whose label has one of the five largest logits, int32.
    """

    correct_top5: jax.Array

    @classmethod
    def zero(cls) -> "TopTotals":
        """Nothing counted yet."""
        return cls(**_nothing(), correct=jnp.int32(0), correct_top5=jnp.int32(0))


@struct.dataclass
class PixelTotals(Sums):
    """Sums of a classifier of pixels.

    Attributes, beside those of `Sums`:
      confusion: pixels by true class (row) and predicted class (column), int32 [K, K]: at most 2^31 - 1 a cell.
    """

    confusion: jax.Array

    @classmethod
    def zero(cls, num_classes: int) -> "PixelTotals":
        """Nothing counted yet."""
        confusion = jnp.zeros((num_classes, num_classes), jnp.int32)
        return cls(**_nothing(), confusion=confusion)

    def accuracy(self) -> float:
        """Share of pixels whose class is predicted, in [0, 1]; of those with a label."""
        confusion = np.asarray(self.confusion, np.int64)
        return int(confusion.trace()) / max(int(confusion.sum()), 1)

    def class_iou(self) -> np.ndarray:
        """Intersection over union of each class, float64 [K]; NaN for one that is neither there nor predicted."""
        confusion = np.asarray(self.confusion, np.int64)
        union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
        return np.where(union > 0, confusion.diagonal() / np.maximum(union, 1), np.nan)

    def mean_iou(self) -> float:
        """Mean of `class_iou` over the classes that have one; 0 where none has."""
        iou = self.class_iou()
        return float(np.nanmean(iou)) if not np.isnan(iou).all() else 0.0
