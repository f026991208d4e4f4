"""Lists the collectives of a compiled program."""

import collections
import dataclasses
import math
from typing import Any

from resjax.train.hlo import array_bytes, read_hlo

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation of a compiled program.

    Attributes:
      kind: one of `KINDS`.
      shapes: (dtype, shape) of each result on one device.
      times: how often it runs. Each iteration of a loop counts; a loop of unknown length counts once.
    """

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    times: int = 1

    @property
    def bytes(self) -> int:
        """Bytes of the results on one device, over all runs of it."""
        return self.times * math.ceil(array_bytes(self.shapes))


def collectives(compiled: Any) -> list[Collective]:
    """The collectives of a compiled function, `jax.jit(f).lower(..).compile()`, for all its devices.

    An asynchronous collective counts once. Both branches of a conditional count.
    """
    program = read_hlo(compiled.as_text())

    def walk(name, times):
        for each in program.instructions[name].values():
            kind = each.operation.removesuffix("-start")
            if kind in KINDS:
                yield Collective(kind, each.shapes, times)
            for callee in (*each.branches, *filter(None, [each.callee])):
                yield from walk(callee, times * each.trips)

    return list(walk(program.entry, 1))


def collective_bytes(found: list[Collective]) -> dict[str, int]:
    """Bytes by kind."""
    total: collections.Counter[str] = collections.Counter()
    for collective in found:
        total[collective.kind] += collective.bytes
    return dict(total)
