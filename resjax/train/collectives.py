"""Lists the collectives of a compiled program by parsing its HLO."""

import collections
import dataclasses
import math
import re
from typing import Any

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_WHILE = re.compile(r"= .* while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r"(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


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
        return self.times * sum(_BYTES.get(dtype, 4) * math.prod(shape) for dtype, shape in self.shapes)


def collectives(compiled: Any) -> list[Collective]:
    """The collectives of a compiled function, `jax.jit(f).lower(..).compile()`, for all its devices.

    An asynchronous collective counts once. Both branches of a conditional count.
    """
    own, inner, name = collections.defaultdict(list), collections.defaultdict(list), None
    entry = None
    for line in compiled.as_text().splitlines():
        if header := _COMPUTATION.match(line):
            name = header[1]
            entry = name if line.startswith("ENTRY") else entry
            continue
        if found := _COLLECTIVE.search(line):
            shapes = tuple((t, tuple(map(int, s.split(","))) if s else ()) for t, s in _ARRAY.findall(found[1]))
            own[name].append(Collective(found[2], shapes))
        if loop := _WHILE.search(line):
            trips = _TRIPS.search(line)
            inner[name].append((loop[2], int(trips[1]) if trips else 1))
        else:
            called = _CALLED.findall(line)
            if branches := _BRANCHES.search(line):
                called += re.findall(r"[\w.\-]+", branches[1])
            inner[name] += [(callee, 1) for callee in called]

    def walk(name, times):
        for collective in own[name]:
            yield dataclasses.replace(collective, times=times)
        for callee, trips in inner[name]:
            yield from walk(callee, times * trips)

    return list(walk(entry, 1))


def collective_bytes(found: list[Collective]) -> dict[str, int]:
    """Bytes by kind."""
    total: collections.Counter[str] = collections.Counter()
    for collective in found:
        total[collective.kind] += collective.bytes
    return dict(total)
