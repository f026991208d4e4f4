"""Micro-batches: the gradient, statistics and counts of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import InputError, StochasticDepth, train
from resjax.train.step import parts_of_batch
from tests.helpers import problem

BATCH = problem.images_and_labels(32)


def _step(micro_batches, devices=1, **fields):
    """The state after a step from the same start, and its metrics."""
    network = problem.small_network(**fields)
    optimizer = train.sgd(0.1, weight_decay=1e-3)
    mesh = train.data_mesh(jax.devices()[:devices])
    step = train.make_train_step(network, optimizer, problem.prepare, micro_batches=micro_batches)
    state = problem.new_state(network, optimizer, mesh)
    return jax.jit(step)(state, jax.device_put(BATCH, train.batch_sharding(mesh)))


def _assert_close(ours, theirs):
    (state, metrics), (expected, expected_metrics) = ours, theirs
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def ghost():
    return _step(1, norm_scope=4)


@pytest.mark.quick
def test_four_parts_are_one_step_of_the_whole_batch_where_bn_sees_the_same_groups(ghost):
    _assert_close(_step(4, norm_scope=4), ghost)


@pytest.mark.parametrize("scan", [True, False])
def test_and_on_two_devices_with_scanned_blocks(ghost, scan):
    """Two blocks a stage: the second one's moments are stacked where it is scanned."""
    fields = {"norm_scope": 4, "stage_sizes": (2, 1), "scan": scan}
    _assert_close(_step(4, devices=2, **fields), _step(1, **fields))


def test_global_bn_normalises_each_part_but_keeps_the_statistics_of_the_batch():
    """Before the first BN nothing differs: its running statistics are those of the whole batch."""
    whole, parts = _step(1)[0].batch_stats, _step(4)[0].batch_stats
    for a, b in zip(jax.tree.leaves(parts["stem"]), jax.tree.leaves(whole["stem"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    deeper = [jax.tree.leaves(tree["stage_2"]) for tree in (whole, parts)]
    assert not all(np.allclose(a, b, rtol=1e-5) for a, b in zip(*deeper, strict=True))


def test_a_block_left_out_of_one_part_keeps_what_the_others_gave():
    """Stochastic depth draws for each of eight parts: the last one leaves some branch out, none of them all eight."""
    network = problem.small_network(stochastic_depth=StochasticDepth(0.5))
    optimizer = train.sgd(0.1)
    step = train.make_train_step(network, optimizer, problem.prepare, micro_batches=8)
    start = problem.new_state(network, optimizer)
    stages = ("stage_1", "stage_2")
    means = lambda stats: np.stack([stats[stage]["block_1"]["norm_1"]["mean"][:16] for stage in stages])  # noqa: E731
    assert (
        means(jax.jit(step)(start, tuple(map(jnp.asarray, BATCH)))[0].batch_stats) != means(start.batch_stats)
    ).all()


def test_parts_take_turns_and_keep_groups_together():
    np.testing.assert_array_equal(parts_of_batch(jnp.arange(8), 2), [[0, 2, 4, 6], [1, 3, 5, 7]])
    np.testing.assert_array_equal(parts_of_batch(jnp.arange(8), 2, together=2), [[0, 1, 4, 5], [2, 3, 6, 7]])
    with pytest.raises(
        InputError, match="micro_batches 3: a batch of 8 images is no multiple of 6 .*2 images together"
    ):
        parts_of_batch(jnp.arange(8), 3, together=2)
