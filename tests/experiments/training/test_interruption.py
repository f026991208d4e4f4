"""A run in processes of its own: signalled, killed, out of disk space, and resumed."""

import re
import signal
import time

import pytest

from experiments.configs.cifar import CONFIGS
from resjax import train
from tests.conftest import ROOT
from tests.helpers import problem
from tests.helpers.processes import ProcessGroup, saved_steps
from tests.helpers.tiny_run import build

pytestmark = pytest.mark.many_steps

# A checkpoint is larger: its write fails, as on a disk that is full.
TOO_SMALL = 100_000


def _start(workdir, largest_file=None) -> ProcessGroup:
    return ProcessGroup(workdir, 1, 1, "--epochs", "3", largest_file=largest_file)


def _finish(group) -> tuple[int, str]:
    """(exit code, what was said)"""
    (code,) = group.finish(300)
    assert "Traceback" not in group.log(0), group.log(0)
    return code, group.said(0)


def _wait_for_epochs(workdir, group, count: int) -> None:
    """Returns when metrics.jsonl has `count` lines."""
    file = workdir / "metrics.jsonl"
    while not file.exists() or file.read_text().count("\n") < count:
        assert group.is_alive(), group.log(0)
        time.sleep(0.05)


def _final_state(workdir):
    with train.Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(problem.new_state(*build())).state


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with _start(workdir) as group:
        assert _finish(group)[0] == 0
    return _final_state(workdir)


def _assert_resumed_with_the_same_bits(workdir, uninterrupted):
    with _start(workdir) as group:
        code, said = _finish(group)
    assert code == 0 and "resuming at step" in said
    problem.assert_same_bits(_final_state(workdir), uninterrupted)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_how_to_resume_and_the_resumed_run_ends_with_the_same_bits(tmp_path, uninterrupted, signum):
    workdir = tmp_path / "run"
    with _start(workdir) as group:
        _wait_for_epochs(workdir, group, 1)
        group.send(0, signum)
        code, said = _finish(group)
    assert code == 128 + signum
    assert f"stopped by {signal.Signals(signum).name} at step" in said and "run the same command again" in said
    _assert_resumed_with_the_same_bits(workdir, uninterrupted)


def test_killed_then_out_of_disk_space_then_resumed_ends_with_the_same_bits(tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    with _start(workdir) as group:
        _wait_for_epochs(workdir, group, 1)
        while not saved_steps(workdir):  # written in the background
            time.sleep(0.05)
        group.kill(0)
    with _start(workdir, TOO_SMALL) as group:
        code, said = _finish(group)
    (error,) = re.findall("^error: .*", said, flags=re.M)
    assert code == 1 and said.endswith(f"{error}\n") and "File too large" in error
    assert "could not save a checkpoint in" in error and "The last good checkpoint is of step" in error
    _assert_resumed_with_the_same_bits(workdir, uninterrupted)


def test_the_quickstart_named_in_the_readme_is_the_one_tested_here():
    assert CONFIGS["quickstart"].config.optimizer.nesterov and "--config quickstart" in (ROOT / "README.md").read_text()
