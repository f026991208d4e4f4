"""Flags of a run of several processes, before any of them waits for another."""

import contextlib
import dataclasses
import json
import socket
import subprocess
import sys
import time
import types

import jax
import pytest

from experiments.configs.programs import CIFAR, PROGRAMS
from experiments.runtime import processes
from experiments.runtime.processes import Processes, join_processes
from resjax.errors import InputError
from tests.conftest import ROOT

CONFIG = PROGRAMS[CIFAR]["resnet_20"].config


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"process_id": 0}, "^--coordinator and --num_processes: missing; .*--coordinator HOST:PORT"),
        ({"coordinator": "host:1", "num_processes": 2}, "^--process_id: missing"),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "^--coordinator: expected HOST:PORT .*'host'"),
        ({"coordinator": "host:http", "num_processes": 2, "process_id": 0}, "^--coordinator: expected HOST:PORT"),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 2}, "^--process_id: .* from 0 to 1 .*, got 2$"),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": -1}, "^--process_id: .*, got -1$"),
    ],
)
def test_flags_that_do_not_fit_are_named(flags, message):
    with pytest.raises(InputError, match=message):
        join_processes(dataclasses.replace(CONFIG, **flags))


def test_a_process_0_that_nobody_started_is_said(monkeypatch):
    monkeypatch.setattr(processes, "_JOIN_SECONDS", 0.1)
    with socket.socket() as closed:  # bound, and it never listens
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(
            InputError, match=f"^--coordinator {address}: process 0 was not reached there in 0.1 s .*start"
        ):
            join_processes(dataclasses.replace(CONFIG, coordinator=address, num_processes=2, process_id=1))


def test_what_jax_says_of_joining_is_one_line():
    jax.devices()  # from now on it refuses to join
    with pytest.raises(InputError, match="^the other processes cannot be joined at 127.0.0.1:1: .*before any JAX"):
        join_processes(dataclasses.replace(CONFIG, coordinator="127.0.0.1:1", num_processes=2, process_id=0))


def test_a_process_that_was_started_otherwise_says_in_what():
    told = {}
    store = types.SimpleNamespace(key_value_set=told.__setitem__, blocking_key_value_get=lambda key, wait: told[key])

    def process(index, **fields):
        own = types.SimpleNamespace(index=index, _store=store)
        Processes.check_same(own, dataclasses.replace(CONFIG, process_id=index, **fields))

    process(0, data_dir="/a", coordinator="localhost:1")
    assert json.loads(*told.values())["seed"] == 0
    # Where a machine has its data, and how it calls process 0, is its own affair.
    process(1, data_dir="/b", coordinator="127.0.0.1:1")
    with pytest.raises(InputError, match=r"process 1 has other flags than process 0 \(--seed: 0 there, 3 here\)$"):
        process(1, seed=3)


# The store of process 0, behind a line that was cut: calls neither return nor fail.
CUT = """
import time, types
from experiments.runtime import processes
wait = lambda *arguments, **options: time.sleep(1000)
processes._state().client = types.SimpleNamespace(key_value_set=wait, key_value_dir_get=wait)
processes.Processes(2, 1, silence=4.0)
time.sleep(60)
"""
JOIN = """
import dataclasses, sys
from experiments.configs.programs import CIFAR, PROGRAMS
from experiments.runtime import processes
processes.SILENCE_SECONDS = 2.0
config = PROGRAMS[CIFAR]["resnet_20"].config
processes.join_processes(dataclasses.replace(config, coordinator=sys.argv[1], num_processes=2, process_id=1))
"""


def _last_words(*command) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", *command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr.splitlines()[-1]


def test_a_cut_line_to_process_0_ends_the_process_with_the_way_out():
    code, said = _last_words(CUT)
    assert code == 1
    assert said.startswith("error: process 0 of 2 has not answered for ")
    assert said.endswith("Process 1 ends, too. Run the same commands again to resume from the last checkpoint")


def test_a_process_0_that_ends_while_the_others_join_is_said():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = [sys.executable, "-c", JOIN, f"127.0.0.1:{port}"]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        server.settimeout(120)
        server.accept()[0].close()
        deadline = time.monotonic() + 5
        while (left := deadline - time.monotonic()) > 0:  # it is there for some seconds
            server.settimeout(left)
            with contextlib.suppress(TimeoutError):
                server.accept()[0].close()
    with process:
        assert process.wait(timeout=60) == 1
        said = process.stderr.read().splitlines()[-1]
    assert said == (
        f"error: process 1: process 0 at 127.0.0.1:{port} ended before all processes had joined. Look at what it says,"
        " and run the same commands again"
    )
