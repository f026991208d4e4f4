"""Several real processes over the loopback: killed, signalled, of other numbers; the run goes on as if nothing was."""

import json
import random
import signal
import time

import numpy as np
import pytest

from experiments.processes import SILENCE_SECONDS
from resjax import create_model, train
from tests.experiments.processes import ProcessGroup, saved_steps
from tests.train import problem

pytestmark = pytest.mark.slow
KILLS = 20
LARGE_BATCH = ("--batch_size", "1000", "--eval_batch_size", "1000")
OFTEN = ("--checkpoint_minutes", "0.03")


def _final_state(workdir):
    network = create_model("resnet_8")
    optimizer = train.sgd(lambda step: 0.1, nesterov=True, weight_decay=5e-4)
    with train.Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(problem.new_state(network, optimizer)).state


def _records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _assert_same_curves(workdir, expected, rtol):
    for ours, theirs in zip(_records(workdir), _records(expected), strict=True):
        for key in ("step", "train_loss", "test_loss"):
            np.testing.assert_allclose(ours[key], theirs[key], rtol=rtol, err_msg=key)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The workdir of two processes with four devices each."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    with ProcessGroup(workdir, 2, 4, *OFTEN) as group:
        assert group.finish() == [0, 0], group.log(0)
        assert group.log(1) == "", "only process 0 prints"
    return workdir


def test_eight_devices_of_one_two_and_eight_processes_train_alike(tmp_path):
    """Ten steps: the order in which devices add up rounds otherwise, and training makes that larger with each step."""
    for processes in (1, 2, 8):
        with ProcessGroup(tmp_path / f"run{processes}", processes, 8 // processes, *LARGE_BATCH) as group:
            assert set(group.finish()) == {0}, group.log(0)
        print(processes, [(r["train_loss"], r["test_loss"]) for r in _records(tmp_path / f"run{processes}")])
    for processes in (2, 8):
        _assert_same_curves(tmp_path / f"run{processes}", tmp_path / "run1", rtol=1e-4)


def test_the_death_of_either_ends_the_other_and_one_process_goes_on(tmp_path, undisturbed):
    workdir = tmp_path / "run"
    for victim in (1, 0):
        with ProcessGroup(workdir, 2, 4, *OFTEN) as group:
            before = len(saved_steps(workdir)) and saved_steps(workdir)[-1]
            while not saved_steps(workdir) or saved_steps(workdir)[-1] == before:
                assert group.is_alive(), group.log(0) + group.log(1)
                time.sleep(0.1)
            group.kill(victim)
            killed = time.monotonic()
            codes = group.finish()
            assert time.monotonic() - killed < 3 * SILENCE_SECONDS
            assert codes[victim] == -signal.SIGKILL and codes[1 - victim] not in (0, -signal.SIGKILL)
            assert "started again, go on" in group.log(1 - victim) or "another task died" in group.log(1 - victim)
    with ProcessGroup(workdir, 1, 2) as group:
        last = saved_steps(workdir)[-1]
        assert group.finish() == [0], group.log(0)
        assert f"resuming at step {last} " in group.log(0)
    _assert_same_curves(workdir, undisturbed, rtol=0.02)


def test_twenty_random_kills_lose_nothing(tmp_path, undisturbed):
    """SIGTERM to one, -9 to one, -9 to both, at random times: the end parameters are those of the undisturbed run."""
    workdir, draw, kinds = tmp_path / "run", random.Random(0), []
    while len(kinds) < KILLS:
        last = saved_steps(workdir)
        with ProcessGroup(workdir, 2, 4, *OFTEN) as group:
            group.wait_for("workdir")
            kind, victim = draw.choice(["SIGTERM", "-9 one", "-9 both"]), draw.randrange(2)
            deadline = time.monotonic() + draw.uniform(0, 15)
            while time.monotonic() < deadline and group.is_alive():
                time.sleep(0.05)
            assert group.is_alive(), f"after {len(kinds)} kills: {group.log(0)}{group.log(1)}"
            if kind == "SIGTERM":
                group.terminate(victim)
            else:
                for process in {victim} if kind == "-9 one" else (0, 1):
                    group.kill(process)
            codes = group.finish(120)
            kinds.append((kind, victim, codes, saved_steps(workdir)[-1:]))
            if last and "resuming" in group.log(0):
                assert f"resuming at step {last[-1]} " in group.log(0)
            if kind == "SIGTERM" and -signal.SIGTERM not in codes:  # which is what it does before the engine runs
                assert codes == [143, 143], group.log(0) + group.log(1)
                assert f"at step {saved_steps(workdir)[-1]}: saved" in group.log(0)
    with ProcessGroup(workdir, 2, 4, *OFTEN) as group:
        last = saved_steps(workdir)[-1]
        assert group.finish() == [0, 0], group.log(0)
        assert f"resuming at step {last} " in group.log(0)
    print(*kinds, sep="\n")
    problem.assert_same_bits(_final_state(workdir), _final_state(undisturbed))
