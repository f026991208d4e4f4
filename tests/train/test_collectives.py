"""What devices say to each other in a compiled step: the gradient once, no activation, nothing for ghost batches."""

import jax
import pytest
from jax.sharding import PartitionSpec

from resjax import train
from resjax.layers import plain_convolutions
from resjax.train.collectives import collective_bytes, collectives
from tests.helpers import problem

IMAGES = 64
# The loss, and the number of correct images.
SCALARS = 8


def _compile(**fields):
    """The collectives of a compiled step on eight devices, and bytes of parameters and of running statistics."""
    network, mesh = problem.small_network(**fields), train.data_mesh()
    optimizer = train.sgd(0.1, weight_decay=1e-3)
    step = train.make_train_step(network, optimizer, problem.prepare)
    state = problem.new_state(network, optimizer, mesh)
    batch = jax.device_put(problem.images_and_labels(IMAGES), train.batch_sharding(mesh))
    with plain_convolutions():
        compiled = jax.jit(step, out_shardings=train.replicated(mesh)).lower(state, batch).compile()
    sizes = (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (state.params, state.batch_stats))
    return collectives(compiled), *sizes


@pytest.fixture(scope="module")
def ghost():
    return _compile(norm_scope=4)


def test_gradients_are_added_up_once_and_ghost_batches_add_nothing_that_is_waited_for(ghost):
    """Means, variances and squared means of the groups, for the running statistics, travel with the gradients."""
    found, params, stats = ghost
    assert collective_bytes(found) == {"all-reduce": params + 3 * stats // 2 + SCALARS}
    large = [collective for collective in found if collective.bytes > SCALARS]
    assert len(large) == 1 and large[0].times == 1


def test_global_bn_adds_up_its_sums_and_gathers_no_activation(ghost):
    found, params, stats = _compile()
    total = collective_bytes(found)
    assert set(total) == {"all-reduce"}
    # Forward three sums of each layer, backward two, of which scale's and bias's gradients are those of the parameters.
    assert params < total["all-reduce"] <= params + 5 * stats // 2 + SCALARS
    assert len(found) > 2 * len(ghost[0])


def test_a_loop_counts_each_turn():
    mesh = train.data_mesh()

    def five_times(x):
        return jax.lax.fori_loop(0, 5, lambda _, total: jax.lax.psum(total * x, "data"), x)

    split = PartitionSpec("data")
    mapped = jax.shard_map(five_times, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    x = jax.ShapeDtypeStruct((8, 3), "float32", sharding=train.batch_sharding(mesh))
    (found,) = collectives(jax.jit(mapped).lower(x).compile())
    assert (found.kind, found.times, found.bytes) == ("all-reduce", 5, 5 * 3 * 4)


def test_what_is_gathered_is_named():
    mesh = train.data_mesh()
    x = jax.ShapeDtypeStruct((16, 3), "float32", sharding=train.batch_sharding(mesh))
    compiled = jax.jit(lambda x: x * 2, out_shardings=train.replicated(mesh)).lower(x).compile()
    assert collective_bytes(collectives(compiled)) == {"all-gather": 16 * 3 * 4}
