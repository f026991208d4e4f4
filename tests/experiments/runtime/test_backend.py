"""What a command sets up before it computes."""

import os
import subprocess
import sys

import jax
import pytest

from experiments.runtime.backend import prepare_backend
from resjax import InputError

# JAX 0.7 ends a process with this flag, which it does not know.
WAITS = "--xla_cpu_collective_call_terminate_timeout_seconds"


def test_a_cache_of_programs_that_cannot_be_made_is_said_with_the_way_out(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--compilation_cache .*file/x cannot be made: .*; use 'off' for no cache"):
        prepare_backend((8,), str(tmp_path / "file" / "x"))


@pytest.mark.quick
@pytest.mark.parametrize("given", ["", *[f"{WAITS}=7"] * (jax.__version_info__ >= (0, 8))])
def test_devices_of_a_busy_machine_wait_for_each_other_unless_the_user_says_otherwise(given):
    program = """
import os, jax
from experiments.runtime.backend import prepare_backend
prepare_backend((2,), "off")
assert len(jax.devices("cpu")) >= 1  # XLA ends the process at a flag that it does not know
print(os.environ["XLA_FLAGS"])
"""
    environment = os.environ | {"XLA_FLAGS": given, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = f"{WAITS}=1800" if jax.__version_info__ >= (0, 8) else ""
    assert done.stdout.strip() == (given or expected)
