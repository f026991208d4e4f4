"""Runs of other kinds than images in memory in one process: photographs with workers, and two processes."""

import contextlib
import os
import pathlib
import signal
import socket
import time

import experiments.programs.imagenet  # noqa: F401 imported once, see the harness
from tests.faults.child import Child
from tests.faults.harness import NETWORK, Act, Harness
from tests.helpers.photographs import write_folder

_ENDS_WITHIN = 60.0
"""Seconds in which the others end when one process of a run has died."""


class Photographs(Harness):
    """A run whose images are decoded by a worker process."""

    COMMAND = "experiments.imagenet"
    FLAGS = (
        *(*NETWORK, "--epochs", "3", "--image_size", "16", "--eval_resize", "18", "--eval_size", "16"),
        *("--batch_size", "8", "--eval_batch_size", "8", "--workers", "1", "--checkpoint_minutes", "0.001"),
    )

    def _write_data(self, path: pathlib.Path) -> pathlib.Path:
        return write_folder(path, 12)

    def _possible(self) -> dict[str, tuple[Act, int]]:
        return {
            "loader worker killed": (self._killed_worker, 3),
            "kill -9 with a loader worker": (lambda: self._signal(signal.SIGKILL), 1),
        }

    def _killed_worker(self) -> None:
        one = self._start()
        while one.is_alive() and not one.workers():
            time.sleep(0.01)
        time.sleep(self._draw.uniform(0, self._duration))
        killed = [pid for pid in one.workers() if _is_loader(pid)]
        if killed:
            _kill(self._draw.choice(killed))
        if self._ended(one, 0, 1):
            self._check("the input pipeline stopped" in one.text, "it is not said what has stopped", one)


class TwoProcesses(Harness):
    """A run of two processes over the loopback."""

    def _possible(self) -> dict[str, tuple[Act, int]]:
        return {"dead peer of two processes": (self._dead_peer, 1)}

    def _start_both(self) -> list[Child]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        together = ("--coordinator", coordinator, "--num_processes", "2", "--process_id")
        return [self._start(flags=(*together, str(i)), name=name) for i, name in enumerate(("", ".other"))]

    def _finish(self, what: str) -> None:
        both = self._start_both()
        codes = [one.wait() for one in both]
        self._check(codes == [0, 0], f"{what}: exit codes {codes}", *both)

    def _dead_peer(self) -> None:
        both = self._start_both()
        # Before they have found each other, one waits for the other, which may yet be started.
        while both[0].is_alive() and "workdir " not in both[0].text:
            time.sleep(0.01)
        time.sleep(self._draw.uniform(0, self._duration / 2))
        dead = self._draw.randrange(2)
        both[dead].send(signal.SIGKILL)
        died, other = time.monotonic(), both[1 - dead]
        while other.is_alive() and time.monotonic() - died < _ENDS_WITHIN:
            time.sleep(0.1)
        late = other.is_alive()
        for one in both:
            one.send(signal.SIGKILL)
        both[dead].wait()
        self._check(
            not late, f"process {1 - dead} was still running {_ENDS_WITHIN:g} s after the other had died", other
        )
        if other.wait() == -signal.SIGABRT:  # JAX, which nobody can stop, was faster than our own watch
            self._check("another task died" in other.text, "the reason is not said", other)
        elif self._ended(other, 0, 1):
            self._check("Run the same commands again" in other.text, "the way out is not said", other)


def _is_loader(pid: int) -> bool:
    """Whether a process is one of Python's workers, and not the one that tracks their resources."""
    try:
        return b"spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
