"""Several residual streams, or the outputs of all earlier blocks, mixed by learned weights inside a stage.

Both rules come from transformers. Here they hold from the first block of a stage to its last, where the shape stays the
same: the first block, which may change it, reads and writes one stream.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers.gates import scale

MIXING = "mixing"
"""Name under which the modules here sow their weights in the collection `intermediates`."""


@dataclasses.dataclass(frozen=True)
class HyperConnections:
    """n residual streams that learned matrices mix at each block (Zhu et al. 2024, arXiv 2409.19606, section 2).

    A block reads sum_i m_i x_i, and stream j becomes sum_i r_ij x_i + b_j branch: m is A_m of the paper, r is A_r, b is
    B. At first r is the identity, b is 1, and block k reads stream k mod n (equation 14), so that the network is the
    one without streams. Different from the paper: the first block of a stage has one stream, and the last streams are
    averaged, not summed, since no normalisation behind them takes the factor n out.

    Attributes:
      count: n, number of streams.
      dynamic: whether each image adds to m, r and b what a linear layer makes of its streams (section 2.2), from
        features that are pooled over the image; the paper has them for each token.
    """

    count: int = 4
    dynamic: bool = False

    def __post_init__(self):
        if not isinstance(self.count, int) or isinstance(self.count, bool) or self.count < 1:
            raise InputError(f"HyperConnections: expected count >= 1, a number of streams, got {self.count!r}")


@dataclasses.dataclass(frozen=True)
class AttentionResiduals:
    """A block reads a softmax mixture of what the earlier blocks of its stage added (Kimi Team 2026, arXiv 2603.15031).

    Block l reads h_l = sum_i a_i v_i over the input v_0 of the stage and the branches v_1 .. v_(l-1), with
    a = softmax_i(w_l . RMSNorm(v_i)) at each pixel. w_l is 0 at first: h_l is then their mean, the plain residual sum
    divided by l. This is the paper's full form, whose memory grows with the blocks of a stage. Different from it: the
    sources are those of the stage, and a last mixture is what the next stage reads.

    Attributes:
      key_epsilon: added to the mean square in RMSNorm.
    """

    key_epsilon: float = 1e-6


Streams = HyperConnections | AttentionResiduals
"""How a stage keeps more than one residual stream."""


class StreamMixing(nn.Module):
    """The weights of one block of `HyperConnections`.

    Variables: params `read` [n], `mix` [n, n], `write` [n]; with `dynamic`, also the kernels of `read_and_mix`
    [C, n + 1] and `write_of_image` [C, 1], 0 at first, and a factor of each, 0.01 at first.

    Streams move up by one place behind each block: all blocks, scanned ones too, then start alike, with the first one
    read, and block k reads what the paper calls stream k mod n.
    """

    rule: HyperConnections

    @nn.compact
    def __call__(self, streams: tuple[jax.Array, ...]) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
        """Maps n streams [N, H, W, C] to what the block reads, what is kept of each stream, and b, n scalars or [N]."""
        n = len(streams)
        read = self.param("read", lambda *_: jnp.zeros(n).at[0].set(1))
        mix = self.param("mix", lambda *_: jnp.eye(n))
        write = self.param("write", nn.initializers.ones, (n,))
        if self.rule.dynamic:
            pooled = jnp.stack([x.astype(jnp.float32).mean((1, 2)) for x in streams], axis=1)
            pooled = nn.LayerNorm(use_bias=False, use_scale=False, name="norm")(pooled)
            of_image = self._tanh(pooled, n + 1, "read_and_mix")
            read, mix = read + of_image[..., 0], mix + of_image[..., 1:]
            write = write + self._tanh(pooled, 1, "write_of_image")[..., 0]
        self.sow("intermediates", MIXING, (read, mix, write))
        kept = [_sum(streams, [mix[..., i, j] for i in range(n)]) for j in range(n)]
        return _sum(streams, [read[..., i] for i in range(n)]), kept, [write[..., j] for j in range(n)]

    @nn.nowrap
    def _tanh(self, pooled: jax.Array, features: int, name: str) -> jax.Array:
        linear = nn.Dense(features, use_bias=False, kernel_init=nn.initializers.zeros, name=name)
        return self.param(f"{name}_factor", nn.initializers.constant(0.01), ()) * jnp.tanh(linear(pooled))


class DepthAttention(nn.Module):
    """The mixture of `AttentionResiduals`. Variables: params `query` [C], 0 at first, and `key_norm/scale` [C]."""

    rule: AttentionResiduals

    @nn.compact
    def __call__(self, sources: tuple[jax.Array, ...]) -> jax.Array:
        """Maps the sources [N, H, W, C] to their mixture [N, H, W, C]."""
        query = self.param("query", nn.initializers.zeros, sources[0].shape[-1:])
        norm = nn.RMSNorm(self.rule.key_epsilon, name="key_norm")
        logits = [norm(source.astype(jnp.float32)) @ query for source in sources]
        weights = jax.nn.softmax(jnp.stack(logits), axis=0)
        self.sow("intermediates", MIXING, weights)
        return sum(w[..., None].astype(x.dtype) * x for w, x in zip(weights, sources, strict=True))


def spread(rule: Streams | None, x: jax.Array) -> Any:
    """What the second block of a stage reads, of the output x [N, H, W, C] of the first."""
    match rule:
        case HyperConnections(count):
            return (x,) * count
        case AttentionResiduals():
            return (x,)
    return x


def merged(rule: Streams | None, streams: Any) -> jax.Array:
    """The output [N, H, W, C] of a stage; called in the module of the stage, whose `merge` the last mixture is."""
    match rule:
        case HyperConnections(count):
            first = streams[0]  # so that the mean of equal streams is each of them, bit for bit
            return first + sum(x - first for x in streams) / count
        case AttentionResiduals():
            return DepthAttention(rule, name="merge")(streams)
    return streams


def _sum(streams, factors):
    return sum(scale(x, factor) for x, factor in zip(streams, factors, strict=True))
