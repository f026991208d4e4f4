"""Gates: which branches and skips of a residual network are open, as arrays that are passed to `apply`."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

Block = TypeVar("Block", bound=nn.Module)


class Gates(struct.PyTreeNode):
    """Factors of the residual sum, x' = after(skip * shortcut(x) + branch * branch(x)), one entry per block.

    Gates are arrays: stochastic depth can draw them, a lesion study can zero them, and `jax.vmap` can map over them.

    Attributes:
      branch: [num_blocks], or [num_blocks, N] with a factor for each image; factors of the residual branches.
      skip: as `branch`, factors of the shortcuts.
      active: [num_blocks], bool; where False the branch counts as zero and is not run at all, so that its running
        statistics are unchanged.
      backward: `branch` and `skip` for the gradients, if they differ from those of the values: a path through the
        network that gradients take, after a forward pass through all of it.

    None leaves all gates of an attribute open; in `backward`, None means the same as forward.

    Example:
      >>> without_second = resjax.Gates(branch=jnp.ones(3).at[1].set(0))
      >>> without_second.times(resjax.Gates(branch=jnp.full(3, 0.5))).branch.tolist()
      [0.5, 0.0, 0.5]
    """

    branch: jax.Array | None = None
    skip: jax.Array | None = None
    active: jax.Array | None = None
    backward: "Gates | None" = None

    def block(self, index: int | slice) -> "Gates":
        """The gates of one block: scalars, or [N]."""
        return jax.tree.map(lambda gate: gate[index], self)

    def times(self, other: "Gates") -> "Gates":
        """Both gates together: the factors are multiplied; a branch is active if it is in both."""
        routed = self.backward is not None or other.backward is not None
        backward = self._gradients().times(other._gradients()) if routed else None
        pairs = ((self.branch, other.branch), (self.skip, other.skip), (self.active, other.active))
        branch, skip, active = (_product(a, b) for a, b in pairs)
        return Gates(branch, skip, active, backward)

    def scale_branch(self, x: jax.Array) -> jax.Array:
        """A block's branch x [N, H, W, C] times its gate, a scalar or [N]."""
        return scale(x, self.branch, None if self.backward is None else self.backward.branch)

    def scale_skip(self, x: jax.Array) -> jax.Array:
        """A block's shortcut x [N, H, W, C] times its gate, a scalar or [N]."""
        return scale(x, self.skip, None if self.backward is None else self.backward.skip)

    def _gradients(self) -> "Gates":
        """The factors of gradients."""
        own = {name: gate for name, gate in vars(self.backward or Gates()).items() if gate is not None}
        return Gates(self.branch, self.skip).replace(**own)


def _product(a, b):
    if a is None or b is None:
        return b if a is None else a
    rank = max(a.ndim, b.ndim)
    a, b = (gate.reshape(gate.shape + (1,) * (rank - gate.ndim)) for gate in (a, b))
    return a * b


def scale(x: jax.Array, gate: jax.Array | None, backward: jax.Array | None = None) -> jax.Array:
    """x [N, H, W, C] times a block's gate, a scalar or [N]; x itself for None. `backward`: the gate of its gradient."""
    if backward is not None:
        routed = scale(x, backward)
        return routed + jax.lax.stop_gradient(scale(x, gate) - routed)
    if gate is None:
        return x
    gate = jnp.asarray(gate, x.dtype)
    return x * (gate if gate.ndim == 0 else gate[:, None, None, None])


def run_if_active(
    branch: Callable[[Block, jax.Array], Any], block: Block, x: jax.Array, like: Any, active: jax.Array | None
) -> Any:
    """branch(block, x), or zeros where the scalar `active` is False; its result has the shapes of `like`.

    An inactive branch is not run (`lax.cond`): it costs nothing, and its running statistics are unchanged.
    """
    if active is None or block.is_initializing():
        return branch(block, x)
    return nn.cond(active, branch, lambda block, x: jax.tree.map(jnp.zeros_like, like), block, x)
