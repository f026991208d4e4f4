"""Several seeds in one program: each has the numbers of its own run, however they share the devices."""

import jax
import numpy as np
import pytest

from resjax import train
from resjax.train import NO_FAILURE, Totals
from resjax.train.collectives import collectives
from tests.helpers import problem

BATCH, IMAGES, SEEDS, RATE = 16, 160, (3, 4, 5), 0.01


def _states():
    network, optimizer, _ = problem.build(RATE)
    return [problem.new_state(network, optimizer, seed=seed) for seed in SEEDS]


def _data(mesh):
    """Images to train on, and 41 to test on."""
    return (train.put_resident(problem.images_and_labels(n, i), mesh, BATCH) for i, n in enumerate((IMAGES, 41)))


def _orders():
    return [train.epoch_order(seed, 0, size=IMAGES) for seed in SEEDS]


@pytest.fixture(scope="module")
def one_by_one():
    """(state, totals of four steps, totals of the test images) of each seed, trained alone."""
    mesh = problem.one_device()
    network, _, step = problem.build(RATE)
    run = train.make_run_steps(step, BATCH, mesh)
    evaluate = train.make_run_evaluation(train.make_eval_step(network, problem.normalize), BATCH, mesh)
    data, test = _data(mesh)
    found = []
    for state, order in zip(_states(), _orders(), strict=True):
        state, totals = run(state, Totals.zero(), data, order, 0, 4)
        found.append((state, totals, evaluate(state.variables, Totals.zero(), test, 41, 0, 3)))
    return jax.device_get(found)


@pytest.mark.parametrize(("devices", "in_a_loop"), [(2, True), (2, False)])
def test_each_seed_has_the_numbers_of_its_own_run(one_by_one, devices, in_a_loop):
    network, _, step = problem.build(RATE)
    mesh = train.seed_mesh(len(SEEDS), jax.devices()[:devices])
    run = train.make_run_seeds(step, BATCH, len(SEEDS), mesh, in_a_loop)
    evaluate = train.make_evaluate_seeds(train.make_eval_step(network, problem.normalize), BATCH, mesh, in_a_loop)
    data, test = _data(mesh)
    zero = train.join_seeds([Totals.zero()] * len(SEEDS), mesh)
    states, orders = (train.join_seeds(trees, mesh) for trees in (_states(), _orders()))
    totals = zero
    for first, count in ((0, 0), (0, 1), (1, 3)):  # the cut changes nothing
        states, totals = run(states, totals, data, orders, first, count)
    tested = evaluate(states.variables, zero, test, 41, 0, 3)
    found = [train.split_seeds(tree, len(SEEDS)) for tree in (states, totals, tested)]
    losses = set()
    for (state, totals, tested), *ours in zip(one_by_one, *found, strict=True):
        assert ours[0].step == 4 and ours[0].seed == state.seed
        assert ours[1].images == 64 and ours[2].images == 41 and ours[1].failed_step == NO_FAILURE
        np.testing.assert_allclose(ours[1].mean_loss(), totals.mean_loss(), rtol=2e-5)
        np.testing.assert_allclose(ours[2].mean_loss(), tested.mean_loss(), rtol=2e-4)
        for a, b in zip(jax.tree.leaves(ours[0]), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4)
        losses.add(totals.mean_loss())
    assert len(losses) == len(SEEDS)  # seeds that were not told apart would agree, too


@pytest.mark.parametrize("in_a_loop", [True, False])
def test_a_seed_that_fails_says_so_and_the_others_are_intact(in_a_loop):
    _, _, step = problem.build(RATE)
    mesh = train.seed_mesh(len(SEEDS), jax.devices()[:2])
    run = train.make_run_seeds(step, BATCH, len(SEEDS), mesh, in_a_loop)
    states = _states()
    states[1] = states[1].replace(params=jax.tree.map(lambda leaf: leaf * np.nan, states[1].params))
    states, zero, orders = (train.join_seeds(t, mesh) for t in (states, [Totals.zero()] * len(SEEDS), _orders()))
    data = train.put_resident(problem.images_and_labels(IMAGES), mesh)
    states, totals = run(states, zero, data, orders, 0, 3)
    failed = [int(each.failed_step) for each in train.split_seeds(totals, len(SEEDS))]
    assert failed == [NO_FAILURE, 0, NO_FAILURE]
    for state in train.split_seeds(states, len(SEEDS))[::2]:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_the_devices_of_seeds_exchange_nothing():
    _, _, step = problem.build(RATE)
    mesh = train.seed_mesh(len(SEEDS), jax.devices()[:2])
    run = train.make_run_seeds(step, BATCH, len(SEEDS), mesh, in_a_loop=True)
    states, zero, orders = (train.join_seeds(t, mesh) for t in (_states(), [Totals.zero()] * len(SEEDS), _orders()))
    data = train.put_resident(problem.images_and_labels(IMAGES), mesh)
    assert not collectives(run.lower(states, zero, data, orders, 0, 1).compile())


@pytest.mark.parametrize(
    ("seeds", "devices", "used"), [(1, 8, 1), (5, 8, 5), (8, 8, 8), (9, 8, 5), (5, 4, 3), (5, 1, 1)]
)
def test_no_device_has_more_seeds_than_it_must_and_none_is_idle(seeds, devices, used):
    assert train.seed_mesh(seeds, jax.devices()[:devices]).size == used
