"""Runs pytest, and lists the `raise` statements that no test reached: `python -m tests.helpers.raises -n 2`.

Every error is a promise of a message; one that nothing ever raised in a test has never been read. Several runs are
counted together if RESJAX_RAISED names a folder and PYTHONPATH has `raise_marks`; then `python -m tests.helpers.raises
FOLDER` reports.
"""

import ast
import collections
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from tests.conftest import ROOT

PACKAGES = ("resjax", "experiments")
MARKS = pathlib.Path(__file__).parent / "raise_marks"

ALLOWED: dict[tuple[str, str], str] = {
    ("experiments/benchmarks/torch_networks.py", "torch_network"): "needs PyTorch: tests/parity/test_torch_networks.py",
    ("experiments/benchmarks/torch_networks.py", "_check"): "needs PyTorch: tests/parity/test_torch_networks.py",
    ("resjax/interop/torch_files.py", "_read_torch"): "what PyTorch refuses to read: tests/parity/test_torch_saved.py",
}
"""(file, function) of those that a test of this suite cannot reach, with the reason."""
KNOWN = pathlib.Path(__file__).parent / "unreached_raises.txt"
"""`file: function: text` of those that have no test yet. Whoever writes one takes its line out."""
SLACK = 5  # so many may be reached in one run and not in another, where a machine is slow


def raises(source: str) -> Iterator[tuple[str, int]]:
    """(name of the function, line) of each `raise` of a module that can run: abstract methods are not meant to."""

    def walk(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                yield from walk(child, (*names, child.name))
            elif isinstance(child, ast.Raise):
                if not (child.exc is not None and ast.unparse(child.exc).startswith("NotImplementedError")):
                    yield ".".join(names), child.lineno
            else:
                yield from walk(child, names)

    yield from walk(ast.parse(source), ())


def unreached(reached: Mapping[str, set[int]], root: pathlib.Path = ROOT) -> list[tuple[str, str, int, str]]:
    """(file, function, line, its text) of each `raise` that did not run.

    Args:
      reached: file, relative to `root` -> the lines of the `raise` statements that ran.
      root: the folder of the packages.
    """
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            source, file = path.read_text(), path.relative_to(root).as_posix()
            for function, line in raises(source):
                if line not in reached.get(file, ()):
                    found.append((file, function, line, source.splitlines()[line - 1].strip()))
    return found


def recorded(arguments: Sequence[str], folder: pathlib.Path) -> int:
    """Runs Python with these arguments; its exit code. `folder` receives the places of the `raise` that ran."""
    path = os.pathsep.join(filter(None, (str(MARKS), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"RESJAX_RAISED": str(folder), "PYTHONPATH": path}
    return subprocess.call((sys.executable, *arguments), cwd=ROOT, env=environment)


def read_places(folder: pathlib.Path) -> dict[str, set[int]]:
    """The lines of each file whose `raise` ran in any process that recorded into `folder`."""
    reached = collections.defaultdict(set)
    for file in filter(pathlib.Path.is_file, folder.iterdir()):
        for place in file.read_text().splitlines():
            name, _, line = place.rpartition(":")
            reached[name].add(int(line))
    return dict(reached)


def report(reached: Mapping[str, set[int]]) -> int:
    """Prints each `raise` that was not reached, and is neither known nor allowed; 1 if they are too many, else 0."""
    known = set(KNOWN.read_text().splitlines())
    found = [entry for entry in unreached(reached) if entry[:2] not in ALLOWED]
    names = {f"{file}: {function}: {text}": (file, line) for file, function, line, text in found}
    new = [name for name in names if name not in known]
    for name in new:
        file, line = names[name]
        print(f"{file}:{line}: {name.removeprefix(f'{file}: ')}")
    for name in sorted(known - names.keys()):
        print(f"{KNOWN.name}: has a test now, or is gone: {name}")
    print(f"{len(new)} raises that no test reached, and {len(names) - len(new)} that are known to have no test yet")
    return int(len(new) > SLACK)


def main(arguments: Sequence[str]) -> int:
    """Runs pytest, or reads the folder given; reports. Returns the exit code of pytest, or of `report` if that is 0."""
    if len(arguments) == 1 and pathlib.Path(arguments[0]).is_dir():
        return report(read_places(pathlib.Path(arguments[0])))
    with tempfile.TemporaryDirectory() as folder:
        code = recorded(("-m", "pytest", *arguments), pathlib.Path(folder))
        return code or report(read_places(pathlib.Path(folder)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
