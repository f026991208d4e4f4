"""The process that reads damaged inputs: bounded in memory, watched for what it writes and runs.

The parent (`tests.fuzz.__main__`) bounds its time, and starts another where one ends.
"""

import contextlib
import hashlib
import importlib
import io
import logging
import os
import random
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from resjax.errors import InputError
from tests.fuzz import mutators

MEMORY = 2 << 30
"""Bytes of address space that a case may take beside what the libraries have taken."""
STDERR = "stderr"
"""The file in the scratch folder that takes what is printed."""
_LONGEST_LINE = 5000


def case_seed(name: str, number: int) -> int:
    """Of the generator of one case."""
    return int.from_bytes(hashlib.sha256(f"{name} {number}".encode()).digest()[:8])


def serve(connection: Connection, scratch: str) -> None:
    """Answers (format, number of a case) with (outcome, why) until None comes."""
    root = Path(scratch)
    for folder in ("case", "cwd", "cache", "whole"):
        (root / folder).mkdir(exist_ok=True)
    (root / "cwd" / f"{mutators.CANARY}.py").write_text("raise SystemExit('the canary was imported')\n")
    os.environ |= {"XDG_CACHE_HOME": str(root / "cache"), "HOME": str(root / "case"), "RESJAX_FUZZ": "1"}
    os.chdir(root / "cwd")
    # What libraries of C print; the parent shows its end where this process dies.
    os.dup2(os.open(root / STDERR, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    sys.path.append(str(root / "cwd"))  # as `python -m` has the current folder on it
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    formats: dict[str, Any] = {}
    watched = _Watched(root)
    while (order := connection.recv()) is not None:
        name, number = order
        if name not in formats:
            formats[name] = _prepared(name, root)
            _limit_memory()
            watched.start()
            connection.send(("ready", ""))
            continue
        try:
            connection.send(_run(formats[name], name, number, root, watched))
        except BaseException:  # a fault of the harness itself
            connection.send(("harness", traceback.format_exc()))


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


class _Watched:
    """Notes what is opened to be written outside of the folder, and what is run."""

    def __init__(self, root: Path):
        self._root, self.wrong, self._active = str(root), [], False
        self._added = False

    def start(self) -> None:
        if not self._added:
            sys.addaudithook(self._seen)
        self._added = True

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        self.wrong, self._active = [], True
        try:
            yield
        finally:
            self._active = False

    def _seen(self, event: str, arguments: tuple) -> None:
        if not self._active:
            return
        if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            path = os.path.realpath(os.fsdecode(arguments[0])) if not isinstance(arguments[0], int) else self._root
            if not path.startswith((self._root, "/dev/null", "/proc/")):
                self.wrong.append(f"wrote {path}")
        elif event == "import" and arguments[0].split(".")[0] == mutators.CANARY:
            self.wrong.append(f"imported {arguments[0]}")
        elif event in ("os.system", "os.exec", "subprocess.Popen", "os.posix_spawn"):
            self.wrong.append(f"ran {arguments!r:.200}")


def _prepared(name: str, root: Path):
    """A format with its sound files and what they hold."""
    from tests.fuzz import formats

    one = formats.FORMATS[name]
    whole = root / "whole" / name
    shutil.rmtree(whole, ignore_errors=True)  # of a process that has ended
    whole.mkdir(parents=True)
    one.make(whole)
    files = {str(path.relative_to(whole)): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    case = root / "case"
    mutators.replace(case, files)
    # Twice: what is loaded and compiled at the first time is not counted as the second's.
    sound = [_digest(one.read(case, random.Random(0))) for _ in range(2)]
    assert sound[0] == sound[1], f"{name}: what is sound is read in two ways"
    return one, files, sound[0]


def _run(prepared, name: str, number: int, root: Path, watched: _Watched) -> tuple[str, str]:
    one, files, sound = prepared
    rng, case = random.Random(case_seed(name, number)), root / "case"
    mutators.replace(case, files)
    is_told = one.mutate(rng, case)
    changed = {file for file, data in files.items() if _content(case / file, len(data)) != data}
    outcome, why = "read", ""
    with watched.watching():
        try:
            found = _digest(one.read(case, rng))
            if found == sound:
                outcome = "same"
            elif is_told and changed and all(one.is_checked(file) for file in changed) and one.may_not_differ(case):
                outcome, why = "differs", f"in silence, with a checksum, of {sorted(changed)}"
        except one.refusals as error:
            outcome = "refused"
            message = str(error)
            if not message.strip() or len(message) > _LONGEST_LINE or "\n" in message.strip():
                outcome, why = "no line", f"{type(error).__name__}: {message[:500]!r}"
        except BaseException:
            outcome, why = "raised", traceback.format_exc()
    if watched.wrong:
        outcome, why = "escaped", "; ".join(watched.wrong)
    left = sorted(path.name for path in (root / "cwd").iterdir() if path.name not in _OF_CWD)
    if left:
        outcome, why = "escaped", f"left {left} in the current folder"
    return outcome, why


_OF_CWD = {f"{mutators.CANARY}.py", "__pycache__"}


def _content(path: Path, size: int) -> bytes | None:
    if not path.is_file() or path.is_symlink() or path.stat().st_size != size:
        return None
    return path.read_bytes()


def _digest(value: Any) -> str:
    content = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, dict):
            for key in part:
                content.update(repr(key).encode("utf-8", "surrogatepass"))
                add(part[key])
        elif isinstance(part, (list, tuple)):
            content.update(b"(")
            for item in part:
                add(item)
        elif hasattr(part, "dtype") and hasattr(part, "shape"):
            array = np.asarray(part)
            content.update(f"{array.dtype}{array.shape}".encode())
            content.update(np.ascontiguousarray(array).tobytes())
        else:
            content.update(repr(part).encode("utf-8", "surrogatepass"))

    add(value)
    return content.hexdigest()


def run_command(module: str, arguments: list[str]) -> Any:
    """Calls a command's `main`; returns its exit code where that is 0.

    Raises:
      InputError: with its last line, for the exit codes 1 and 2.
    """
    main = importlib.import_module(module).main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    if code == 0:
        return 0
    said = (err.getvalue().strip() or out.getvalue().strip()).splitlines()
    if code not in (1, 2) or "Traceback (most recent call last)" in err.getvalue():
        raise AssertionError(f"exit code {code}: {err.getvalue()[-2000:]}")
    raise InputError(next((line for line in said if line.startswith("error: ")), said[0] if said else ""))
