"""A run in processes of its own: signalled, killed, out of disk space, and resumed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.configs.cifar import CONFIGS
from resjax import train
from tests.conftest import ROOT
from tests.helpers import problem
from tests.helpers.processes import TINY, saved_steps
from tests.helpers.tiny_run import build

pytestmark = pytest.mark.many_steps

COMMAND = (sys.executable, *TINY, "--epochs", "3")

# A checkpoint is larger than this: its write fails, as on a disk that is full.
NO_LARGE_FILES = (
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
    "os.execv(sys.executable, sys.argv[1:])"
)


def _start(workdir, prefix=()) -> subprocess.Popen:
    command = (*prefix, *COMMAND, "--workdir", str(workdir))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **pipes)


def _finish(process) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def _wait_for_epochs(workdir, process, count: int) -> None:
    """Returns when metrics.jsonl has `count` lines."""
    file = workdir / "metrics.jsonl"
    while not file.exists() or file.read_text().count("\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def _final_state(workdir):
    with train.Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(problem.new_state(*build())).state


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    assert _finish(_start(workdir))[0] == 0
    return _final_state(workdir)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_how_to_resume_and_the_resumed_run_ends_with_the_same_bits(tmp_path, uninterrupted, signum):
    process = _start(tmp_path)
    _wait_for_epochs(tmp_path, process, 1)
    process.send_signal(signum)
    code, out, _ = _finish(process)
    assert code == 128 + signum
    assert f"stopped by {signal.Signals(signum).name} at step" in out and "run the same command again" in out
    code, out, _ = _finish(_start(tmp_path))
    assert code == 0 and "resuming at step" in out
    problem.assert_same_bits(_final_state(tmp_path), uninterrupted)


def test_killed_then_out_of_disk_space_then_resumed_ends_with_the_same_bits(tmp_path, uninterrupted):
    process = _start(tmp_path)
    _wait_for_epochs(tmp_path, process, 1)
    while not saved_steps(tmp_path):  # written in the background
        time.sleep(0.05)
    process.kill()
    process.communicate()

    code, _, err = _finish(_start(tmp_path, prefix=(sys.executable, "-c", NO_LARGE_FILES)))
    assert code == 1
    assert err.count("\n") == 1 and "File too large" in err
    assert "could not save a checkpoint in" in err and "The last good checkpoint is of step" in err
    code, out, _ = _finish(_start(tmp_path))
    assert code == 0 and "resuming at step" in out
    problem.assert_same_bits(_final_state(tmp_path), uninterrupted)


def test_the_quickstart_named_in_the_readme_is_the_one_tested_here():
    assert CONFIGS["quickstart"].config.optimizer.nesterov and "--config quickstart" in (ROOT / "README.md").read_text()
