"""Dropout, which says what it lacks."""

import jax
from flax import linen as nn

from resjax.errors import InputError


class Dropout(nn.Dropout):
    """`flax.linen.Dropout`, with one line for a call in training without a key."""

    @nn.compact
    def __call__(self, inputs: jax.Array, deterministic: bool | None = None, rng: jax.Array | None = None) -> jax.Array:
        """As `flax.linen.Dropout`.

        Raises:
          InputError: where it draws and `apply` got no rngs={"dropout": key}.
        """
        if self.rate > 0 and not nn.merge_param("deterministic", self.deterministic, deterministic) and rng is None:
            require_key(self, f"dropout_rate={self.rate}")
        return super().__call__(inputs, deterministic, rng)


def require_key(module: nn.Module, what: str) -> None:
    """Raises InputError unless `module` has a key "dropout", which `what` draws from."""
    if not (module.has_rng("dropout") or module.is_initializing()):
        raise InputError(f"{what} with train=True draws: pass rngs={{'dropout': key}}")
