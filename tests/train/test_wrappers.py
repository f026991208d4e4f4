"""Sharpness-aware minimization and lookahead: their formulas, and how they train with the rest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from resjax import InputError, create_model, train
from resjax.layers import BatchNorm, Conv
from resjax.models import restack
from resjax.train import Checkpoints, Totals, read_variables
from tests.helpers import problem

BATCH, IMAGES = 16, 64


def test_lookahead_is_the_papers_two_loops():
    """Inner loop of k steps of SGD with momentum, outer step of the slow parameters, in NumPy."""
    rng = np.random.default_rng(0)
    slow, gradients = rng.normal(size=5), rng.normal(size=(3, 4, 5))
    optimizer = train.lookahead(train.sgd(0.1, momentum=0.9), period=4, step_size=0.3)
    params = {"kernel": jnp.asarray(slow, jnp.float32)}
    state, velocity = optimizer.init(params), np.zeros(5)
    for outer in gradients:
        fast = slow.copy()
        for i, gradient in enumerate(outer):
            velocity = 0.9 * velocity + gradient
            fast -= 0.1 * velocity
            updates, state = optimizer.update({"kernel": jnp.asarray(gradient, jnp.float32)}, state, params)
            params = optax.apply_updates(params, updates)
            if i < 3:
                np.testing.assert_allclose(params["kernel"], fast, rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(train.slow_params(state)["kernel"], slow, rtol=1e-5, atol=1e-6)
        slow += 0.3 * (fast - slow)
        np.testing.assert_allclose(params["kernel"], slow, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(train.slow_params(state)["kernel"], slow, rtol=1e-5, atol=1e-6)


def test_sam_takes_the_gradient_uphill():
    """Of f(p) = sum(c p^4 / 4), whose gradient is c p^3, with the decay at the parameters as they are."""
    c, p = np.array([1.0, 2.0, 0.5]), np.array([0.5, -1.0, 2.0])
    gradient_at = lambda params: {"kernel": c * params["kernel"] ** 3}  # noqa: E731
    optimizer = train.sharpness_aware(train.sgd(0.1, momentum=0.9, weight_decay=0.01), rho=0.2)
    params, velocity = {"kernel": jnp.asarray(p, jnp.float32)}, np.zeros(3)
    state = optimizer.init(params)
    for _ in range(4):
        gradient = c * p**3
        uphill = p + 0.2 * gradient / np.linalg.norm(gradient)
        velocity = 0.9 * velocity + c * uphill**3 + 0.01 * p
        p = p - 0.1 * velocity
        updates, state = optimizer.update(gradient_at(params), state, params, gradient_at=gradient_at)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["kernel"], p, rtol=1e-5)
    zero = {"kernel": jnp.zeros(3)}
    updates, _ = optimizer.update(zero, optimizer.init(params), params, gradient_at=lambda params: zero)
    assert np.isfinite(updates["kernel"]).all()
    with pytest.raises(InputError, match="the update needs gradient_at"):
        optimizer.update(zero, state, params)


def _muon_in_both(rate=0.02):
    warm_up = train.warm_up_until(0.5, 0.5)
    return train.lookahead(train.sharpness_aware(train.muon(rate, warm_up=warm_up), 0.05), period=3)


class Small(nn.Module):
    """Two convolutions with BN, which compile fast."""

    norm_scope: int = 2

    @nn.compact
    def __call__(self, images, train=False):
        x = images
        for i, features in enumerate((8, 64)):
            x = BatchNorm(norm_scope=self.norm_scope, name=f"norm_{i}")(
                Conv(features, (3, 3), name=f"conv_{i}")(x), train
            )
            x = jnp.tanh(x)
        return nn.Dense(problem.CLASSES, name="head")(x.mean((1, 2)))


def _network():
    return Small()


def _step(optimizer=None, **options):
    return train.make_train_step(_network(), optimizer or _optimizer(), problem.prepare, **options)


@functools.cache
def _optimizer():
    return _muon_in_both()


def _trained(mesh, steps, state=None, sharding=None):
    """(state, totals) after so many steps, from a state or from the start."""
    state = problem.new_state(_network(), _optimizer(), mesh) if state is None else state
    first, sharding = int(state.step), sharding and train.state_sharding(state, mesh, True)
    run = train.make_run_steps(_step(sharding=sharding), BATCH, mesh, *([sharding] if sharding else []))
    state = jax.device_put(state, sharding) if sharding else state
    data, order = (
        train.put_resident(problem.images_and_labels(IMAGES), mesh),
        train.put_whole(np.arange(IMAGES), mesh),
    )
    return run(state, train.put_whole(Totals.zero(), mesh), data, order, first, steps - first)


@pytest.fixture(scope="module")
def trained():
    return _trained(problem.one_device(), 4)


def test_a_step_of_sam_has_the_loss_and_statistics_of_the_parameters_as_they_are():
    """And the gradient of the same draws at another point; micro-batches of whole BN groups give the same."""
    plain = train.sgd(0.1, momentum=0.0)
    sam = train.sharpness_aware(plain, 0.5)
    batch = jax.tree.map(jnp.asarray, problem.images_and_labels(BATCH))
    state = problem.new_state(_network(), plain)
    step = jax.jit(_step(plain))
    usual, metrics = step(state, batch)
    gradients = jax.tree.map(lambda a, b: (a - b) / 0.1, state.params, usual.params)
    uphill = jax.tree.map(lambda p, g: p + 0.5 * g / metrics["gradient_norm"], state.params, gradients)
    there, _ = step(state.replace(params=uphill), batch)
    expected = jax.tree.map(lambda p, a, b: p - (a - b), state.params, uphill, there.params)
    for parts in (1, 2):
        found, told = jax.jit(_step(sam, micro_batches=parts))(state, batch)
        compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
        jax.tree.map(compare, found.params, expected)
        jax.tree.map(compare, found.batch_stats, usual.batch_stats)
        np.testing.assert_allclose(told["loss"], metrics["loss"], rtol=1e-5)
        np.testing.assert_allclose(told["gradient_norm"], metrics["gradient_norm"], rtol=1e-4)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found.params, usual.params)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_a_resumed_run_has_the_same_bits_and_slow_parameters_are_evaluated(tmp_path, trained):
    mesh = problem.one_device()
    half, totals = _trained(mesh, 2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(half, totals, {})
        checkpoints.wait()
        restored = checkpoints.restore(problem.new_state(_network(), _optimizer(), mesh, seed=9))
    problem.assert_same_bits(restored.state, half)
    variables, step = read_variables(tmp_path)
    assert step == 2
    problem.assert_same_bits(variables, half.variables)
    problem.assert_same_bits(variables["params"], problem.new_state(_network(), _optimizer(), mesh).params)
    resumed, _ = _trained(mesh, 4, restored.state)
    problem.assert_same_bits(resumed, trained[0])
    assert train.learning_rate_factor(resumed.opt_state) == 0.5


def test_a_state_in_shares_trains_the_same(trained):
    state, totals = _trained(train.data_mesh(), 4, sharding=True)
    np.testing.assert_allclose(totals.loss, trained[1].loss, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=2e-3), state, trained[0])
    largest = max(jax.tree.leaves(train.slow_params(state.opt_state)), key=lambda leaf: leaf.size)
    assert largest.addressable_shards[0].data.size == largest.size / 8


def test_seeds_train_the_same_together(trained):
    mesh = train.seed_mesh(2, jax.devices()[:1])
    run = train.make_run_seeds(_step(), BATCH, 2, mesh, in_a_loop=False)
    states = train.join_seeds([problem.new_state(_network(), _optimizer(), seed=seed) for seed in (3, 4)], mesh)
    totals, orders = (train.join_seeds([tree] * 2, mesh) for tree in (Totals.zero(), np.arange(IMAGES)))
    data = train.put_resident(problem.images_and_labels(IMAGES), train.data_mesh(jax.devices()[:1]), BATCH)
    states, _ = run(states, totals, data, orders, 0, 4)
    first, second = train.split_seeds(states, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=2e-3), first, trained[0])
    assert np.abs(first.params["head"]["kernel"] - second.params["head"]["kernel"]).max() > 0.1


def test_blocks_saved_apart_restore_stacked_with_the_state_of_muon(tmp_path):
    mesh = problem.one_device()
    networks = {scan: create_model("resnet_26", widths=(4, 4, 4), scan=scan) for scan in (False, True)}
    states = {scan: problem.new_state(network, _optimizer(), mesh) for scan, network in networks.items()}
    for scan in (False, True):
        with Checkpoints(tmp_path / str(scan)) as checkpoints:
            checkpoints.save(states[scan], Totals.zero(), {})
            checkpoints.wait()
            restored = checkpoints.restore(states[not scan]).state
        assert jax.tree.structure(restored) == jax.tree.structure(states[not scan])
        problem.assert_same_bits(restack(restored, networks[scan].stacked_stages), states[scan])
