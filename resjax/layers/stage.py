"""A stage: a transition block that may change resolution and width, then blocks of one shape."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from resjax.layers.conv import CONV_OUTPUT
from resjax.layers.cpu.norm import MOMENTS_OF_BATCH
from resjax.layers.gates import Gates
from resjax.layers.norm import MOMENTS
from resjax.layers.pool import max_pool
from resjax.layers.streams import merged, spread

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "convs": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.save_only_these_names(CONV_OUTPUT, MOMENTS_OF_BATCH),
        lambda operation, *_, **__: operation.name in ("reduce_sum", "random_bits"),
    ),
}
"""What a block keeps for its gradient. "full": only its input. "convs": also what costs more than one pass to compute
again: the outputs of its convolutions, their statistics and random bits."""


class StageSpec(NamedTuple):
    """What a stage consists of.

    Attributes:
      transition: the first block, e.g. a `BlockSpec`.
      block: each of the others, which keep the shape.
      num_blocks: number of blocks, the first included.
      pool: whether 3x3 max-pooling with stride 2 comes before them.
    """

    transition: Any
    block: Any
    num_blocks: int
    pool: bool = False


class Stage(nn.Module):
    """The blocks of `spec`, one after another: `block_1`, `block_2`, .. or, scanned, `block_1` and `blocks`.

    Attributes:
      make: constructor of a block from its entry in `spec` and the keyword argument `name`.
      spec: what the stage consists of.
      scan: whether all blocks but the first are one loop (`flax.linen.scan`), their variables stacked along a first
        axis: compile time then does not grow with depth. A scanned block copies what it keeps for its gradient, so
        "none" means "convs" there.
      remat: a name in `REMAT_POLICIES`, or "none": keep all that the gradient needs.
    """

    make: Callable[..., nn.Module]
    spec: StageSpec
    scan: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, gates: Gates, train: bool) -> jax.Array:
        """Maps x [N, H, W, C] through the blocks; `gates` has one entry for each block of the stage."""

        def run(block, x, gates):
            return block(x, gates, train)

        remat = "convs" if self.scan and self.remat == "none" else self.remat
        if remat != "none":
            run = nn.remat(run, policy=REMAT_POLICIES[remat], prevent_cse=not self.scan)
        if self.spec.pool:
            x = max_pool(x)
        x = run(self.make(self.spec.transition, name="block_1"), x, gates.block(0))
        if self.spec.num_blocks == 1:
            return x
        rule = getattr(self.spec.block, "streams", None)
        x = spread(rule, x)
        if self.scan:
            scanned = nn.scan(
                lambda block, x, gates: (run(block, x, gates), None),
                variable_axes={"params": 0, "batch_stats": 0, MOMENTS: 0},
                split_rngs={"params": True, "dropout": True},
                length=self.spec.num_blocks - 1,
            )
            return merged(rule, scanned(self.make(self.spec.block, name="blocks"), x, gates.block(slice(1, None)))[0])
        for i in range(1, self.spec.num_blocks):
            x = run(self.make(self.spec.block, name=f"block_{i + 1}"), x, gates.block(i))
        return merged(rule, x)
