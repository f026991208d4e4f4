"""How the processes of a run agree on when to stop, when to save, and how many steps to take next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from experiments.runtime.interrupt import Interrupted, InterruptRequest
from resjax import train


class Decision(NamedTuple):
    """What to do next.

    Attributes:
      count: steps or batches of the next dispatch.
      save_is_due: whether a checkpoint is due.
      signum: signal that asks the run to stop; 0 for none.
    """

    count: int = 1
    save_is_due: bool = False
    signum: int = 0


class Agreement:
    """Makes all processes act on one decision. A single process decides by itself; several vote with each dispatch.

    A vote is sent behind its dispatch, so nobody waits for it. Every process learns the same outcome between the same
    two
    dispatches. Process 0 decides the number of steps and the time of checkpoints. A signal may reach any process.

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
        """Sends a vote behind the dispatch that computes `sums`; returns `sums`, to use instead, and the outcome."""
        if not self._together:
            return sums, None
        if jax.process_index() > 0:
            own = Decision(0, False)
        ballot = np.array([own.count, own.save_is_due, self._request.signum or 0], np.int32)
        ballots = train.put_batch(np.tile(ballot, (len(self._mesh.local_devices), 1)), self._mesh)
        return self._count(sums, ballots)

    def learn(self, outcome: jax.Array | None) -> None:
        """Waits for the outcome of a vote and keeps it."""
        if outcome is not None:
            count, save_is_due, signum = jax.device_get(outcome).tolist()
            self._agreed = Decision(count, bool(save_is_due), signum)

    def decide(self, own: Decision) -> Decision:
        """What to do next. `own` is what this process would do by itself."""
        return self._agreed if self._together else own._replace(signum=self._request.signum or 0)

    def saved(self) -> None:
        """Records that a checkpoint was written, so that none is due."""
        self._agreed = self._agreed._replace(save_is_due=False)

    def check(self) -> None:
        """Raises Interrupted if any process has received a signal."""
        if signum := self.decide(Decision()).signum:
            raise Interrupted(signum)


def _count_votes(sums, ballots):
    # The barrier orders `sums` after the votes, so that two computations with communication never run at once.
    return lax.optimization_barrier((sums, jnp.max(ballots, 0)))


_DISPATCH_SECONDS = 2.0


class Pace:
    """Sizes dispatches to about two seconds: signals are noticed soon, and the device never waits for the host."""

    def __init__(self):
        self.count = 1
        """Steps of the next dispatch."""
        self.seconds_per_step: float | None = None
        self.observed = 0
        """Dispatches so far."""

    def observe(self, count: int, seconds: float) -> None:
        """Records that `count` steps took `seconds`."""
        latest = seconds / count
        # The first dispatch also pays for memory that the system hands out: the second one replaces it.
        average = self.seconds_per_step is not None and self.observed > 1
        self.seconds_per_step = (self.seconds_per_step + latest) / 2 if average else latest
        self.observed += 1
        # Grow at most fourfold: one early measurement must not cause a dispatch of minutes.
        self.count = max(1, min(int(_DISPATCH_SECONDS / self.seconds_per_step), 4 * count))
