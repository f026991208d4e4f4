"""The warm-up that ends with the training error, beside the same in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax import InputError, train
from tests.helpers import problem


def _numpy(errors, until, factor):
    """The factor of each update: of what was known before it."""
    average, over, factors = 1.0, False, []
    for error in errors:
        factors.append(1.0 if over else factor)
        average = 0.98 * average + 0.02 * error
        over = over or average < until
    return factors


@pytest.mark.quick
@pytest.mark.parametrize("until", [0.8, 0.5])
def test_the_rate_is_held_until_the_error_has_fallen_and_never_again(until):
    errors = [*np.linspace(0.9, 0.2, 60), *[0.1] * 30, *[1.0] * 40]  # what rises again changes nothing
    warm_up = train.warm_up_until(until, 0.1)
    state = warm_up.init({})
    update = jax.jit(warm_up.update)
    factors = []
    for error in errors:
        updates, state = update({"w": jnp.ones(2)}, state, error_of_batch=jnp.float32(error))
        factors.append(float(updates["w"][1]))
        assert float(train.learning_rate_factor((optax.EmptyState(), state))) == factors[-1]
    np.testing.assert_allclose(factors, _numpy(errors, until, 0.1), rtol=1e-6)
    assert 0.1 in np.float32(factors).round(3) and factors[-1] == 1


def test_a_step_hands_over_the_error_of_its_batch():
    """Two steps with a warm-up that the first batch ends: a tenth of the rate, and then all of it."""
    network, _, _ = problem.build(0.05)
    prepare, data = problem.prepare, problem.images_and_labels(32)
    learned = {}
    for name, warm_up in {"held": train.warm_up_until(0.999, 0.1), "free": None}.items():
        optimizer = train.sgd(0.05, momentum=0.0, warm_up=warm_up)
        step = jax.jit(train.make_train_step(network, optimizer, prepare))
        state = problem.new_state(network, optimizer)
        first, metrics = step(state, data)
        second, _ = step(first.replace(params=state.params, batch_stats=state.batch_stats, step=state.step), data)
        learned[name] = [jax.tree.map(jnp.subtract, s.params, state.params) for s in (first, second)]
    assert int(metrics["correct"]) > 0
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-7)
    jax.tree.map(lambda held, free: close(held, 0.1 * free), learned["held"][0], learned["free"][0])
    jax.tree.map(close, learned["held"][1], learned["free"][1])


def test_a_task_without_a_training_error_is_an_error():
    with pytest.raises(InputError, match="reports no training error"):
        warm_up = train.warm_up_until(0.8, 0.1)
        warm_up.update({}, warm_up.init({}))


def test_without_a_warm_up_the_factor_is_one():
    assert train.learning_rate_factor(train.sgd(0.1).init({"w": jnp.ones(2)})) == 1
