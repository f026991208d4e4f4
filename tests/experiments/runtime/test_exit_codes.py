"""A command that failed ends, whatever its libraries still wait for."""

import subprocess
import sys

from experiments.runtime.exit_codes import exit_code
from resjax.data.images import StreamError
from tests.conftest import ROOT

# The folder of the second checkpoint cannot be made, and Orbax's threads wait twenty minutes for those that write it.
FAILED_SAVE = """
import pathlib, sys
from experiments.runtime.exit_codes import leave
from resjax import train
from tests.faults.child import obey_permissions
from tests.helpers import problem

def command():
    state, latest = problem.new_state(*problem.build()[:2]), pathlib.Path(sys.argv[1]) / "latest"
    with train.Checkpoints(sys.argv[1]) as checkpoints:
        obey_permissions()
        latest.chmod(0o555)
        checkpoints.save(state, train.Totals.zero(), {})

try:
    command()
except train.CheckpointError as error:
    print(error, flush=True)
    leave(1)
"""


def test_workers_that_died_are_told_in_a_line(capsys):
    def command():
        raise StreamError("the input pipeline stopped (RuntimeError: Worker process was terminated)")

    assert exit_code(command) == 1
    assert (
        capsys.readouterr().err == "error: the input pipeline stopped (RuntimeError: Worker process was terminated)\n"
    )


def test_a_save_that_failed_does_not_keep_the_process(tmp_path):
    command = [sys.executable, "-c", FAILED_SAVE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(f"could not save a checkpoint in {tmp_path}: ")
