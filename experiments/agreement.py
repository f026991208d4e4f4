"""What the processes of a run decide together: when to stop, when to save, how many steps to take next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from experiments.interrupt import Interrupted, InterruptRequest
from resjax import train


class Decision(NamedTuple):
    """What comes next.

    Attributes:
      count: steps or batches of the next dispatch.
      save_is_due: whether it is time for a checkpoint.
      signum: signal that asks the run to stop; 0 for none.
    """

    count: int = 1
    save_is_due: bool = False
    signum: int = 0


class Agreement:
    """One process decides by itself. Several vote with each dispatch, and act on the outcome when it is done.

    A vote travels behind its dispatch, so that nobody waits for it: every process learns the same outcome between the
    same two dispatches. Number of steps and time of checkpoints are those of process 0; a signal may come to any.

    Args:
      mesh: all devices.
      request: the signals of this process.
    """

    def __init__(self, mesh: Mesh, request: InterruptRequest):
        self._mesh, self._request = mesh, request
        self._together = jax.process_count() > 1
        self._agreed = Decision()
        self._count = jax.jit(_count_votes, out_shardings=train.replicated(mesh))

    def vote(self, sums: Any, own: Decision) -> tuple[Any, jax.Array | None]:
        """Sends a vote behind the dispatch that computes `sums`; returns `sums`, to go on with, and the outcome."""
        if not self._together:
            return sums, None
        if jax.process_index() > 0:
            own = Decision(0, False)
        ballot = np.array([own.count, own.save_is_due, self._request.signum or 0], np.int32)
        ballots = train.put_batch(np.tile(ballot, (len(self._mesh.local_devices), 1)), self._mesh)
        return self._count(sums, ballots)

    def learn(self, outcome: jax.Array | None) -> None:
        """Takes the outcome of a vote, waiting for it."""
        if outcome is not None:
            count, save_is_due, signum = jax.device_get(outcome).tolist()
            self._agreed = Decision(count, bool(save_is_due), signum)

    def decide(self, own: Decision) -> Decision:
        """What to do next, where `own` is what this process would do."""
        return self._agreed if self._together else own._replace(signum=self._request.signum or 0)

    def saved(self) -> None:
        """A checkpoint was written: none is due any more."""
        self._agreed = self._agreed._replace(save_is_due=False)

    def check(self) -> None:
        """Raises Interrupted if a signal has come, to whichever process."""
        if signum := self.decide(Decision()).signum:
            raise Interrupted(signum)


def _count_votes(sums, ballots):
    # The barrier keeps `sums` behind the votes: two computations that talk to other processes never run at once.
    return lax.optimization_barrier((sums, jnp.max(ballots, 0)))
