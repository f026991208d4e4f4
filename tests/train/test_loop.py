"""The compiled loop: the same numbers as single steps, however it is cut and on however many devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax import InputError, train
from resjax.train import NO_FAILURE, Totals
from tests.helpers import problem

BATCH = 16


def _loop(devices: int = 1, **options):
    """(run_steps, new state, resident data)."""
    mesh = train.data_mesh(jax.devices()[:devices])
    network, optimizer, _ = problem.build(**options)
    data = train.put_resident(problem.images_and_labels(160), mesh)
    return _run_steps(mesh, **options), problem.new_state(network, optimizer, mesh), data


@functools.cache
def _run_steps(mesh, **options):
    return train.make_run_steps(problem.build(**options)[2], BATCH, mesh)


@pytest.mark.quick
def test_loop_equals_single_steps_on_the_ordered_images():
    run, state, data = _loop()
    network, optimizer, step = problem.build()
    expected, losses, correct = problem.new_state(network, optimizer), [], 0
    order = np.asarray(train.epoch_order(3, 0, size=160))
    images, labels = problem.images_and_labels(160)
    for i in range(5):
        index = order[i * BATCH : (i + 1) * BATCH]
        expected, metrics = jax.jit(step)(expected, (jnp.asarray(images[index]), jnp.asarray(labels[index])))
        losses.append(float(metrics["loss"]))
        correct += int(metrics["correct"])
    state, totals = run(state, Totals.zero(), data, order, 0, 5)
    assert int(totals.images) == 5 * BATCH and int(totals.correct) == correct and int(state.step) == 5
    np.testing.assert_allclose(totals.mean_loss(), np.mean(losses), rtol=1e-4)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.quick
@pytest.mark.parametrize("cut", [[1] * 6, [2, 4], [5, 1], [0, 6]])
def test_the_cut_into_dispatches_changes_no_bit(cut):
    run, state, data = _loop()
    order = train.epoch_order(3, 0, size=160)
    whole = run(problem.new_state(*problem.build()[:2]), Totals.zero(), data, order, 0, 6)
    totals, first = Totals.zero(), 0
    for count in cut:
        state, totals = run(state, totals, data, order, first, count)
        first += count
    problem.assert_same_bits((state, totals), whole)


def test_one_device_and_eight_give_the_same_losses_and_statistics():
    results = []
    for devices in (1, 8):
        run, state, data = _loop(devices, learning_rate=0.01)
        losses, order = [], train.epoch_order(3, 0, size=160)
        for i in range(4):
            state, totals = run(state, Totals.zero(), data, order, i, 1)
            losses.append(totals.mean_loss())
        assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == devices
        results.append((losses, jax.device_get(state)))
    (one, state_one), (eight, state_eight) = results
    np.testing.assert_allclose(eight, one, rtol=2e-5)
    for a, b in zip(jax.tree.leaves(state_one), jax.tree.leaves(state_eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_the_order_is_a_permutation_of_its_own_for_each_seed_and_epoch():
    orders = [tuple(np.asarray(train.epoch_order(seed, epoch, size=50))) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == 4
    assert orders[0] == tuple(np.asarray(train.epoch_order(0, 0, size=50)))


def test_the_loop_stops_at_the_first_step_that_is_not_finite():
    network = problem.build()[0]
    optimizer = train.sgd(lambda step: jnp.where(step == 2, jnp.inf, 0.1))  # step 2 ruins the parameters, step 3 shows
    step = train.make_train_step(network, optimizer, problem.prepare)
    mesh = problem.one_device()
    run = train.make_run_steps(step, BATCH, mesh)
    data = train.put_resident(problem.images_and_labels(160), mesh)
    order = train.epoch_order(3, 0, size=160)
    state, totals = run(problem.new_state(network, optimizer), Totals.zero(), data, order, 0, 3)
    assert int(totals.failed_step) == NO_FAILURE
    state, totals = run(state, totals, data, order, 3, 5)
    assert int(totals.failed_step) == 3 and int(state.step) == 4
    state, totals = run(state, totals, data, order, 4, 5)  # a dispatch that was already under way does nothing
    assert int(totals.failed_step) == 3 and int(state.step) == 4


@pytest.mark.quick
@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (7, 1), (100, 1), (128, 1), (16, 8), (104, 8)])
def test_evaluation_counts_each_image_once_whatever_the_batch_size(batch_size, devices):
    size = 100
    network, optimizer, _ = problem.build()
    mesh = train.data_mesh(jax.devices()[:devices])
    variables = jax.device_get(problem.new_state(network, optimizer)).variables
    images, labels = problem.images_and_labels(size)
    logits = network.apply(variables, problem.normalize(jnp.asarray(images)), train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    run = train.make_run_evaluation(train.make_eval_step(network, problem.normalize), batch_size, mesh)
    data = train.put_resident((images, labels), mesh, batch_size)
    batches, totals = -(-size // batch_size), Totals.zero()
    for first, count in ((0, batches // 2), (batches // 2, batches - batches // 2)):
        totals = run(variables, totals, data, size, first, count)
    assert int(totals.images) == size
    assert int(totals.correct) == int((np.asarray(logits).argmax(-1) == labels).sum())
    np.testing.assert_allclose(totals.mean_loss(), np.mean(losses), rtol=1e-5)


def test_a_batch_that_devices_cannot_share_is_named_with_the_nearest_ones():
    mesh = train.data_mesh(jax.devices()[:8])
    with pytest.raises(InputError, match="batch_size 100 .* 8 devices; nearest are 96 and 104"):
        train.make_run_steps(problem.build()[2], 100, mesh)
