"""The training command in a process of its own, forked from one that has imported it: a start takes a fraction."""

import contextlib
import ctypes
import hashlib
import importlib
import json
import multiprocessing
import os
import pathlib
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax
import numpy as np

from experiments.runtime.interrupt import end_quietly

_FORK = multiprocessing.get_context("fork")
SECONDS = 900
"""After so many seconds a process counts as hanging."""
_DAC_OVERRIDE = 1 << 1


class Child:
    """A run of a training command, whose output goes to a file.

    Args:
      arguments: its command line.
      log: the file, replaced.
      prepare: called in the process before the command.
      command: the command's module.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: pathlib.Path,
        prepare: Callable[[], None] = lambda: None,
        command: str = "experiments.cifar",
    ):
        self._log = log
        log.unlink(missing_ok=True)
        self._process = _FORK.Process(target=run, args=(command, list(arguments), log, prepare))
        before = signal.signal(signal.SIGINT, end_quietly)  # as `python -m experiments.cifar` begins
        self._process.start()
        signal.signal(signal.SIGINT, before)
        self.pid = self._process.pid

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send(self, signum: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.is_alive():
            os.kill(self.pid, signum)

    def wait(self) -> int:
        """The exit code, as a shell's -N for a signal; raises AssertionError if the process hangs."""
        self._process.join(SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            raise AssertionError(f"it was still running after {SECONDS} s")
        return self._process.exitcode

    def workers(self) -> list[int]:
        """The processes that it has started."""
        with contextlib.suppress(OSError):  # it has ended
            tasks = pathlib.Path(f"/proc/{self.pid}/task").iterdir()
            return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
        return []

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def run(command: str, arguments: list[str], log: pathlib.Path, prepare: Callable[[], None]) -> NoReturn:
    """What a forked process does, see `Child`."""
    from experiments.runtime.exit_codes import leave

    # Its worker processes would import what the harness is.
    sys.modules["__main__"].__spec__ = sys.modules["__main__"].__file__ = None
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    prepare()
    leave(importlib.import_module(command).main(arguments))


def only_files_up_to(size: int) -> None:
    """Writes beyond `size` bytes of a file fail, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def obey_permissions() -> None:
    """Takes away root's right to write where permissions forbid it; for others nothing changes."""
    libc, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        sets[0] &= ~_DAC_OVERRIDE
        if libc.capset(header, sets) != 0:
            raise OSError("capset failed")


def keep_state(engine: type, file: pathlib.Path) -> None:
    """Makes a run that ends well write a digest of each array of its final state."""
    train = engine.run

    def run(self):
        state = train(self)
        leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state))
        digests = {jax.tree_util.keystr(path): hashlib.sha256(leaf.tobytes()).hexdigest() for path, leaf in leaves}
        file.write_text(json.dumps(digests))
        return state

    engine.run = run


def at_call(owner: object, name: str, number: int, act: Callable[[], None]) -> None:
    """Makes `act` run before the call `number`, from 1, of a function."""
    function, calls = getattr(owner, name), 0

    def counted(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == number:
            act()
        return function(*arguments, **options)

    setattr(owner, name, counted)


def signal_itself(signum: int) -> Callable[[], None]:
    """Sends the process a signal, from whatever thread."""

    def send():
        os.kill(os.getpid(), signum)
        if signum == signal.SIGKILL:
            time.sleep(60)

    return send


def write_images(file: pathlib.Path, number: int = 192) -> None:
    """An .npz of small images whose brightness tells their label: `number` to train on, and 48 to test."""
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.arange(number + 48) % 4)
    images = (draw.integers(0, 50, (number + 48, 8, 8, 3)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    parts = {"train": slice(0, number), "test": slice(number, number + 48)}
    arrays = {f"{name}_images": images[part] for name, part in parts.items()}
    np.savez(file, **arrays, **{f"{name}_labels": labels[part] for name, part in parts.items()})


def lasting(workdir: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl without the times; raises ValueError for a line that is no JSON."""

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=refuse) for line in lines]
    return [{key: value for key, value in record.items() if "second" not in key} for record in records]
