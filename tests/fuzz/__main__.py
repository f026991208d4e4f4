"""Feeds damaged inputs to every reader: `python -m tests.fuzz --cases 10000 --seconds 900`.

Allowed are success, one line of our own error classes, and the exit codes 1 and 2. Not allowed are other exceptions, a
result that differs in silence where the format has a checksum, more than 2 GiB or 20 seconds, a file written outside
of the case's folder, and code that is run. A case is a function of its format and number: it is repeated by the command
that its failure prints.
"""

import argparse
import collections
import contextlib
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile
import time
import unittest.mock

from tests.fuzz.formats import FORMATS
from tests.fuzz.worker import STDERR, serve

SECONDS = 20
"""Of processor time that a case may take; of waiting for anything but a processor, thrice as many."""
_CASES = 1000  # of one process: what libraries keep would be taken for what a case takes
# One arena: each thread's own would take 64 MiB of the address space that is bounded.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
_ALLOWED = ("same", "read", "refused")


class Worker:
    """A process of `tests.fuzz.worker` with its folder."""

    def __init__(self):
        self._scratch = tempfile.TemporaryDirectory(prefix="resjax-fuzz-")
        self._process = None
        self._known: set[str] = set()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=serve, args=(there, self._scratch.name), daemon=True)
        with unittest.mock.patch.dict(os.environ, _ENVIRONMENT):
            self._process.start()
        there.close()
        self._known, self._cases = set(), 0

    def run(self, name: str, number: int) -> tuple[str, str]:
        """The outcome of one case, and why."""
        if self._process is None or not self._process.is_alive() or self._cases == _CASES:
            self.stop()
            self._start()
        self._cases += 1
        if name not in self._known:
            outcome = self._ask((name, number), 600)
            if outcome[0] != "ready":
                return "harness", outcome[1]
            self._known.add(name)
        return self._ask((name, number), SECONDS)

    def _ask(self, order: tuple[str, int], seconds: float) -> tuple[str, str]:
        self._here.send(order)
        started, begun, queued = time.monotonic(), self._processor_seconds(), self._queued_seconds()
        while not self._here.poll(0.2):
            used = self._processor_seconds() - begun
            waited = time.monotonic() - started - (self._queued_seconds() - queued)
            if not self._process.is_alive():
                break
            if used > seconds or waited > 3 * seconds:
                self.stop()
                return "slow", f"{used:.0f} s of processor time, {waited:.0f} s"
        try:
            return self._here.recv()
        except (EOFError, OSError):
            self._process.join()
            code, self._process = self._process.exitcode, None
            name = f", {signal.Signals(-code).name}" if code and code < 0 else ""
            return "died", f"exit code {code}{name}\n{self._printed()}"

    def _printed(self) -> str:
        """The end of what the last process printed."""
        file = pathlib.Path(self._scratch.name) / STDERR
        return file.read_text(errors="replace")[-2000:] if file.exists() else ""

    def _processor_seconds(self) -> float:
        try:
            with open(f"/proc/{self._process.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _queued_seconds(self) -> float:
        """How long its threads have stood in the queue for a processor, which others had: long on a busy machine."""
        queued = 0
        with contextlib.suppress(OSError):  # a thread has ended
            for thread in pathlib.Path(f"/proc/{self._process.pid}/task").iterdir():
                queued += int((thread / "schedstat").read_text().split()[1])
        return queued / 1e9

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def close(self) -> None:
        self.stop()
        self._scratch.cleanup()


def schedule(names: list[str], cases: int, first: int):
    """(format, number) of each case: all formats in turn, those of higher weight more often."""
    total = sum(FORMATS[name].weight for name in names)
    given: collections.Counter[str] = collections.Counter()
    for done in range(1, cases + 1):
        name = max(names, key=lambda name: done * FORMATS[name].weight / total - given[name])
        yield name, first + given[name]
        given[name] += 1


def run(names: list[str], cases: int, seconds: float, first: int = 0, say=print) -> tuple[dict, list[tuple[str, int]]]:
    """Runs cases.

    Returns:
      How many cases of each format had which outcome, and (format, number) of those that are not allowed.
    """
    counts = {name: collections.Counter() for name in names}
    wrong, worker, end = [], Worker(), time.monotonic() + seconds
    try:
        for name, number in schedule(names, cases, first):
            if time.monotonic() > end:
                break
            outcome, why = worker.run(name, number)
            counts[name][outcome] += 1
            if outcome not in _ALLOWED:
                wrong.append((name, number))
                say(f"{outcome}: python -m tests.fuzz --format {name} --case {number}\n{why}", flush=True)
    except KeyboardInterrupt:  # what was done so far counts
        pass
    finally:
        worker.close()
    return counts, wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--format", action="append", choices=sorted(FORMATS), help="these formats alone")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each format")
    parser.add_argument("--case", type=int, help="this case alone, of --format")
    options = parser.parse_args()
    names = options.format or [name for name in FORMATS if FORMATS[name].is_there()]
    cases, first = (options.cases, options.first) if options.case is None else (len(names), options.case)
    started = time.monotonic()
    counts, wrong = run(names, cases, options.seconds, first)
    for name, outcomes in counts.items():
        told = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common())
        print(f"{name:<12}{outcomes.total():>7}  {told}")
    total = sum(outcomes.total() for outcomes in counts.values())
    print(f"{total} cases, {len(wrong)} not allowed, {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
