"""Batch normalisation. Where papers and frameworks use different conventions, an attribute chooses."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from resjax.errors import InputError
from resjax.layers.activation import relu
from resjax.layers.backend import faster_forms, mesh_of_batch, placed_by_xla
from resjax.layers.conv import Product
from resjax.layers.cpu.norm import joined, moments_of, normalize, widened
from resjax.layers.folded import folded
from resjax.layers.initializers import initializer

MOMENTS = "batch_moments"


class BatchNorm(nn.Module):
    """Batch normalisation over N, H, W (Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm 1).

    Statistics are computed in float32 (float64 if x is float64). The variance is computed from differences, because
    E[x^2] - E[x]^2 in one pass loses digits where the mean is large. On a GPU or a TPU, bfloat16 takes one pass over
    the differences to the running mean. Those of a `Product` are computed from its input. They do not depend on the
    number of devices that share the batch: `norm_scope` says over which images they are taken. The running statistics
    are always those of the whole batch: the running variance includes the spread of the groups' means.

    Variables: params `scale`, `bias`; batch_stats `mean`, `var`; each [C], float32. Where there are `batch_moments`
    (see `empty_moments`) the call is one of several that together make one update of the running statistics.

    Attributes:
      momentum: weight of the OLD running statistics in each update (0.9 here = 0.1 in Torch's convention).
      epsilon: added to the variance.
      unbiased_running_variance: store n / (n - 1) times the batch variance, as Torch does; False stores it biased.
      dtype: dtype of the result.
      scale_init: initialiser of `scale`, or its name in `INITIALIZERS`.
      frozen: use the running statistics in training as well, and do not update them.
      norm_scope: "global", statistics of the whole batch, or n: of each n consecutive images, as published networks
        were trained on several GPUs ("ghost batches", Hoffer et al. 2017, arXiv 1705.08741, section 4).
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased_running_variance: bool = True
    dtype: Any = jnp.float32
    scale_init: Any = "ones"
    frozen: bool = False
    norm_scope: str | int = "global"

    @nn.compact
    def __call__(
        self,
        x: jax.Array | Sequence[jax.Array] | Product,
        train: bool,
        activation: Callable[[jax.Array], jax.Array] | None = None,
        pool: Callable[[jax.Array], jax.Array] | None = None,
        moments: jax.Array | None = None,
    ) -> Any:
        """Normalises x [N, H, W, C] by batch statistics (train, unless they are frozen) or by running ones.

        The `activation` is applied to the result. `resjax.layers.relu` is fused and needs no further pass over x.
        Then comes `pool`, max-pooling. In training, with `relu` or no activation, only its windows' largest values are
        normalised, so that no normalised array of x's size is written.

        x may be several arrays, which are joined along C. Then (y, moments) is the result, and the next norm that reads
        the same arrays, and others behind them, takes these `moments` and computes those of the others only. Without
        training they are None.

        x may be a 1x1 convolution that is not computed yet. In training by the statistics of the whole batch it is one
        convolution with this norm then, see `resjax.layers.folded`.

        Raises:
          InputError: with train=True where `batch_stats` is not mutable, or where a channel has a single value.
        """
        if isinstance(x, Product) and (not train or self.frozen or self.norm_scope != "global"):
            x = x.computed()
        several = isinstance(x, (list, tuple))
        parts: tuple[Any, ...] = tuple(x) if isinstance(x, (list, tuple)) else (x,)
        shape = (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
        channels = shape[-1:]
        scale = self.param("scale", initializer(self.scale_init), channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if train and not self.frozen:
            if not self.is_mutable_collection("batch_stats"):
                raise InputError(
                    "train=True updates the running statistics: call apply(..., mutable=['batch_stats'])"
                    " and keep the variables it returns"
                )
            images = shape[0] if self.norm_scope == "global" else self.norm_scope
            if images * math.prod(shape[1:-1]) == 1 and not self.is_initializing():
                raise InputError(
                    f"{'/'.join(self.path)}: train=True normalises each channel by the one value it has, which leaves"
                    f" nothing of the input {shape}: give more or larger images, or frozen_statistics=True"
                )
            rectified, monotone = activation is relu, activation in (None, relu)
            if isinstance(x, Product):
                rectified, monotone = False, False
                fold = functools.partial(folded, strides=x.strides, epsilon=self.epsilon, dtype=self.dtype)
                y, moments = placed_by_xla(fold, x.x, x.kernel, scale, bias, whole_results=1)
            else:
                normalized = functools.partial(self._normalized, rectified=rectified, pool=pool if monotone else None)
                others = (parts[1:], moments, scale, bias, running_mean.value)
                y, moments = placed_by_xla(normalized, parts[0], *others, whole_results=1)
            if not self.is_initializing():
                means, variances = moments.reshape(2, -1, *channels)
                self._move(running_mean, running_var, means, variances, math.prod(shape[:-1]))
            activation, pool = None if rectified else activation, None if monotone else pool
        else:
            mean, var, moments = running_mean.value, running_var.value, None
            whole = joined(parts)
            whole = whole.astype(jnp.promote_types(whole.dtype, jnp.float32))
            y = ((whole - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.dtype)
        y = y if activation is None else activation(y)
        y = y if pool is None else pool(y)
        return (y, moments) if several else y

    @nn.nowrap
    def _normalized(self, x, more, moments, scale, bias, near, rectified, pool):
        """(y, mean and variance [2, .., 1, 1, 1, C]) of x, and arrays joined to it, by their own statistics.

        `moments` are those of the first channels, if they are known; y is pooled.
        """
        parts, mesh = [x, *more], mesh_of_batch()
        if pool is not None:
            # Normalising keeps the order of values, or with a negative scale turns it round: the largest of a window is
            # known before. Only these are normalised then, and the gradient's sums run over them. The moments are those
            # of the turned values, too, so that of x itself nothing is written down.
            turned = scale < 0
            turn = lambda value: jnp.where(turned, -value, value)  # noqa: E731
            x, near, moments = turn(joined(parts)), turn(near), None
            parts = [x]
        parts = [self._groups(part) for part in parts]
        wides = [widened(part) for part in parts]
        known = [] if moments is None else [moments]
        begin, num_known = 0, 0 if moments is None else moments.shape[-1]
        for part, wide in zip(parts, wides, strict=True):
            end = begin + part.shape[-1]
            if begin >= num_known:
                known.append(moments_of(part, near[begin:end], mesh, faster_forms(), wide))
            begin = end
        moments = joined(known)
        if pool is not None:
            moments = jnp.stack([turn(moments[0]), moments[1]])
            x = turn(pool(x))
            parts = [self._groups(x)]
            wides = [widened(parts[0])]
        shared = (moments, scale, bias, self.epsilon, mesh, rectified, self.dtype)
        y = normalize(parts[0], *shared, wides[0]) if len(parts) == 1 else normalize(parts, *shared, wides)
        return y.reshape(*x.shape[:-1], y.shape[-1]), moments

    @nn.nowrap
    def _groups(self, x):
        """x [N, H, W, C] itself, or as [N / n, n, H, W, C]."""
        if self.norm_scope == "global" or self.is_initializing():
            return x
        if x.shape[0] % self.norm_scope:
            raise InputError(
                f"norm_scope {self.norm_scope}: a batch of {x.shape[0]} images is no multiple of it; choose a"
                " batch_size that is"
            )
        return x.reshape(-1, self.norm_scope, *x.shape[1:])

    @nn.nowrap
    def _move(self, running_mean, running_var, means, variances, n):
        """Moves the running statistics towards those of all groups [G, C] together, of n values a channel."""
        mean, var = means[0], variances[0]
        if len(means) > 1:
            # Measured from the running mean, mean and spread of the groups are sums of one pass: what devices add up
            # for them travels with the gradients, and nothing waits for it.
            offsets = means - running_mean.value
            offset = offsets.mean(0)
            mean = running_mean.value + offset
            var = variances.mean(0) + jnp.maximum(jnp.square(offsets).mean(0) - jnp.square(offset), 0)
        old_mean, old_var = running_mean.value, running_var.value
        if self.has_variable(MOMENTS, "calls"):
            names = ("calls", "mean", "var", "old_mean", "old_var")
            shared: dict[str, nn.Variable] = {name: self.variable(MOMENTS, name) for name in names}
            calls, so_far = shared["calls"].value, shared["mean"].value
            new = 1 / (calls + 1)
            var = (1 - new) * shared["var"].value + new * var + new * (1 - new) * jnp.square(mean - so_far)
            mean = so_far + new * (mean - so_far)
            n = n * (calls + 1)
            shared["calls"].value, shared["mean"].value, shared["var"].value = calls + 1, mean, var
            old_mean, old_var = shared["old_mean"].value, shared["old_var"].value
        stored_var = var * (n / jnp.maximum(n - 1, 1)) if self.unbiased_running_variance else var
        for running, old, new in ((running_mean, old_mean, mean), (running_var, old_var, stored_var)):
            running.value = (self.momentum * old + (1 - self.momentum) * new).astype(running.value.dtype)


def empty_moments(batch_stats: Any) -> Any:
    """The collection `batch_moments` with which several calls make one update of the running statistics.

    Given to each call and taken from it again, beside `batch_stats`, it leaves the running statistics after the last
    call as one call with all the images would: gradient accumulation changes nothing but the scope of normalisation.

    Args:
      batch_stats: the running statistics before the first call.
    """
    if "mean" not in batch_stats:
        inner = {name: inner for name, inner in batch_stats.items() if isinstance(inner, Mapping)}
        return {name: empty_moments(statistics) for name, statistics in inner.items()}
    mean, var = batch_stats["mean"], batch_stats["var"]
    return {
        "calls": jnp.zeros(mean.shape[:-1]),  # scanned blocks have an axis before that of the channels
        "mean": jnp.zeros_like(mean),
        "var": jnp.zeros_like(var),
        "old_mean": mean,
        "old_var": var,
    }
