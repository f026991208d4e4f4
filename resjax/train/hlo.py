"""Reads the text of a compiled program, in HLO: its computations, and which of them each instruction runs."""

import dataclasses
import math
import re
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
# The first word with a parenthesis is the operation: shapes have none, and layouts have no space before theirs.
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLS = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:true_computation|false_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
_WIDTHS = {"pred": 8, "token": 0, "opaque": 0}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program.

    Attributes:
      name, operation: `%NAME = f32[8] OPERATION(...)`.
      shapes: dtype and dimensions of each result.
      operands: names of the operands; of a parameter and a constant the text in parentheses.
      rest: the line behind the operands.
    """

    name: str
    operation: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    operands: tuple[str, ...]
    rest: str

    @property
    def bytes(self) -> float:
        """Bytes of the results."""
        return array_bytes(self.shapes)

    @property
    def elements(self) -> int:
        """Number of elements of the results."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    @property
    def callee(self) -> str | None:
        """The computation that a fusion, a call or a reduction applies, or the body of a loop."""
        found = _BODY.search(self.rest) or _CALLS.search(self.rest)
        return found[1] if found else None

    @property
    def trips(self) -> int:
        """How often the body of a loop runs; 1 where that is not known, and of other instructions."""
        found = _TRIPS.search(self.rest)
        return int(found[1]) if found else 1

    @property
    def branches(self) -> list[str]:
        """The computations that a conditional chooses from."""
        return [
            name for one, several in _BRANCHES.findall(self.rest) for name in re.findall(r"[\w.\-]+", one or several)
        ]


class Computations(NamedTuple):
    """A program: instructions by name in each computation, the root of each, and the name of the first to run."""

    instructions: dict[str, dict[str, Instruction]]
    roots: dict[str, Instruction]
    entry: str


def read_hlo(text: str) -> Computations:
    """Reads `compiled.as_text()`."""
    instructions: dict[str, dict[str, Instruction]] = {}
    roots: dict[str, Instruction] = {}
    entry = name = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[2]
            instructions[name] = {}
            entry = name if header[1] else entry
        elif name and (found := _INSTRUCTION.match(line)):
            inside, rest = _inside(found[5])
            shapes = tuple((t, dimensions(s)) for t, s in _ARRAY.findall(found[3]))
            operands = (inside,) if found[4] in ("parameter", "constant") else tuple(_NAME.findall(inside))
            instruction = Instruction(found[2], found[4], shapes, operands, rest)
            instructions[name][found[2]] = instruction
            if found[1]:
                roots[name] = instruction
    return Computations(instructions, roots, entry)


def array_bytes(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> float:
    """Bytes of arrays, (dtype, dimensions) each. An element of f32 has 4, of f8e4m3fn 1, of s4 half of one."""
    total = 0.0
    for dtype, shape in shapes:
        bits = _WIDTHS.get(dtype)
        total += (int(re.search(r"\d+", dtype)[0]) if bits is None else bits) / 8 * math.prod(shape)  # type: ignore[index]
    return total


def dimensions(text: str) -> tuple[int, ...]:
    """The numbers of `8,3,3`."""
    return tuple(map(int, text.split(","))) if text else ()


def _inside(text: str) -> tuple[str, str]:
    """The text up to the parenthesis that closes, and behind it."""
    depth = 1
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[:place], text[place + 1 :]
    return text, ""
