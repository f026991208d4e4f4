"""Checkpoints give back what was saved, on any number of devices, and say what is wrong with a bad one."""

import jax
import numpy as np
import pytest

from resjax import create_model, train
from resjax.models import restack
from resjax.train import CheckpointError, Checkpoints, Totals
from tests.train import problem

RUN = {"config": {"epochs": 3}, "epoch_seconds": 1.5}


def _state(devices=1, seed=3, model="resnet_8"):
    mesh = train.data_mesh(jax.devices()[:devices])
    return problem.new_state(*problem.build(model=model)[:2], mesh, seed, moving_average=True)


def _at(state, step):
    return state.replace(step=state.step * 0 + step)


@pytest.mark.quick
@pytest.mark.parametrize(("saved_on", "restored_on"), [(1, 1), (8, 1), (1, 8)])
def test_restores_the_same_bits_on_any_number_of_devices(tmp_path, saved_on, restored_on):
    state, totals = _at(_state(saved_on), 7), Totals.zero().replace(correct=np.int32(5))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, totals, RUN)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(_state(restored_on, seed=4))
    problem.assert_same_bits((restored.state, restored.totals), (state, totals))
    assert restored.run == RUN
    assert all(len(leaf.sharding.device_set) == restored_on for leaf in jax.tree.leaves(restored.state))


@pytest.mark.parametrize("saved_scan", [False, True])
def test_blocks_saved_apart_restore_stacked_and_the_other_way_round(tmp_path, saved_scan):
    mesh, optimizer = train.data_mesh(jax.devices()[:2]), train.sgd(0.1)
    networks = {scan: create_model("resnet_26", widths=(4, 4, 4), scan=scan) for scan in (False, True)}
    states = {scan: problem.new_state(net, optimizer, mesh, 3, moving_average=True) for scan, net in networks.items()}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(states[saved_scan], Totals.zero(), RUN)
        checkpoints.wait()
        restored = checkpoints.restore(states[not saved_scan]).state
    assert jax.tree.structure(restored) == jax.tree.structure(states[not saved_scan])
    stages = networks[True].stacked_stages if saved_scan else ()
    problem.assert_same_bits(restack(restored, stages), states[saved_scan])
    assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(restored))


def test_a_state_is_saved_as_it_was_though_training_goes_on_and_donates_it(tmp_path):
    mesh = problem.one_device()
    network, optimizer, step = problem.build()
    run = train.make_run_steps(step, 16, mesh)
    data = train.put_resident(problem.images_and_labels(160), mesh)
    order = train.epoch_order(3, 0, size=160)
    state, totals = run(problem.new_state(network, optimizer, mesh), Totals.zero(), data, order, 0, 1)
    with Checkpoints(tmp_path) as checkpoints:
        kept = jax.tree.map(np.array, state)
        for i in range(1, 9):
            checkpoints.save(state, totals, RUN)
            state, totals = run(state, totals, data, order, i, 1)
            checkpoints.wait()
            problem.assert_same_bits(checkpoints.restore(state).state, kept)
            kept = jax.tree.map(np.array, state)


def test_keeps_the_latest_two_and_the_best(tmp_path):
    state = _state()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step is None and checkpoints.best_error() is None
        for step, error in ((1, 30.0), (2, 10.0), (3, 20.0)):
            checkpoints.save(_at(state, step), Totals.zero(), RUN)
            checkpoints.save_best(_at(state, step), Totals.zero(), RUN, error)
        checkpoints.wait()
        assert (checkpoints.latest_step, checkpoints.best_step, checkpoints.best_error()) == (3, 2, 10.0)
        assert int(checkpoints.restore(state, best=True).state.step) == 2
    assert sorted(path.name for path in (tmp_path / "latest").iterdir()) == ["2", "3"]
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest_step, checkpoints.best_step, checkpoints.best_error()) == (3, 2, 10.0)


def test_a_step_that_is_there_is_left_as_it_is(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(_at(_state(seed=1), 5), Totals.zero(), RUN)
        checkpoints.save(_at(_state(seed=2), 5), Totals.zero(), RUN)
        problem.assert_same_bits(checkpoints.restore(_state()).state, _at(_state(seed=1), 5))


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_still_restores(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(_at(_state(), step), Totals.zero(), RUN)
    for path in (tmp_path / "latest" / "2" / "train").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match="latest/2 cannot be read"):
            checkpoints.restore(_state())
        assert int(checkpoints.restore(_state(), step=1).state.step) == 1


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(_state(model="wrn_10_1"), Totals.zero(), RUN)
        checkpoints.wait()
        with pytest.raises(CheckpointError, match="cannot be read"):
            checkpoints.restore(_state())


def test_nothing_to_restore_is_said(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoints.restore(_state())
