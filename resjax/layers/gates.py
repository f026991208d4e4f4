"""Gates: which branches and skips of a residual network are open, as arrays that are passed to `apply`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from resjax.errors import InputError


@struct.dataclass
class Gates:
    """Factors of the residual sum, x' = after(skip * shortcut(x) + branch * branch(x)), one entry per block.

    Arrays, so that stochastic depth can draw them, a lesion study zero them, and `jax.vmap` map over them.

    Attributes:
      branch: [num_blocks], or [num_blocks, N] with a factor for each image; factors of the residual branches.
      skip: as `branch`, factors of the shortcuts.
      active: [num_blocks], bool; where False the branch counts as zero and is not run at all, so that its running
        statistics stay as they are.
      backward: factors of the gradients alone, its `branch` and `skip`, where they are not those of the values: a path
        through the network that gradients take, behind a forward pass through all of it.

    None leaves all of an attribute's gates open; in `backward`, as they are forward.
    """

    branch: jax.Array | None = None
    skip: jax.Array | None = None
    active: jax.Array | None = None
    backward: "Gates | None" = None

    def check(self, num_blocks: int, images: int) -> None:
        """Raises InputError unless each array given has shape [num_blocks] or, where allowed, [num_blocks, images]."""
        given = [("branch", self.branch), ("skip", self.skip), ("active", self.active)]
        if self.backward is not None:
            if not isinstance(self.backward, Gates):
                raise InputError(f"gates.backward: expected resjax.Gates, got {type(self.backward).__name__}")
            if self.backward.active is not None or self.backward.backward is not None:
                raise InputError("gates.backward: takes branch and skip alone")
            given += [("backward.branch", self.backward.branch), ("backward.skip", self.backward.skip)]
        for name, gate in given:
            if gate is None:
                continue
            shape, allowed = getattr(gate, "shape", ()), f"({num_blocks},), one entry per residual block"
            if name != "active":
                allowed += f", or ({num_blocks}, {images}), one for each image too"
            if shape != (num_blocks,) and (name == "active" or shape != (num_blocks, images)):
                raise InputError(
                    f"gates.{name}: expected an array of shape {allowed}; got {shape if shape else repr(gate)}"
                )
            if name == "active" and gate.dtype != bool:
                raise InputError(f"gates.active: expected bool, got {gate.dtype}")

    def block(self, index: int) -> "Gates":
        """The gates of one block: scalars, or [N]."""
        return jax.tree.map(lambda gate: gate[index], self)

    def times(self, other: "Gates") -> "Gates":
        """Both gates at once: factors multiplied, active where both are."""

        def product(a, b, operation):
            return b if a is None else a if b is None else operation(a, b)

        routed = self.backward is not None or other.backward is not None
        return Gates(
            product(self.branch, other.branch, _multiply),
            product(self.skip, other.skip, _multiply),
            product(self.active, other.active, jnp.logical_and),
            self._gradients().times(other._gradients()) if routed else None,
        )

    def scale_branch(self, x: jax.Array) -> jax.Array:
        """A block's branch x [N, H, W, C] times its gate, a scalar or [N]."""
        return scale(x, self.branch) if self.backward is None else _route(x, self.branch, self.backward.branch)

    def scale_skip(self, x: jax.Array) -> jax.Array:
        """A block's shortcut x [N, H, W, C] times its gate, a scalar or [N]."""
        return scale(x, self.skip) if self.backward is None else _route(x, self.skip, self.backward.skip)

    def _gradients(self) -> "Gates":
        """The factors of gradients."""
        backward = self.backward if self.backward is not None else Gates()
        return Gates(
            self.branch if backward.branch is None else backward.branch,
            self.skip if backward.skip is None else backward.skip,
        )


def _multiply(a, b):
    rank = max(a.ndim, b.ndim)
    a, b = (gate.reshape(gate.shape + (1,) * (rank - gate.ndim)) for gate in (a, b))
    return a * b


def scale(x: jax.Array, gate: jax.Array | None) -> jax.Array:
    """x [N, H, W, C] times a block's gate, a scalar or [N]; x itself for None."""
    if gate is None:
        return x
    gate = jnp.asarray(gate, x.dtype)
    return x * (gate if gate.ndim == 0 else gate[:, None, None, None])


def _route(x, gate, backward):
    """The value of scale(x, gate), with the gradient of scale(x, backward); of one factor where there is no other."""
    if backward is None:
        return scale(x, gate)
    routed = scale(x, backward)
    return routed + jax.lax.stop_gradient(scale(x, gate) - routed)


def run_if_active(
    branch: Callable[[nn.Module, jax.Array], Any],
    block: nn.Module,
    x: jax.Array,
    like: Any,
    active: jax.Array | None,
) -> Any:
    """branch(block, x), or zeros where the scalar `active` is False; its result has the shapes of `like`.

    An inactive branch is not run (`lax.cond`): it costs nothing, and its running statistics stay as they are.
    """
    if active is None or block.is_initializing():
        return branch(block, x)
    return nn.cond(active, branch, lambda block, x: jax.tree.map(jnp.zeros_like, like), block, x)
