"""Records which `raise` statements of the packages run; Python imports this file if its folder is on PYTHONPATH.

A mark is compiled in front of each `raise`. A tracer, as coverage has one, takes two thirds more time on Python 3.11,
because it sees each line of JAX, too. Marks take none until an error is raised, and outlive `os._exit` and kill -9.
"""

import ast
import builtins
import os
import sys
from _thread import allocate_lock
from importlib.machinery import SourceFileLoader

_ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
_PACKAGES = tuple(os.path.join(_ROOT, package, "") for package in ("resjax", "experiments"))
_FOLDER = os.environ.get("RESJAX_RAISED", "")
# Tests replace these, to raise errors.
_open, _write, _close = os.open, os.write, os.close
_source_to_code, _get_code = SourceFileLoader.source_to_code, SourceFileLoader.get_code
_lock = allocate_lock()
_seen: set[str] = set()


class _Marks(ast.NodeTransformer):
    def __init__(self, path: str):
        self._path = path

    def visit_Raise(self, node: ast.Raise) -> list[ast.stmt]:
        mark = ast.Expr(ast.Call(ast.Name("__raised__", ast.Load()), [ast.Constant(f"{self._path}:{node.lineno}")], []))
        return [ast.copy_location(mark, node), node]


def _raised(place: str) -> None:
    if place in _seen:
        return
    _seen.add(place)
    try:  # a file for each process: none waits, and none is large
        file = _open(os.path.join(_FOLDER, str(os.getpid())), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        _write(file, f"{place}\n".encode())
        _close(file)
    except OSError:
        pass


def _is_ours(path) -> bool:
    return os.path.realpath(path).startswith(_PACKAGES)


def _with_marks(self, data, path, *, _optimize=-1):
    if _is_ours(path):
        marks = _Marks(os.path.relpath(os.path.realpath(path), _ROOT))
        data = ast.fix_missing_locations(marks.visit(ast.parse(data, path)))
    return _source_to_code(self, data, path, _optimize=_optimize)


def _get_marked(self, fullname):
    """Bytecode with marks lies in the folder, for the next process, and never beside the source."""
    if not _is_ours(self.path):
        return _get_code(self, fullname)
    with _lock:
        before = sys.pycache_prefix, sys.dont_write_bytecode
        sys.pycache_prefix, sys.dont_write_bytecode = os.path.join(_FOLDER, "bytecode"), False
        try:
            return _get_code(self, fullname)
        finally:
            sys.pycache_prefix, sys.dont_write_bytecode = before


if _FOLDER:
    builtins.__raised__ = _raised
    SourceFileLoader.source_to_code = _with_marks
    SourceFileLoader.get_code = _get_marked
