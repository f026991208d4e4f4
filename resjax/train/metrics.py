"""Running sums of what a pass over images measures."""

import jax
import jax.numpy as jnp
from flax import struct

NO_FAILURE = -1


@struct.dataclass
class Totals:
    """Sums over the images seen so far in an epoch or an evaluation; scalars.

    Attributes:
      loss: sum of the loss over images, float32.
      correct: images whose largest logit is their label's, int32.
      images: images counted, int32.
      first_layer_gradient: sum over the images of their step's mean absolute gradient of the first kernel, float32.
      failed_step: first step whose loss or gradient was not finite, int32; `NO_FAILURE` while there is none.
    """

    loss: jax.Array
    correct: jax.Array
    images: jax.Array
    first_layer_gradient: jax.Array
    failed_step: jax.Array

    @classmethod
    def zero(cls) -> "Totals":
        """Nothing counted yet."""
        return cls(jnp.float32(0), jnp.int32(0), jnp.int32(0), jnp.float32(0), jnp.int32(NO_FAILURE))

    def mean_loss(self) -> float:
        """Mean loss per image."""
        return float(self.loss) / max(int(self.images), 1)

    def mean_first_layer_gradient(self) -> float:
        """Mean over the steps of the mean absolute gradient of the first kernel."""
        return float(self.first_layer_gradient) / max(int(self.images), 1)

    def accuracy(self) -> float:
        """Share of correct images, in [0, 1]."""
        return int(self.correct) / max(int(self.images), 1)
