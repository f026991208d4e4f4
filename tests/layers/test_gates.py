"""Gates: x' = after(skip * shortcut(x) + branch * branch(x)), by what closing, opening and scaling them does."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resjax import Gates, InputError
from resjax.layers import BatchNorm, BlockSpec, Conv, ConvSpec, ResidualBlock, Stage, StageSpec
from resjax.models import Highway, PreActResNet, ResNet, WideResNet
from resjax.models.checks import check_gates

FEATURES, BLOCKS = 4, 3
X = np.random.default_rng(7).normal(size=(2, 6, 6, FEATURES)).astype(np.float32)


NETWORKS = [
    PreActResNet(stage_sizes=(2, 1), widths=(3, 4), scan=True),
    Highway(stage_sizes=(2,), widths=(3,)),
]
CONVS = (ConvSpec(3, FEATURES, strided=True), ConvSpec(3, FEATURES))


def _stage(order):
    block = BlockSpec(CONVS, order=order, shortcut="A")
    return Stage(functools.partial(ResidualBlock, Conv, BatchNorm), StageSpec(block, block, BLOCKS))


STAGES = {order: _stage(order) for order in ("original", "full_pre_activation")}


@pytest.fixture(scope="module")
def run(draw_variables):
    """run[name](gates) -> output of that stage on X in evaluation mode, compiled."""

    def compiled(stage):
        variables = draw_variables(stage, X, Gates(), False)
        return jax.jit(lambda gates: stage.apply(variables, X, gates, False))

    return {name: compiled(stage) for name, stage in STAGES.items()}


@pytest.mark.quick
@pytest.mark.parametrize(("name", "after"), [("original", nn.relu), ("full_pre_activation", lambda x: x)])
def test_closed_branches_leave_the_shortcut(name, after, run):
    """A block whose branch is cut is the identity; for a ResNet but for the ReLU after the addition."""
    np.testing.assert_array_equal(run[name](Gates(branch=jnp.zeros(BLOCKS))), after(X))


@pytest.mark.parametrize("name", STAGES)
def test_open_gates_are_no_gates(name, run):
    ones = jnp.ones(BLOCKS)
    expected = run[name](Gates())
    for gates in (Gates(branch=ones), Gates(skip=ones), Gates(ones, ones)):
        np.testing.assert_allclose(run[name](gates), expected, rtol=1e-6, atol=1e-6)


def test_closed_skips_and_branches_leave_nothing(run):
    for name in STAGES:
        np.testing.assert_array_equal(run[name](Gates(jnp.zeros(BLOCKS), jnp.zeros(BLOCKS))), jnp.zeros_like(X))


def test_a_closed_skip_leaves_the_branch(run):
    """Of the last block, the shortcut alone and the branch alone add up to the block."""
    last = jnp.array([1.0, 1.0, 0.0])
    whole, shortcut, branch = map(run["full_pre_activation"], (Gates(), Gates(branch=last), Gates(skip=last)))
    np.testing.assert_allclose(whole, shortcut + branch, atol=1e-5)
    assert np.abs(shortcut).min() > 0 and np.abs(branch).min() > 0


@pytest.mark.quick
@pytest.mark.parametrize("name", STAGES)
def test_vmap_over_gates_is_a_loop(name, run):
    """All lesions of a stage at once."""
    branches = 1 - jnp.eye(BLOCKS)
    skips = jax.random.uniform(jax.random.key(1), (BLOCKS, BLOCKS))
    mapped = jax.jit(jax.vmap(run[name]))(Gates(branches, skips))
    for i in range(BLOCKS):
        np.testing.assert_allclose(mapped[i], run[name](Gates(branches[i], skips[i])), atol=1e-5)
    assert not np.allclose(mapped[0], mapped[1])


@pytest.mark.parametrize("name", STAGES)
def test_gradients_of_the_gates_add_up_to_the_difference(name, run):
    """Their integral along a line is the difference between its ends, across every kink of a ReLU."""
    start = Gates(jnp.array([0.3, 0.7, 1.1]), jnp.array([0.9, 0.6, 1.2]))
    direction = Gates(jnp.array([1.0, -0.5, 0.8]), jnp.array([-0.6, 0.5, 1.0]))

    def loss(distance):
        return jnp.sin(run[name](jax.tree.map(lambda p, d: p + distance * d, start, direction))).mean()

    slopes = jax.jit(jax.vmap(jax.grad(loss)))((jnp.arange(400) + 0.5) / 400)
    difference = loss(1.0) - loss(0.0)
    assert abs(difference) > 0.01
    np.testing.assert_allclose(slopes.mean(), difference, atol=1e-4)


@pytest.mark.quick
@pytest.mark.parametrize(
    "model", [ResNet(stage_sizes=(2, 2), widths=(4, 8)), WideResNet(depth=10, widening_factor=1)], ids=["resnet", "wrn"]
)
def test_each_block_of_a_network_reads_its_own_gate(model, draw_variables):
    """Each gate alone changes the logits, and each in its own way; open ones don't."""
    images = np.random.default_rng(1).normal(size=(1, 8, 8, 3)).astype(np.float32)
    variables, n = draw_variables(model, images), model.num_blocks
    run = jax.jit(jax.vmap(lambda branch: model.apply(variables, images, gates=Gates(branch))))
    logits = np.asarray(run(np.concatenate([np.ones((1, n)), 1 - np.eye(n)]))).reshape(n + 1, -1)
    distances = np.abs(logits[:, None] - logits[None]).max(-1)
    assert np.all(distances[~np.eye(n + 1, dtype=bool)] > 1e-3)
    np.testing.assert_allclose(logits[0], jax.jit(model.apply)(variables, images)[0], atol=1e-5)


ACTIVE = [(True, False, True), (False, False, True), (False, False, False)]


@pytest.mark.quick
@pytest.mark.parametrize("name", STAGES)
def test_an_inactive_branch_is_a_closed_one(name, run):
    for active in ACTIVE:
        closed = run[name](Gates(branch=jnp.array(active, jnp.float32)))
        np.testing.assert_allclose(run[name](Gates(active=jnp.array(active))), closed, atol=1e-6)
    np.testing.assert_allclose(run[name](Gates(active=np.ones(BLOCKS, bool))), run[name](Gates()), atol=1e-6)


@pytest.mark.quick
@pytest.mark.parametrize("name", STAGES)
def test_only_active_branches_move_their_statistics(name, draw_variables):
    """A branch closed by its factor runs all the same."""
    variables = draw_variables(STAGES[name], X, Gates(), False)

    old = variables["batch_stats"]
    step = jax.jit(lambda gates: STAGES[name].apply(variables, X, gates, True, mutable=["batch_stats"])[1])

    def moved(gates):
        """For each block, whether its statistics moved; all of them, or none."""
        moves = jax.tree.map(lambda new, old: bool(np.any(new != old)), step(gates)["batch_stats"], old)
        blocks = [jax.tree.leaves(moves[f"block_{i + 1}"]) for i in range(BLOCKS)]
        assert all(len(set(block)) == 1 for block in blocks)
        return tuple(block[0] for block in blocks)

    for active in ACTIVE:
        assert moved(Gates(active=jnp.array(active))) == active
    assert moved(Gates(branch=jnp.zeros(BLOCKS))) == (True,) * BLOCKS


@pytest.mark.parametrize("name", STAGES)
def test_vmap_over_active_is_a_loop(name, run):
    active = jnp.array(ACTIVE)
    mapped = jax.jit(jax.vmap(run[name]))(Gates(active=active))
    for i in range(len(ACTIVE)):
        np.testing.assert_allclose(mapped[i], run[name](Gates(active=active[i])), atol=1e-5)


@pytest.mark.quick
@pytest.mark.parametrize("name", STAGES)
def test_gates_of_each_image_are_those_of_the_image_alone(name, run):
    """In evaluation, where images do not meet; branches per image beside skips per block, and the other way round."""
    branch, skip = np.random.default_rng(2).uniform(0, 1.5, (2, BLOCKS, len(X))).astype(np.float32)
    shared = np.float32([0.3, 1.2, 0.8])
    for mixed, alone in (
        (Gates(branch, skip), lambda i: Gates(branch[:, i], skip[:, i])),
        (Gates(branch, shared), lambda i: Gates(branch[:, i], shared)),
        (Gates(shared, skip), lambda i: Gates(shared, skip[:, i])),
    ):
        outputs = run[name](mixed)
        for i in range(len(X)):
            np.testing.assert_allclose(outputs[i], run[name](alone(i))[i], atol=1e-6)


def test_times_multiplies_factors_and_keeps_what_both_leave_active():
    rng = np.random.default_rng(3)
    a, b = rng.uniform(size=(2, BLOCKS)).astype(np.float32)
    images = rng.uniform(size=(BLOCKS, 2)).astype(np.float32)
    one, other = np.array([True, True, False]), np.array([False, True, True])
    product = Gates(a, skip=images, active=one).times(Gates(b, skip=b, active=other))
    np.testing.assert_array_equal(product.branch, a * b)
    np.testing.assert_array_equal(product.skip, np.stack([images[i] * b[i] for i in range(BLOCKS)]))
    np.testing.assert_array_equal(product.active, [False, True, False])
    swapped = Gates(b, skip=b, active=other).times(Gates(a, skip=images, active=one))
    jax.tree.map(np.testing.assert_array_equal, swapped, product)


def test_times_open_gates_changes_nothing():
    gates = Gates(np.float32([0.5, 1, 2]), active=np.array([True, False, True]))
    for product in (gates.times(Gates()), Gates().times(gates)):
        assert product.skip is None
        jax.tree.map(np.testing.assert_array_equal, product, gates)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gates_keep_the_computation_dtype(dtype):
    conv, norm = (functools.partial(layer, dtype=dtype) for layer in (Conv, BatchNorm))
    block = ResidualBlock(conv, norm, BlockSpec(CONVS))
    gates = Gates(jnp.float32(0.5), jnp.float32(0.5))
    images = jax.ShapeDtypeStruct(X.shape, dtype)
    output, _ = jax.eval_shape(lambda x: block.init_with_output(jax.random.key(0), x, gates, False), images)
    assert output.dtype == dtype


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        (Gates(branch=jnp.ones(3)), r"gates.branch: .*\(4,\).* got \(3,\)"),
        (Gates(skip=jnp.ones((4, 1))), r"gates.skip: .*\(4,\).*\(4, 2\), one for each image.* got \(4, 1\)"),
        (Gates(branch=jnp.ones((2, 4))), r"gates.branch: .*\(4,\).*\(4, 2\).* got \(2, 4\)"),
        (Gates(active=jnp.ones(4)), "gates.active: expected bool, got float32"),
        (Gates(active=jnp.ones(3, bool)), r"gates.active: .*\(4,\).* got \(3,\)"),
        (Gates(active=jnp.ones((4, 2), bool)), r"gates.active: expected .*\(4,\), one entry per .*block; got \(4, 2\)"),
        (Gates(active=True), r"gates.active: .*\(4,\).* got True"),
        (Gates(branch=1.0), r"gates.branch: .*\(4,\).* got 1.0"),
        (jnp.ones(4), "expected resjax.Gates, got ArrayImpl"),
    ],
)
def test_wrong_gates_are_named(gates, message):
    model = ResNet(stage_sizes=(2, 2), widths=(4, 8))
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((2, 8, 8, 3)), gates=gates))


def test_a_plain_network_takes_no_gates():
    model = ResNet(stage_sizes=(1,), widths=(4,), shortcut="none")
    assert model.num_blocks == 0
    with pytest.raises(InputError, match="no residual blocks"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), gates=Gates(jnp.ones(1))))


def _random(seed, shape):
    return jax.random.uniform(jax.random.key(seed), shape, minval=0.3, maxval=1.2)


@pytest.mark.quick
@pytest.mark.parametrize("model", NETWORKS, ids=lambda model: type(model).__name__)
def test_gradients_take_the_path_that_backward_gates_leave_them(model, draw_variables):
    """The logits are the whole network's. Jacobians are a product of sums, skip + branch, one for each block: the
    gradients of all 2^n paths add up to the full one, and those with factors are the paths weighted by them."""
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables, n = draw_variables(model, images), model.num_blocks

    @jax.jit
    def run(gates):
        def loss(images):
            logits = model.apply(variables, images, gates=gates)
            return jnp.sin(logits).sum(), logits

        return jax.grad(loss, has_aux=True)(images)

    full, logits = run(None)
    routed = jax.jit(lambda backward: run(Gates(backward=backward)))
    masks = np.array(list(itertools.product((0.0, 1.0), repeat=n)), np.float32)
    paths, values = jax.jit(jax.vmap(routed))(Gates(masks, 1 - masks))
    np.testing.assert_allclose(values, np.broadcast_to(logits, values.shape), atol=1e-5)
    np.testing.assert_allclose(paths.sum(0), full, atol=2e-5)
    branch, skip = _random(0, (n,)), _random(1, (n,))
    weights = jnp.prod(jnp.where(masks > 0, branch, skip), -1)
    weighted, _ = routed(Gates(branch, skip))
    np.testing.assert_allclose(weighted, jnp.tensordot(weights, paths, 1), atol=2e-5)
    assert np.abs(weighted - full).max() > 1e-2
    each = np.stack([masks[1], masks[2]], -1)  # [n, N]: a path of its own for each image
    mixed, _ = routed(Gates(each, 1 - each))
    np.testing.assert_allclose(mixed, np.stack([paths[1][0], paths[2][1]]), atol=1e-5)


@pytest.mark.quick
def test_backward_gates_count_in_products_and_are_checked():
    """Of both at once, each attribute that is not given backward is as forward."""
    a = Gates(jnp.array([2.0]), backward=Gates(skip=jnp.array([3.0])))
    b = Gates(jnp.array([5.0]), jnp.array([7.0]))
    product = a.times(b)
    assert (product.branch[0], product.skip[0]) == (10, 7)
    assert (product.backward.branch[0], product.backward.skip[0]) == (10, 21)
    for backward, message in (
        (Gates(jnp.ones(2)), r"gates.backward.branch: expected an array of shape \(1,\)"),
        (Gates(active=jnp.ones(1, bool)), "gates.backward: takes branch and skip alone"),
        (jnp.ones(1), "gates.backward: expected resjax.Gates, got"),
    ):
        with pytest.raises(InputError, match=message):
            check_gates(Gates(backward=backward), 1, 4)
