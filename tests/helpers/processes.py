"""The real command as several processes on this machine: started, watched, signalled."""

import atexit
import functools
import multiprocessing
import os
import pathlib
import re
import socket
import time
from collections.abc import Callable

import jax

from tests.conftest import ROOT
from tests.faults import child

# Processes of a run are forked from one that has imported all they need, where JAX has not started: a start takes a
# fraction of the time.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *("tests.helpers.processes", "tests.helpers.tiny_run", "experiments.programs.cifar"),
        *("orbax.checkpoint", "matplotlib.backends.backend_agg"),
    ]
)

TINY = ("-m", "tests.helpers.tiny_run")
COMMAND = (
    *("-m", "experiments.cifar", "--config", "quickstart", "--model.name", "resnet_8", "--dataset", "cifar10_mini"),
    *("--batch_size", "1000", "--eval_batch_size", "1000", "--epochs", "2"),
)


class ProcessGroup:
    """The command in `count` processes of `devices` CPU devices each, their output in files. A context manager.

    Args:
      workdir: of the run; the files go beside it.
      count, devices: how many.
      flags: more of the command's; "{process}" in them is the number of the process.
      command: `TINY` or `COMMAND`.
      line: the port of process 0 -> the port by which the others reach it.
      largest_file: bytes that a file may have, as on a disk that is full; None: any number.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        count: int,
        devices: int,
        *flags: str,
        command: tuple[str, ...] = TINY,
        line: Callable[[int], int] = lambda port: port,
        largest_file: int | None = None,
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        ports = [self.port, *[line(self.port)] * (count - 1)]
        self._logs = [workdir.with_name(f"{workdir.name}.{i}.log") for i in range(count)]
        self.processes = []
        for i, log in enumerate(self._logs):
            together = ("--coordinator", f"127.0.0.1:{ports[i]}", "--num_processes", str(count), "--process_id", str(i))
            own = [flag.replace("{process}", str(i)) for flag in flags]
            (_, module, *first) = command
            whole = [*first, "--workdir", str(workdir), *own, *(together if count > 1 else ())]
            prepare = functools.partial(_prepare, dict(os.environ), devices, largest_file)
            self.processes.append(_FORKS.Process(target=_run, args=(module, whole, log, prepare)))
            self.processes[-1].start()

    def __enter__(self) -> "ProcessGroup":
        return self

    def __exit__(self, *error) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def log(self, index: int) -> str:
        """What a process has written so far, without what gloo says, and XLA of a compilation that took long."""
        # Gloo's threads write word by word, so that the words of several lines may be mixed.
        gloo = r"(\[Gloo\] Rank |is connected to|peer ranks|Expected number of connected|is :|[\d. ])*\n"
        noise = r"^(\*{9}|E\d{4} .*slow_operation_alarm|\[Compiling|The operation took|\n).*\n?"
        log = self._logs[index]
        return re.sub(f"^{gloo}|{noise}", "", log.read_text() if log.exists() else "", flags=re.MULTILINE)

    def said(self, index: int) -> str:
        """What resjax has said there: `log` without lines of C++ code, which may warn of slow threads at any time."""
        return re.sub(r"^[IWE]\d{4} [\d:.]+ +\d+ [\w.]+:\d+\].*\n?", "", self.log(index), flags=re.MULTILINE)

    def wait_for(self, text: str, index: int = 0, timeout: float = 300) -> None:
        """Returns when a process has written `text`."""
        deadline = time.monotonic() + timeout
        while text not in self.log(index):
            assert self.processes[index].is_alive() and time.monotonic() < deadline, self.log(index)
            time.sleep(0.05)

    def is_alive(self) -> bool:
        """Whether every process runs."""
        return all(process.is_alive() for process in self.processes)

    def kill(self, index: int) -> None:
        """kill -9."""
        self.processes[index].kill()

    def terminate(self, index: int) -> None:
        """SIGTERM."""
        self.processes[index].terminate()

    def send(self, index: int, signum: int) -> None:
        """Any signal."""
        os.kill(self.processes[index].pid, signum)

    def finish(self, timeout: float = 1800) -> list[int]:
        """Exit codes, when all have ended; -N for a signal."""
        deadline = time.monotonic() + timeout
        for i, process in enumerate(self.processes):
            process.join(max(deadline - time.monotonic(), 0.1))
            assert not process.is_alive(), f"process {i} still ran after {timeout:.0f} s\n{self.log(i)}"
        return [process.exitcode for process in self.processes]


def _run(module, arguments, log, prepare) -> None:
    try:
        child.run(module, arguments, log, prepare)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out; JAX's waits for the other processes


def _prepare(environment, devices, largest_file) -> None:
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    jax.config.update("jax_num_cpu_devices", devices)
    if largest_file is not None:
        child.only_files_up_to(largest_file)


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Steps of the complete checkpoints."""
    latest = workdir / "checkpoints" / "latest"
    return sorted(int(path.name) for path in latest.glob("*") if path.name.isdigit()) if latest.exists() else []
