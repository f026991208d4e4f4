"""Parameters and optimizer state in shares: the same losses, an eighth of the memory, checkpoints for any layout."""

import jax
import numpy as np
import pytest

from resjax import train
from resjax.train.collectives import collective_bytes, collectives
from tests.helpers import problem

IMAGES, STEPS, BATCH = 128, 4, 32


def _run(split, averages=True):
    """(state, totals) after some steps on eight devices, the compiled steps, and the sharding."""
    network, optimizer, _ = problem.build(average_decay=0.9)
    mesh = train.data_mesh()
    state = problem.new_state(network, optimizer, mesh, moving_average=averages)
    sharding = train.state_sharding(state, mesh, split)
    state = jax.device_put(state, sharding)
    step = train.make_train_step(
        *(network, optimizer, problem.prepare), average_decay=0.9, sharding=sharding if split else None
    )
    run_steps = train.make_run_steps(step, BATCH, mesh, sharding)
    data = train.put_resident(problem.images_and_labels(IMAGES), mesh)
    order = train.put_whole(np.arange(IMAGES), mesh)
    arguments = (state, train.put_whole(train.Totals.zero(), mesh), data, order, 0, STEPS)
    compiled = run_steps.lower(*arguments).compile()
    return *run_steps(*arguments), compiled, sharding


@pytest.fixture(scope="module")
def whole():
    return _run(False)


@pytest.fixture(scope="module")
def split():
    return _run(True)


def test_the_losses_are_those_of_the_whole_state(split, whole):
    np.testing.assert_allclose(split[1].loss, whole[1].loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(split[0]), jax.tree.leaves(whole[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_each_device_holds_an_eighth_of_what_is_large(split, whole):
    own = lambda state: sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))  # noqa: E731
    assert own(split[0]) < own(whole[0]) / 5
    kernel = split[0].params["stage_2"]["block_1"]["conv_2"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size / 8


def test_parameters_are_gathered_and_no_activation_is(split):
    moved = collective_bytes(collectives(split[2]))
    params = sum(leaf.nbytes for leaf in jax.tree.leaves(split[0].params))
    assert 0 < moved["all-gather"] <= params


def test_a_checkpoint_of_shares_restores_whole_and_back(tmp_path, split, whole):
    state, totals, _, sharding = split
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, totals, {})
        checkpoints.wait()
        for template in (whole[0], state):
            restored = checkpoints.restore(template).state
            problem.assert_same_bits(restored, state)
            assert jax.tree.map(lambda leaf: leaf.sharding, restored) == jax.tree.map(
                lambda leaf: leaf.sharding, template
            )


def test_evaluation_takes_shares(split, whole):
    network, _, _ = problem.build()
    mesh = train.data_mesh()
    eval_step = train.make_eval_step(network, problem.normalize)
    data, zero = train.put_resident(problem.images_and_labels(IMAGES), mesh), train.put_whole(train.Totals.zero(), mesh)
    sums = [
        train.make_run_evaluation(eval_step, BATCH, mesh, sharding.variables)(state.variables, zero, data, IMAGES, 0, 4)
        for state, _, _, sharding in (split, whole)
    ]
    np.testing.assert_allclose(sums[0].loss, sums[1].loss, rtol=1e-4)
