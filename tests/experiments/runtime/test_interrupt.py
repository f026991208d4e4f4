"""The first signal is a request, which is acknowledged at once; a second Ctrl-C waits for nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.runtime.interrupt import Interrupted, InterruptRequest
from tests.conftest import ROOT

# time.sleep goes on after a handler, as a long step does.
REQUEST = (
    "import time; from experiments.runtime.interrupt import InterruptRequest\n"
    "with InterruptRequest():\n    print('ready', flush=True); time.sleep(60)"
)
IN_CALLBACK = """
import gc, os, signal, time
from experiments.runtime.exit_codes import exit_code

def interrupted(*arguments):
    gc.callbacks.remove(interrupted)
    os.kill(os.getpid(), signal.SIGINT)

def command():
    gc.callbacks.append(interrupted)
    gc.collect()
    time.sleep(20)

raise SystemExit(exit_code(command, "nothing was written"))
"""

SWALLOW = """
import time
from experiments.runtime.exit_codes import exit_code
def command():
    print('ready', flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
raise SystemExit(exit_code(command, kept="nothing was written"))
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_kept_until_it_is_looked_at_and_acknowledged(signum, capfd):
    before = signal.getsignal(signum)
    with InterruptRequest() as request:
        request.check()
        os.kill(os.getpid(), signum)
        assert request.signum == signum
        with pytest.raises(Interrupted) as stopped:
            request.check()
        deadline = time.monotonic() + 10
        while not (said := capfd.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert said == "stopping after this step; Ctrl-C again: stop now\n"
    assert stopped.value.exit_code == 128 + signum
    assert signal.getsignal(signum) is before


@contextlib.contextmanager
def _start(*command):
    """The process, which does not outlive a test that fails."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_second_ctrl_c_stops_in_the_middle_of_a_step():
    with _start("-c", REQUEST) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "stopping after this step; Ctrl-C again: stop now\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read() == "stopped by Ctrl-C; the newest checkpoint on disk stays good\n"


def test_ctrl_c_that_a_library_swallows_still_ends_the_command():
    with _start("-c", SWALLOW) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == "stopped by Ctrl-C; nothing was written\n"


def test_ctrl_c_in_a_callback_of_the_garbage_collector_ends_the_command_in_one_line():
    with _start("-c", IN_CALLBACK) as process:
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == "stopped by Ctrl-C; nothing was written\n"


@pytest.mark.parametrize(
    ("imported", "flag", "kept"),
    [
        ("experiments", "--help", "nothing was running"),
        ("jax.numpy", "--dry_run", "nothing was saved since the last checkpoint"),
    ],
)
def test_ctrl_c_while_a_command_is_imported_ends_in_one_line(imported, flag, kept):
    with _start("-X", "importtime", "-m", "experiments.cifar", "--config", "resnet_20", flag) as process:
        while not (line := process.stderr.readline()).rstrip().endswith(f" {imported}"):
            assert line
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "Traceback" not in rest and rest.endswith(f"stopped by Ctrl-C; {kept}\n")
