"""The paths of a network: their number, their gradients, and what they add up to."""

import itertools
import math

import jax
import numpy as np
import optax
import pytest

from resjax import InputError, analysis, train
from resjax.analysis.paths import _Linearised
from resjax.models import VGG, PreActResNet, restack

MODEL = PreActResNet(stage_sizes=(2, 2), widths=(3, 4))
IMAGES = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 10, 16)


@pytest.fixture(scope="module")
def variables(draw_variables):
    return draw_variables(MODEL, IMAGES)


@pytest.fixture(scope="module")
def gradients(variables):
    """Along each of the 16 paths, [16, N, H, W, C]."""
    run = jax.jit(jax.vmap(lambda path: analysis.input_gradients(MODEL, variables, IMAGES, LABELS, path)))
    return np.asarray(run(analysis.all_paths(4)))


@pytest.mark.quick
def test_path_lengths_are_binomial():
    """More than 95 % of the paths of 54 blocks are 19 to 35 long, and 0.45 % 5 to 17 (sections 3 and 4.3)."""
    shares = analysis.path_length_distribution(54)
    assert shares.sum() == pytest.approx(1) and shares[19:36].sum() == pytest.approx(0.9802, abs=1e-4)
    assert shares[5:18].sum() == pytest.approx(0.004537, abs=1e-6)
    paths = analysis.all_paths(6)
    assert len({tuple(path) for path in paths.tolist()}) == len(paths) == 64
    counted = np.bincount(paths.sum(1), minlength=7) / 64
    np.testing.assert_array_equal(analysis.path_length_distribution(6), counted)


@pytest.mark.quick
def test_random_paths_have_their_length_and_no_favourite_block():
    lengths = np.arange(6)[:, None].repeat(3000, 1)
    paths = analysis.random_paths(0, 5, lengths)
    np.testing.assert_array_equal(paths.sum(-1), lengths)
    np.testing.assert_allclose(paths.mean(1), (np.arange(6) / 5)[:, None].repeat(5, 1), atol=0.05)


def test_the_gradients_of_all_paths_add_up_to_the_gradient(variables, gradients):
    full = jax.jit(lambda: analysis.input_gradients(MODEL, variables, IMAGES, LABELS))()
    np.testing.assert_allclose(gradients.sum(0), full, atol=1e-5 * np.abs(full).max())
    assert np.abs(gradients).max((1, 2, 3, 4)).min() > 0

    def loss(images):
        logits = MODEL.apply(variables, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).sum()

    np.testing.assert_allclose(full, jax.jit(jax.grad(loss))(IMAGES), atol=1e-5 * np.abs(full).max())


def test_norms_are_those_of_each_images_own_path(variables, gradients):
    """On eight devices, each image on another path in each pass."""
    chosen = np.stack([np.arange(16), (5 * np.arange(16) + 3) % 16])
    paths = np.moveaxis(analysis.all_paths(4)[chosen], 2, 1)
    norms = analysis.path_gradient_norms(MODEL, variables, IMAGES, LABELS, paths)
    expected = np.linalg.norm(gradients[chosen, np.arange(16)].reshape(2, 16, -1), axis=-1)
    np.testing.assert_allclose(norms, expected, rtol=1e-4)


def test_all_paths_of_all_images_share_what_is_behind(variables, gradients, monkeypatch):
    """Of the 16 paths of four blocks, 2 + 4 + 8 + 16 parts differ, and not 4 for each path; in any order."""
    pulled = []
    pull = _Linearised.pull_both
    monkeypatch.setattr(_Linearised, "pull_both", lambda self, i, *rest: pulled.append(i) or pull(self, i, *rest))
    order = np.random.default_rng(0).permutation(16)
    paths = np.broadcast_to(analysis.all_paths(4)[order, :, None], (16, 4, 16))
    norms = analysis.path_gradient_norms(MODEL, variables, IMAGES, LABELS, paths)
    np.testing.assert_allclose(norms, np.linalg.norm(gradients.reshape(16, 16, -1), axis=-1)[order], rtol=1e-4)
    assert np.bincount(pulled).tolist() == [16, 8, 4, 2]


def test_gradients_whose_squares_are_below_float32_have_norms(variables):
    """Of a classifier that small the gradient is its own size times that of one slightly larger."""
    small, smaller = (
        jax.tree_util.tree_map_with_path(lambda path, leaf, s=s: leaf * s if "head" in str(path) else leaf, variables)
        for s in (1e-8, 1e-28)
    )
    paths = np.ones((1, 4, 16), bool)
    norms, tiny = (analysis.path_gradient_norms(MODEL, v, IMAGES, LABELS, paths) for v in (small, smaller))
    np.testing.assert_allclose(tiny * 1e20, norms, rtol=1e-4)
    blocks, tiny = (analysis.block_gradient_norms(MODEL, v, IMAGES, LABELS, paths[:, :, 0]) for v in (small, smaller))
    np.testing.assert_allclose(tiny * 1e20, blocks, rtol=1e-4)
    assert norms.min() > 0 and blocks.min() > 0


def test_a_block_learns_through_the_later_blocks_of_the_path(variables):
    """No gradient reaches a block off the path. What reaches one is a matter of the later blocks of the path alone; the
    last block has the gradient of the whole network."""
    paths = analysis.all_paths(4)
    mesh = train.data_mesh(jax.devices()[:2])
    norms = analysis.block_gradient_norms(MODEL, variables, IMAGES, LABELS, paths, mesh)
    np.testing.assert_array_equal(norms > 0, paths)

    def loss(params):
        logits = MODEL.apply(variables | {"params": params}, IMAGES)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    whole = jax.jit(jax.grad(loss))(variables["params"])
    block = whole["stage_2"]["block_2"]
    last = optax.tree.norm([block[conv]["kernel"] for conv in ("conv_1", "conv_2")])
    np.testing.assert_allclose(norms[paths[:, 3], 3], np.full(8, last), rtol=1e-4)
    np.testing.assert_allclose(np.asarray(analysis.block_norms(whole))[3], last, rtol=1e-5)
    for i in range(4):
        for later in itertools.product((False, True), repeat=3 - i):
            same = paths[:, i] & np.all(paths[:, i + 1 :] == later, axis=1)
            np.testing.assert_allclose(norms[same, i], norms[same, i][0], rtol=1e-4)
    assert len(np.unique(norms[paths[:, 0], 0].round(5))) == 8


def test_sums_over_devices_are_there_before_the_next_are_asked_for(variables):
    """Parts of programs that wait for other parts hold threads which those need: on two cores all would wait."""
    chain = _Linearised(MODEL, variables, IMAGES, LABELS, train.data_mesh(jax.devices()[:2]))
    cotangents = chain.cotangents
    for i in reversed(range(4)):
        norm, cotangents = chain.pull_one(i, cotangents)
        assert norm.is_ready() and cotangents.is_ready()


@pytest.mark.quick
def test_blocks_are_in_the_order_of_their_gates():
    def block(value):
        others = {"norm_1": {"scale": np.ones(1)}, "shortcut_conv": {"kernel": np.ones(1)}}
        return {"conv_1": {"kernel": np.float32([value])}} | others

    tree = {f"stage_{i}": {f"block_{j}": block(i * 100 + j) for j in range(1, 12)} for i in (2, 10, 1)}
    expected = [i * 100 + j for i in (1, 2, 10) for j in range(1, 12)]
    np.testing.assert_allclose(analysis.block_norms(tree | {"stem": {"w": np.ones(1)}}), expected)
    np.testing.assert_allclose(analysis.block_norms(restack(tree, tree)), expected)
    tree["stage_2"]["conv_1"] = {"kernel": np.ones(1)}  # of a transition, no block
    np.testing.assert_allclose(analysis.block_norms(tree), expected)


@pytest.mark.quick
def test_effective_lengths_are_the_shortest_range():
    assert analysis.effective_lengths(np.array([0, 1, 8, 1, 0]), 0.8) == (2, 2)
    assert analysis.effective_lengths(np.array([0, 1, 8, 1, 0]), 1.0) == (1, 3)
    assert analysis.effective_lengths(np.ones(10), 0.5) == (0, 4)


@pytest.mark.quick
def test_networks_without_blocks_have_no_paths():
    model = VGG(stage_sizes=(1,), width=3)
    with pytest.raises(InputError, match="VGG: has no residual blocks"):
        analysis.path_gradient_norms(model, {}, IMAGES, LABELS, np.zeros((1, 0, 16), bool))


@pytest.mark.quick
def test_expected_depth_is_the_distribution_of_sums():
    p = np.array([0.9, 0.5, 0.2, 0.7])
    shares = np.zeros(5)
    for active in itertools.product((0, 1), repeat=4):
        shares[sum(active)] += np.prod(np.where(active, p, 1 - p))
    np.testing.assert_allclose(analysis.depth_distribution(p), shares)
    assert np.arange(5) @ analysis.depth_distribution(p) == pytest.approx(p.sum())


@pytest.mark.quick
def test_contributions_follow_the_unravelled_view_where_gradients_decay():
    """Norms of exactly 3 * 0.4^k, k the later blocks of the path: binomial contributions, mean m r / (1 + r)."""
    paths = analysis.all_paths(5)
    later = np.array([[path[i + 1 :].sum() for i in range(5)] for path in paths])
    norms = np.where(paths, 3 * 0.4**later, 0)
    contributions = analysis.block_contributions(analysis.norms_by_length(norms, paths))
    for i, k in itertools.product(range(5), range(5)):
        assert contributions[i, k] == pytest.approx(3 * math.comb(4 - i, k) * 0.4**k)
    assert analysis.decay_rate(3 * 0.4 ** np.arange(6)) == pytest.approx(0.4)
    np.testing.assert_allclose(analysis.effective_depths(contributions), analysis.predicted_depths(5, 0.4))
    assert np.isnan(analysis.norms_by_length(norms[:1], paths[:1])).all()


@pytest.mark.quick
@pytest.mark.parametrize("blocks", [1, 5, 54])
def test_every_block_is_on_paths_of_every_size_with_none_and_all_of_the_later_ones_behind_it(blocks):
    paths = analysis.paths_behind_each_block(0, blocks, 3)
    sizes = [2**power for power in range(6) if 2**power < blocks]
    np.testing.assert_array_equal(paths.sum(0), 1 + 3 * len(sizes))
    assert set(sizes) | {blocks} <= set(paths.sum(1)) and len(paths) <= 7 * blocks
    later = np.cumsum(paths[:, ::-1], axis=1)[:, ::-1] - paths
    for i in range(blocks):
        assert {0, blocks - 1 - i} <= set(later[paths[:, i], i])


@pytest.mark.quick
def test_lengths_that_no_path_had_lie_between_their_neighbours():
    """Of gradients that decay exponentially nothing is lost: all contributions are as from all paths."""
    paths = analysis.paths_behind_each_block(1, 12, 2)
    later = np.cumsum(paths[:, ::-1], axis=1)[:, ::-1] - paths
    means = analysis.norms_by_length(np.where(paths, 3 * 0.4**later, 0), paths)
    for i, k in np.ndindex(12, 12):
        assert means[i, k] == pytest.approx(3 * 0.4**k) if k < 12 - i else np.isnan(means[i, k])
    depths = analysis.effective_depths(analysis.block_contributions(means))
    np.testing.assert_allclose(depths, analysis.predicted_depths(12, 0.4))


@pytest.mark.quick
def test_smoothness_and_disagreement():
    assert analysis.smoothness_index(np.linspace(0.1, 0.9, 11)) == pytest.approx(0.9)
    assert analysis.smoothness_index(np.array([0.1, 0.9, 0.9, 0.9])) == pytest.approx(0)
    assert analysis.smoothness_index(np.array([0.1, 0.1])) == 1
    predictions = np.random.default_rng(0).integers(0, 4, (5, 30))
    pairs = [(a != b).mean() for a, b in itertools.combinations(predictions, 2)]
    assert analysis.disagreement(predictions) == pytest.approx(np.mean(pairs))
    assert np.isnan(analysis.disagreement(predictions[:1]))
    votes = analysis.majority_vote(np.array([[0, 1, 2], [0, 1, 1], [3, 1, 2]]))
    np.testing.assert_array_equal(votes, [0, 1, 2])
    np.testing.assert_array_equal(analysis.valid_paths(3), [3, 2, 1, 0])
