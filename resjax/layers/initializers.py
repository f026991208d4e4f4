"""Initial parameters by name, so that a network's description is plain data."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.errors import InputError, unknown_name


def _dirac(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Kernels [kh, kw, C_in, C_out] whose output i is input i for i < C_in."""
    height, width, c_in, _ = shape
    kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape, dtype)
    passing = jnp.zeros(shape[:3] + (min(shape[2:]),), dtype)
    same = jnp.arange(min(shape[2:]))
    passing = passing.at[height // 2, width // 2, same, same].set(1)
    return kernel.at[..., : min(shape[2:])].set(passing)


InitializerName = Literal[
    "he_normal_fan_out",
    "he_normal_fan_in",
    "xavier",
    "torch_linear",
    "dirac",
    "normal_1",
    "normal_0.1",
    "normal_0.05",
    "uniform",
    "ones",
    "zeros",
]
Initializer = InitializerName | Callable[..., Any]
"""A name in `INITIALIZERS`, or a function (key, shape, dtype)."""

INITIALIZERS: dict[InitializerName, Callable[..., jax.Array]] = {
    # Std sqrt(2 / (k k C_out)): fb.resnet.torch, torchvision's ResNet, DenseNet's code.
    "he_normal_fan_out": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    # Std sqrt(2 / (k k C_in)): He et al. 2015 (arXiv 1502.01852, eq. 10), Wide ResNet's code, torchvision's DenseNet.
    "he_normal_fan_in": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
    # Std sqrt(1 / (k k C_in)): Caffe's "xavier".
    "xavier": nn.initializers.variance_scaling(1.0, "fan_in", "uniform"),
    # U(-1/sqrt(fan_in), 1/sqrt(fan_in)), Torch's default for linear layers.
    "torch_linear": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    # The first C_in outputs copy the input channels, the others are as torch_linear.
    "dirac": _dirac,
    # Caffe's "gaussian", with its default std and the stds of the highway networks' classifiers.
    "normal_1": nn.initializers.normal(1.0),
    "normal_0.1": nn.initializers.normal(0.1),
    "normal_0.05": nn.initializers.normal(0.05),
    # U(0, 1), Torch7's default for BN scales.
    "uniform": nn.initializers.uniform(1.0),
    "ones": nn.initializers.ones,
    "zeros": nn.initializers.zeros,
}


def initializer(choice: Any, kind: str = "initializer") -> Callable[..., jax.Array]:
    """The initialiser of a name in `INITIALIZERS`, or `choice` itself if it is a function (key, shape, dtype).

    Raises:
      InputError: for an unknown name of this `kind`, which the message calls it.
    """
    if callable(choice):
        return choice
    if choice not in INITIALIZERS:
        raise unknown_name(kind, str(choice), INITIALIZERS)
    return _named(choice, kind)


@functools.cache
def _named(choice: InitializerName, kind: str) -> Callable[..., jax.Array]:
    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        try:
            return INITIALIZERS[choice](key, shape, dtype)
        except ValueError:  # of an initialiser that counts the inputs of a kernel
            raise InputError(
                f"{kind} {choice!r}: not for an array of shape {list(shape)}, which is no kernel of that rank; choose"
                " another, e.g. 'ones' or 'uniform' for scales of normalisation"
            ) from None

    return initialize
