"""Shattered gradients: correlation of gradients at different inputs, at initialisation.

Balduzzi et al. 2017, arXiv 1702.08591.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from resjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class RandomNetwork:
    """A fully connected ReLU network R^d -> R at initialisation (sections 2 and 3).

    Its layers are x -> ReLU(BN(W x + b)) or, if residual, x -> x + branch_scale (W ReLU(BN(x)) + b). W is drawn from
    N(0, 2 / fan-in), b from N(0, 1 / width). Without b, a network without BN would have its only kink at 0.

    Attributes:
      depth: number of layers after the first, which maps the input to `width` units.
      width: units of each layer.
      residual: whether layers have a skip.
      batch_norm: whether layers have BN, with the statistics of the given inputs.
      branch_scale: beta of a residual layer.
    """

    depth: int
    width: int = 200
    residual: bool = False
    batch_norm: bool = False
    branch_scale: float = 1.0

    def __post_init__(self):
        if self.depth < 1 or self.width < 1:
            raise InputError(f"depth, width: expected positive integers, got {self.depth}, {self.width}")

    def __call__(self, key: jax.Array, inputs: jax.Array) -> jax.Array:
        """The outputs [N] of the network drawn from `key` for inputs [N, d]."""
        first, hidden, last = jax.random.split(key, 3)

        def layer(x, key):
            if self.residual:
                return x + self.branch_scale * _linear(key, jax.nn.relu(self._norm(x)), self.width), None
            return jax.nn.relu(self._norm(_linear(key, x, self.width))), None

        x = _linear(first, inputs, self.width)
        x, _ = lax.scan(layer, x, jax.random.split(hidden, self.depth))
        return _linear(last, x, 1)[:, 0]

    def _norm(self, x):
        if not self.batch_norm:
            return x
        mean = x.mean(0)
        return (x - mean) * lax.rsqrt(jnp.square(x - mean).mean(0) + 1e-5)


def _linear(key, x, features):
    weights, bias = jax.random.split(key)
    kernel = jax.random.normal(weights, (x.shape[1], features)) * (2 / x.shape[1]) ** 0.5
    return x @ kernel + jax.random.normal(bias, (features,)) * features**-0.5


def input_derivatives(function: Callable[[jax.Array], jax.Array], inputs: jax.Array, coupled: bool) -> jax.Array:
    """The derivative of each output with respect to its own input: inputs [N, ..] -> [N, ..].

    Args:
      function: inputs [N, ..] -> outputs [N].
      inputs: float.
      coupled: whether an output also depends on the other inputs, as with batch statistics. The gradient of the sum of
        the outputs would mix their derivatives. Each output is then differentiated separately, at N times the cost.
    """
    outputs, backward = jax.vjp(function, inputs)
    if not coupled:
        return backward(jnp.ones_like(outputs))[0]
    n = outputs.shape[0]
    # A few at a time: the matrix products fill the machine, and memory is bounded.
    return lax.map(lambda i: backward(jax.nn.one_hot(i, n, dtype=outputs.dtype))[0][i], jnp.arange(n), batch_size=16)


def grid_derivatives(network: RandomNetwork, seed: int, networks: int, points: int = 256) -> np.ndarray:
    """df/dx of random networks R -> R on a grid of [-2, 2] (figures 1 and 2): [networks, points]."""
    grid = jnp.linspace(-2, 2, points)[:, None]
    return _derivatives(network, seed, networks, grid)[..., 0]


def data_correlations(network: RandomNetwork, seed: int, networks: int, inputs: np.ndarray) -> np.ndarray:
    """Correlation (cosine) of the gradients at two of the inputs [N, d], averaged over pairs: [networks]."""
    gradients = _derivatives(network, seed, networks, jnp.asarray(inputs, jnp.float32))
    unit = gradients / np.linalg.norm(gradients, axis=-1, keepdims=True)
    n = len(inputs)
    return (np.square(unit.sum(1)).sum(-1) - n) / (n * (n - 1))


def _derivatives(network, seed, networks, inputs):
    @jax.jit
    def run(keys, inputs):
        return lax.map(lambda key: input_derivatives(lambda x: network(key, x), inputs, network.batch_norm), keys)

    return np.asarray(run(jax.random.split(jax.random.key(seed), networks), inputs))


def white_noise(seed: int, networks: int, points: int = 256) -> np.ndarray:
    """Independent normal values: [networks, points]."""
    return np.random.default_rng(seed).normal(size=(networks, points))


def brown_noise(seed: int, networks: int, points: int = 256) -> np.ndarray:
    """Brownian motion, the running sum of white noise: [networks, points]."""
    return np.cumsum(white_noise(seed, networks, points), axis=-1)


def autocorrelation(series: np.ndarray, lags: int = 16) -> np.ndarray:
    """Autocorrelation at the lags 0 .. lags - 1, averaged over series: [R, T] -> [lags] (figure 2)."""
    centred = series - series.mean(-1, keepdims=True)
    length = series.shape[-1]
    products = [(centred[:, : length - lag] * centred[:, lag:]).sum(-1) for lag in range(lags)]
    return (np.array(products) / np.square(centred).sum(-1)).mean(-1)


def covariance(series: np.ndarray) -> np.ndarray:
    """Covariance of the values at two points over the series, divided by the mean variance: [R, T] -> [T, T]."""
    matrix = np.cov(series, rowvar=False)
    return matrix / np.trace(matrix) * len(matrix)


@dataclasses.dataclass(frozen=True)
class DecayFit:
    """Fits of correlations against depth L in the logarithm.

    Attributes:
      base: a of c a^L, 1/2 in theorem 1 (plain).
      power: p of c L^p, -1/2 in theorem 3 (residual, with BN).
      exponential_residual, power_residual: root mean square residuals of the fits, in units of the natural logarithm.
    """

    base: float
    power: float
    exponential_residual: float
    power_residual: float


def fit_decay(depths: np.ndarray, correlations: np.ndarray) -> DecayFit:
    """Fits c a^L and c L^p to correlations [D] at depths [D]. Correlations that are not positive are left out.

    Raises:
      InputError: if fewer than three are left.
    """
    depths, correlations = np.asarray(depths, np.float64), np.asarray(correlations, np.float64)
    kept = correlations > 0
    if kept.sum() < 3:
        raise InputError(f"fit_decay: expected at least three positive correlations, got {correlations.tolist()}")
    log = np.log(correlations[kept])
    slopes, residuals = [], []
    for x in (depths[kept], np.log(depths[kept])):
        line = np.polyfit(x, log, 1)
        slopes.append(line[0])
        residuals.append(float(np.sqrt(np.mean(np.square(log - np.polyval(line, x))))))
    return DecayFit(float(np.exp(slopes[0])), float(slopes[1]), *residuals)
