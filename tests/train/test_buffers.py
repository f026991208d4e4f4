"""A caller's NumPy buffer is its own again when a call returns: refilled at once, it changes nothing."""

import jax
import numpy as np
import pytest

from resjax import train
from resjax.train import Totals
from tests.helpers import problem

BATCH, STEPS = 64, 6


def aligned(shape, dtype):
    """An array at a multiple of 64 bytes, which the devices of a CPU read where it is."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


@pytest.fixture(scope="module")
def mesh():
    return problem.one_device()


@pytest.fixture(scope="module")
def batches():
    images, labels = problem.images_and_labels(BATCH * STEPS)
    return [(images[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, len(images), BATCH)]


def refilled(batches):
    """The batches, all in one pair of arrays, which is filled with the next when the caller asks for it."""
    arrays = [aligned(array.shape, array.dtype) for array in batches[0]]
    for batch in batches:
        for array, values in zip(arrays, batch, strict=True):
            array[:] = values
        yield tuple(arrays)
    for array in arrays:
        array[:] = 0


def test_training_on_one_buffer_that_is_refilled(mesh, batches):
    network, optimizer, step = problem.build()
    run = train.make_run_batch(step, BATCH, mesh)
    results = []
    for given in (batches, refilled(batches)):
        state, totals = problem.new_state(network, optimizer, mesh), Totals.zero()
        for batch in given:
            state, totals = run(state, totals, batch)
        results.append((state, totals))
    problem.assert_same_bits(*results)


def test_evaluation_on_one_buffer_that_is_refilled(mesh, batches):
    network, optimizer, _ = problem.build()
    variables = problem.new_state(network, optimizer, mesh).variables
    evaluate = train.make_evaluate_batch(train.make_eval_step(network, problem.normalize), mesh)
    results = []
    for given in (batches, refilled(batches)):
        totals, valid = Totals.zero(), aligned((BATCH,), bool)
        for i, batch in enumerate(given):
            valid[:] = np.arange(BATCH) < BATCH - i
            totals = evaluate(variables, totals, batch, valid)
            valid[:] = False
        results.append(totals)
    problem.assert_same_bits(*results)


def test_an_order_that_is_drawn_anew_in_place(mesh, batches):
    network, optimizer, step = problem.build()
    data = train.put_resident(tuple(map(np.concatenate, zip(*batches, strict=True))), mesh)
    run = train.make_run_steps(step, BATCH, mesh)
    results = []
    for in_place in (False, True):
        state, totals, order = problem.new_state(network, optimizer, mesh), Totals.zero(), aligned((384,), np.int32)
        for epoch in range(2):
            order[:] = np.random.default_rng(epoch).permutation(384)
            state, totals = run(state, totals, data, order if in_place else order.copy(), 0, 2)
            if in_place:
                order[:] = 0
        results.append((state, totals))
    problem.assert_same_bits(*results)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("put", [train.put_whole, train.put_batch, train.put_resident])
def test_what_was_put_on_the_devices_stays_as_it_was(put, devices):
    buffer = aligned((2, 64, 32), np.float32)
    buffer[:] = 1
    view = buffer[:]
    view.flags.writeable = False  # of a buffer that is not
    placed = put((buffer, view), train.data_mesh(jax.devices()[:devices]))
    buffer[:] = 2
    for array in placed:
        np.testing.assert_array_equal(array, np.ones_like(buffer))
