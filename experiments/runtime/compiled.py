"""What a compiled program needs: memory, operations, bytes that its kernels move, and what its devices send.

A GPU's compiler counts neither operations nor bytes, so they are counted here from the text of the scheduled program.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.runtime.targets import Chip
from resjax.train.collectives import Collective, collectives
from resjax.train.hlo import Instruction, dimensions, read_hlo

_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
# Of a dot, and of cuBLAS's in JSON.
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d,"]*)')
# These move nothing: they name, group or wait.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "domain", "add-dependency"),
}


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a compiled program needs on each device, and the least time that it takes.

    Attributes:
      peak: bytes of memory at most.
      temporaries: bytes of memory besides arguments and results.
      flops: floating-point operations; on a GPU those of convolutions and matrix products.
      bytes: bytes read and written by its kernels. A loop of unknown length counts once.
      kernels: number of kernels that are started.
      collectives: what the devices send to each other.
    """

    peak: int
    temporaries: int
    flops: float
    bytes: float
    kernels: int
    collectives: tuple[Collective, ...] = ()

    def bound(self, chip: Chip, dtype: str) -> float:
        """The roofline's seconds: no program with these operations and bytes takes less on this chip."""
        return max(self.flops / getattr(chip, dtype), self.bytes / chip.bandwidth)

    def to_json(self) -> dict[str, float]:
        """The numbers, without the collectives."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "collectives"}


def allocated_bytes(compiled: Any) -> int:
    """Bytes that a compiled function allocates on each device: arguments, results and temporaries."""
    memory = compiled.memory_analysis()
    in_use = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return in_use + memory.temp_size_in_bytes


def needs(compiled: Any) -> Needs:
    """Reads a compiled function, `jax.jit(f).lower(..).compile()`, of any device."""
    memory, text = compiled.memory_analysis(), compiled.as_text()
    program = Program(text)
    analysis = compiled.cost_analysis() or {}
    allocated = allocated_bytes(compiled)
    # The first JAX with a peak is 0.8.
    peak = getattr(memory, "peak_memory_in_bytes", 0) or allocated
    counted = {"flops": program.flops, "bytes": program.bytes}
    if "bytes accessed" in analysis:
        counted = {"flops": analysis["flops"], "bytes": analysis["bytes accessed"]}
    return Needs(
        peak=max(peak, allocated - memory.temp_size_in_bytes),
        temporaries=memory.temp_size_in_bytes,
        kernels=program.kernels,
        collectives=tuple(collectives(compiled)),
        **counted,
    )


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of a program: name, bytes read and written, floating-point operations, and how often it runs."""

    name: str
    bytes: float
    flops: float
    times: int


class Program:
    """A compiled program, read from HLO's text form.

    Args:
      text: `compiled.as_text()`.
    """

    def __init__(self, text: str):
        self._computations, self._roots, self._entry = read_hlo(text)

    @property
    def bytes(self) -> float:
        """Bytes read and written by all kernels."""
        return sum(kernel.times * kernel.bytes for kernel in self.all_kernels)

    @property
    def flops(self) -> float:
        """Floating-point operations of all convolutions and matrix products; a multiply-add is two."""
        return sum(kernel.times * kernel.flops for kernel in self.all_kernels)

    @property
    def kernels(self) -> int:
        """Number of kernels that are started."""
        return sum(kernel.times for kernel in self.all_kernels)

    @functools.cached_property
    def all_kernels(self) -> list[Kernel]:
        """The kernels in the order of the program; of a conditional, those of the branch that moves the most."""
        return list(self._kernels(self._entry, 1))

    def _kernels(self, name: str, times: int) -> Iterator[Kernel]:
        for each in self._computations[name].values():
            if each.operation in _FREE or each.operation.endswith(("-done", "-update")):
                continue
            if each.operation == "while":
                yield from self._kernels(each.callee, times * each.trips)
            elif each.operation == "conditional":
                branches = [list(self._kernels(branch, times)) for branch in each.branches]
                yield from max(branches, key=lambda kernels: sum(kernel.times * kernel.bytes for kernel in kernels))
            elif each.operation in ("call", "async-start"):
                yield from self._kernels(each.callee, times)
            else:
                yield Kernel(each.name, self._moved(name, each), self._flops(name, each), times)

    def _moved(self, name: str, each: Instruction) -> float:
        """Bytes that a kernel reads and writes."""
        known = self._computations[name]
        operands = [known[operand] for operand in each.operands if operand in known]
        if each.operation.endswith("-start"):  # its results repeat its operands
            return 2 * sum(operand.bytes for operand in operands)
        if each.operation != "fusion":
            return self._written(known, each) + sum(
                self._read_by(operand, each, place) for place, operand in enumerate(operands)
            )
        fused = each.callee
        inside = self._computations[fused]
        parameters = {int(i.operands[0]): i for i in inside.values() if i.operation == "parameter"}
        needed: dict[str, float] = {}
        sources = [parameters[place] for place in range(len(operands))]
        read = sum(self._needed(inside, each, self._roots[fused], needed) * each.bytes for each in sources)
        return read + self._written(inside, self._roots[fused])

    def _needed(
        self, inside: Mapping[str, Instruction], source: Instruction, root: Instruction, known: dict[str, float]
    ) -> float:
        """Fraction of a value inside a fusion that is read or written; `known` has those that are found.

        A slice needs only its own elements, also of what was computed elementwise before it.
        """
        if source.name not in known:
            total = float(source.name == root.name)
            for user in inside.values():
                for place, operand in enumerate(user.operands):
                    if operand != source.name or user.operation == "parameter":
                        continue
                    if user.operation == "tuple":  # an argument that is handed on is not read
                        total += source.operation != "parameter"
                        continue
                    part = self._read_by(source, user, place) / max(source.bytes, 1)
                    wanted = self._needed(inside, user, root, known)
                    # Of sums or an array that is padded, which elements those are is not followed.
                    total += part * wanted if part < 1 or user.elements == source.elements else wanted > 0
            known[source.name] = min(total, 1.0)
        return known[source.name]

    @staticmethod
    def _read_by(source: Instruction, user: Instruction, place: int) -> float:
        if place == 0 and user.operation in ("dynamic-slice", "slice", "gather"):
            return user.bytes
        if place == 0 and user.operation in ("dynamic-update-slice", "scatter"):  # written in place
            return 0
        return source.bytes

    def _written(self, inside: Mapping[str, Instruction], root: Instruction) -> float:
        """Bytes that are written for a result: of one that is updated in place, the update."""
        if root.operation == "tuple":
            return sum(self._written(inside, inside[operand]) for operand in root.operands)
        if root.operation == "bitcast" and root.operands[0] in inside:
            return self._written(inside, inside[root.operands[0]])
        place = {"dynamic-update-slice": 1, "scatter": 2}.get(root.operation)
        if place is not None and root.operands[place] in inside:
            return inside[root.operands[place]].bytes
        return root.bytes

    def _flops(self, name: str, each: Instruction) -> float:
        """Operations of the convolutions and matrix products in a kernel."""
        known = self._computations[name]
        if each.operation == "fusion":
            return sum(self._flops(each.callee, inner) for inner in self._computations[each.callee].values())
        operands = [known[operand].shapes[0][1] for operand in each.operands if operand in known]
        if each.operation == "convolution" or "__cudnn$conv" in each.rest:
            return _convolution_flops(each, operands)
        if each.operation == "dot" or "__cublas" in each.rest:
            contracted = _CONTRACTED.search(each.rest)
            axes = dimensions(contracted[1].replace('"', "")) if contracted else ()
            return 2 * math.prod(each.shapes[0][1]) * math.prod(operands[0][axis] for axis in axes)
        return 0


def _convolution_flops(each: Instruction, operands: list[tuple[int, ...]]) -> float:
    """Twice the multiply-adds: for each forward output, the kernel of one output channel."""
    result, labels = each.shapes[0][1], _LABELS.search(each.rest)
    # cuDNN's gradients are described as their forward convolution.
    if "convBackwardFilter" in each.rest:
        output, kernel = operands[1], result
    elif "convBackwardInput" in each.rest:
        output, kernel = operands[0], operands[1]
    else:
        output, kernel = result, operands[1]
    return 2 * math.prod(output) * math.prod(kernel) / kernel[labels[2].index("o")]
