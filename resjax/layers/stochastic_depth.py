"""Training with a random part of the branches: stochastic depth, and training of only the effective paths."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from resjax.errors import InputError
from resjax.layers.gates import Gates


@dataclasses.dataclass(frozen=True)
class StochasticDepth:
    """Removes residual branches at random in training: H = after(shortcut + b branch), b ~ Bernoulli(p_l).

    Huang et al. 2016, arXiv 1603.09382.

    Attributes:
      survival_probability: of the last block, p_L.
      decay: "linear", p_l = 1 - (l / L) (1 - p_L) for l = 1 .. L (section 3, eq. 4), or "constant", p_l = p_L.
      per_sample: draw for each image, not for each mini-batch. Every branch then runs, and its statistics are updated.
      rescale: divide surviving branches by p_l in training, instead of multiplying all by p_l in evaluation (eq. 5).

    Example:
      >>> resjax.StochasticDepth(0.5).survival_probabilities(4).tolist()
      [0.875, 0.75, 0.625, 0.5]
      >>> resjax.StochasticDepth(0.5).training_gates(jax.random.key(0), num_blocks=4, images=8).active.shape
      (4,)
    """

    survival_probability: float = 0.5
    decay: Literal["linear", "constant"] = "linear"
    per_sample: bool = False
    rescale: bool = False

    def __post_init__(self):
        p = self.survival_probability
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 < p <= 1:
            raise InputError(f"survival_probability: expected a number in (0, 1], got {p!r}")
        if self.decay not in ("linear", "constant"):
            raise InputError(f"decay: expected 'linear' or 'constant', got {self.decay!r}")

    def survival_probabilities(self, num_blocks: int) -> np.ndarray:
        """p_l, [num_blocks]."""
        depth = np.arange(1, num_blocks + 1) / num_blocks if self.decay == "linear" else np.ones(num_blocks)
        return 1 - depth * (1 - self.survival_probability)

    def training_gates(self, key: jax.Array, num_blocks: int, images: int) -> Gates:
        """Draws the gates of one mini-batch of `images`."""
        p = jnp.asarray(self.survival_probabilities(num_blocks), jnp.float32)
        scales = 1 / p if self.rescale else None
        if not self.per_sample:
            return Gates(active=jax.random.bernoulli(key, p), branch=scales)
        drawn = jax.random.bernoulli(key, p[:, None], (num_blocks, images)).astype(jnp.float32)
        return Gates(branch=drawn if scales is None else drawn * scales[:, None])

    def evaluation_gates(self, num_blocks: int) -> Gates:
        """The expected branches: p_l, or 1 if training divides by it."""
        return Gates() if self.rescale else Gates(branch=jnp.asarray(self.survival_probabilities(num_blocks)))


@dataclasses.dataclass(frozen=True)
class EffectivePaths:
    """Trains exactly `active_blocks` blocks, drawn for each mini-batch; long paths are never trained.

    Veit et al. 2016, arXiv 1605.06431, section 4.3: 23 of 54, so that paths are as long as those that carry gradient.

    Attributes:
      active_blocks: m, number of blocks whose branches run in a mini-batch. In evaluation all run, multiplied by their
        fraction of batches, m / n, as with stochastic depth; the paper does not say.
    """

    active_blocks: int

    def __post_init__(self):
        m = self.active_blocks
        if isinstance(m, bool) or not isinstance(m, int) or m < 1:
            raise InputError(f"active_blocks: expected a positive integer, got {m!r}")

    def survival_probabilities(self, num_blocks: int) -> np.ndarray:
        """m / n for each block, [num_blocks]; raises InputError if the network has fewer blocks than that."""
        if self.active_blocks > num_blocks:
            raise InputError(f"active_blocks: the network has {num_blocks} blocks, got {self.active_blocks}")
        return np.full(num_blocks, self.active_blocks / num_blocks)

    def training_gates(self, key: jax.Array, num_blocks: int, images: int) -> Gates:
        """Draws the gates of one mini-batch; `images`, its size, does not matter."""
        del images
        return Gates(active=jax.random.permutation(key, num_blocks) < self.active_blocks)

    def evaluation_gates(self, num_blocks: int) -> Gates:
        """The expected branches: m / n."""
        return Gates(branch=jnp.asarray(self.survival_probabilities(num_blocks), jnp.float32))
