"""Several real processes over the loopback: killed, signalled, of other numbers; the run goes on as if nothing was."""

import json
import random
import signal
import socket
import time

import numpy as np
import pytest

from experiments.runtime.processes import SILENCE_SECONDS
from resjax import train
from tests.helpers import problem
from tests.helpers.processes import COMMAND, ProcessGroup, saved_steps
from tests.helpers.proxy import Proxy
from tests.helpers.tiny_run import build

pytestmark = [pytest.mark.slow, pytest.mark.many_steps]
KILLS = 8
LONG = ("--epochs", "4")


def _final_state(workdir):
    with train.Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(problem.new_state(*build())).state


def _records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _losses(workdir):
    return np.array([(record["train_loss"], record["test_loss"]) for record in _records(workdir)])


def _wait_for_save(group, workdir, after):
    """Returns when there is a checkpoint of a step larger than `after`."""
    while (saved_steps(workdir) or [-1])[-1] <= after:
        assert group.is_alive(), group.log(0) + group.log(1)
        time.sleep(0.05)


def test_eight_devices_of_one_two_and_eight_processes_train_alike(tmp_path):
    """Ten steps: devices add up in another order, and training makes the difference larger with each step."""
    for processes in (1, 2, 8):
        with ProcessGroup(tmp_path / f"run{processes}", processes, 8 // processes, command=COMMAND) as group:
            assert set(group.finish()) == {0}, group.log(0)
            assert [group.said(i) for i in range(1, processes)] == [""] * (processes - 1), "process 0 alone prints"
        print(processes, "processes", _losses(tmp_path / f"run{processes}").tolist())
    for processes in (2, 8):
        np.testing.assert_allclose(_losses(tmp_path / f"run{processes}"), _losses(tmp_path / "run1"), rtol=1e-4)


def test_the_death_of_either_ends_the_other_and_one_process_goes_on(tmp_path):
    workdir, last = tmp_path / "run", -1
    for victim in (1, 0):
        with ProcessGroup(workdir, 2, 1, *LONG) as group:
            _wait_for_save(group, workdir, last)
            group.kill(victim)
            killed = time.monotonic()
            codes = group.finish()
            print("process", victim, "killed; the other ended after", time.monotonic() - killed, "s with", codes)
            assert time.monotonic() - killed < 3 * SILENCE_SECONDS
            assert codes[victim] == -signal.SIGKILL and codes[1 - victim] not in (0, -signal.SIGKILL)
            text = group.log(1 - victim)
            print(text)
            assert "Run the same commands again" in " ".join(text.split()) or "another task died" in text
            last = saved_steps(workdir)[-1]
    with ProcessGroup(workdir, 1, 2, *LONG) as group:
        group.wait_for(f"resuming at step {last} ")
        _wait_for_save(group, workdir, last)
        group.terminate(0)
        assert group.finish() == [143], group.log(0)


def test_random_kills_lose_nothing(tmp_path):
    """SIGTERM to one, -9 to one, -9 to both, at random times: the end parameters are those of the undisturbed run."""
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "run"
    with ProcessGroup(undisturbed, 2, 1, *LONG) as group:
        assert group.finish() == [0, 0], group.log(0)
    draw, kills = random.Random(0), 0
    while kills < KILLS:  # over as many runs as it takes
        workdir = tmp_path / f"run{kills}"
        while kills < KILLS and _start_and_kill(workdir, draw, kills):
            kills += 1
        with ProcessGroup(workdir, 2, 1, *LONG) as group:
            assert group.finish() == [0, 0], group.log(0)
        problem.assert_same_bits(_final_state(workdir), _final_state(undisturbed))
        assert (_losses(workdir) == _losses(undisturbed)).all()


def _start_and_kill(workdir, draw, kills):
    """Whether the processes could be killed before they were done; a start goes on from the last saved step."""
    last = (saved_steps(workdir) or [-1])[-1]
    kind, victim, early = draw.choice(["SIGTERM", "-9 one", "-9 both"]), draw.randrange(2), draw.random() < 0.2
    with ProcessGroup(workdir, 2, 1, *LONG) as group:
        deadline = time.monotonic() + draw.uniform(0, 8)
        while group.is_alive() and (time.monotonic() < deadline if early else saved_steps(workdir)[-1:] <= [last]):
            time.sleep(0.02)
        if not early:
            time.sleep(draw.uniform(0, 1))
        if not group.is_alive():
            assert group.finish() == [0, 0], group.log(0) + group.log(1)
            return False
        for process in (0, 1) if kind == "-9 both" else (victim,):
            group.terminate(process) if kind == "SIGTERM" else group.kill(process)
        codes = group.finish()
        saved = (saved_steps(workdir) or [-1])[-1]
        print(kills, kind, victim, "early" if early else "", codes, "saved step", saved, flush=True)
        if "resuming" in group.log(0):
            assert f"resuming at step {last} " in group.log(0)
        if kind == "SIGTERM" and 0 not in codes and -signal.SIGTERM not in codes:  # it came while the engine ran
            assert codes == [143, 143], group.log(0) + group.log(1)
            assert f"at step {saved}: saved" in group.log(0)
        return True


ENDS_WITHIN = 60.0
"""Seconds in which every process ends after one, or the line to it, is gone."""
WAYS_OUT = ("Run the same commands again", "run the same commands again", "another task died")


def _assert_all_end(group, since, *processes):
    """Each of these ends in time and says the way out; the others may have been killed."""
    codes = group.finish(max(ENDS_WITHIN - (time.monotonic() - since), 0.1))
    print("ended after", time.monotonic() - since, "s with", codes)
    for process in processes:
        text = " ".join(group.log(process).split())
        assert codes[process] != 0 and any(way in text for way in WAYS_OUT), text


@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.lose_all])
def test_without_the_line_to_process_0_both_end_and_the_run_goes_on(tmp_path, fault):
    workdir = tmp_path / "run"
    with Proxy(delay=0.01) as proxy, ProcessGroup(workdir, 2, 1, "--epochs", "200", line=proxy.to) as group:
        _wait_for_save(group, workdir, -1)
        fault(proxy)
        _assert_all_end(group, time.monotonic(), 0, 1)
    last = saved_steps(workdir)[-1]
    with ProcessGroup(workdir, 1, 2, "--epochs", "200") as group:
        group.wait_for(f"resuming at step {last} ")
        group.terminate(0)
        assert group.finish() == [143], group.log(0)


def test_a_process_0_that_dies_before_all_have_joined_ends_the_others(tmp_path):
    with ProcessGroup(tmp_path / "run", 3, 1) as group:
        group.kill(2)  # while it starts: the others wait for it
        while True:
            assert group.processes[0].is_alive(), group.log(0)
            try:
                socket.create_connection(("127.0.0.1", group.port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        time.sleep(3)  # process 1 joins
        assert group.processes[1].is_alive(), group.log(1)
        group.kill(0)
        _assert_all_end(group, time.monotonic(), 1)
