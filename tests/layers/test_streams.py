"""Several residual streams against the equations of their papers, in NumPy, and against the network without them."""

import functools

import jax
import numpy as np
import pytest

from resjax import AttentionResiduals, Gates, HyperConnections, InputError, LearnedScaling, analysis
from resjax.layers import BatchNorm, BlockSpec, Conv, ConvSpec, ResidualBlock
from resjax.models import PreActResNet, ResNet, restack

IMAGES = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
SMALL = {"stage_sizes": (4, 1), "widths": (3, 5)}
PREACTIVATED = BlockSpec((ConvSpec(3, 3), ConvSpec(3, 3)), "full_pre_activation")


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize(
    ("family", "rule", "options", "more"),
    [
        (ResNet, HyperConnections(4), {"scan": True, "remat": "full"}, 3 * (2 * 4 + 16)),
        (PreActResNet, HyperConnections(3, dynamic=True), {"scan": True}, 3 * (2 * 3 + 9 + 3 * (3 + 1) + 3 + 2)),
        (PreActResNet, HyperConnections(1), {"normalization": "none"}, 3 * (2 + 1)),
    ],
    ids=["four_scanned", "three_dynamic_scanned", "one_without_norm"],
)
def test_at_first_n_streams_are_the_plain_residual_network_bit_for_bit(family, rule, options, more, draw_variables):
    """Equation 14: with all other variables random, in evaluation and training; each block has 2 n + n^2 weights more,
    dynamic ones C (n + 1) + C + 2 more again."""
    plain = family(**SMALL, normalization=options.get("normalization", "batch"))
    model = family(**SMALL, streams=rule, **options)
    variables = draw_variables(plain, IMAGES)
    initial = jax.jit(model.init)(jax.random.key(0), IMAGES)
    own, given = leaves(restack(initial, ())), leaves(variables)
    assert sum(own[path].size for path in own.keys() - given.keys()) == more
    assert all("streams" in path for path in own.keys() - given.keys()) and own.keys() > given.keys()
    both = jax.tree_util.tree_map_with_path(
        lambda path, leaf: given.get(jax.tree_util.keystr(path), leaf), restack(initial, ())
    )

    def run(model, variables):
        return jax.jit(lambda v: (model.apply(v, IMAGES), model.apply(v, IMAGES, True, mutable=["batch_stats"])))(
            restack(variables, model.stacked_stages)
        )

    (expected, (trained, _)), (found, (also_trained, _)) = run(plain, variables), run(model, both)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(also_trained, trained, atol=1e-5)  # BN's sums may run in another order


def _branches(variables):
    """The branches of blocks of the order "full_pre_activation", each by itself: x -> F(x)."""
    block = ResidualBlock(Conv, BatchNorm, PREACTIVATED)
    run = jax.jit(lambda own, x: block.apply(own, x, Gates(skip=np.float32(0)), False))
    names = ("conv_1", "conv_2", "norm_1", "norm_2")
    return [functools.partial(run, _part(variables, f"block_{i + 2}", names)) for i in range(3)]


def _part(variables, block, names):
    found = {collection: tree["stage_1"][block] for collection, tree in variables.items()}
    return {collection: {name: tree[name] for name in names if name in tree} for collection, tree in found.items()}


def _stage(model, variables, images=IMAGES, **options):
    """(output of the first block, output of the stage) of a network of one stage."""
    alone = model.clone(stage_sizes=(1,), features_only=True, streams=None)
    of_first = {key: {**tree, "stage_1": {"block_1": tree["stage_1"]["block_1"]}} for key, tree in variables.items()}
    first = jax.jit(alone.apply)(of_first, images)["stage_1"]
    run = jax.jit(lambda v: model.clone(features_only=True).apply(v, images, **options))
    return np.asarray(first), np.asarray(run(variables)["stage_1"])


def test_streams_follow_the_equations_of_the_paper(draw_variables):
    """Equations 1 to 5 and 10 to 13 with random weights. The paper's streams keep their numbers, and the analysis gives
    its matrices; how much of a branch is in what is how far that moves if the branch does."""
    n, rule = 3, HyperConnections(3, dynamic=True)
    model = PreActResNet(stage_sizes=(4,), widths=(3,), streams=rule)
    variables = draw_variables(model, IMAGES)
    weights = [variables["params"]["stage_1"][f"block_{i + 2}"]["streams"] for i in range(3)]
    first, output = _stage(model, variables)
    streams, matrices = np.stack([first] * n), []
    sources = np.zeros((len(IMAGES), n, 4))
    sources[..., 0], rows = 1, []
    for k, (own, branch) in enumerate(zip(weights, _branches(variables), strict=True)):
        pooled = streams.mean((2, 3)).swapaxes(0, 1)  # [N, n, C]
        normed = (pooled - pooled.mean(-1, keepdims=True)) / np.sqrt(pooled.var(-1, keepdims=True) + 1e-6)
        # In the block, stream 0 is the one that the paper calls k mod n.
        read = (
            np.roll(own["read"], k)
            + own["read_and_mix_factor"] * np.tanh(normed @ np.roll(own["read_and_mix"]["kernel"], 0, 1)[:, :1])[..., 0]
        )
        of_image = np.tanh(normed @ own["read_and_mix"]["kernel"][:, 1:])
        mix = np.roll(own["mix"], (k, k), (0, 1)) + own["read_and_mix_factor"] * np.roll(of_image, k, -1)
        written = np.tanh(normed @ own["write_of_image"]["kernel"])[..., 0]
        write = np.roll(own["write"], k) + own["write_of_image_factor"] * written
        rows.append(np.einsum("bi,bis->bs", read, sources))
        h0 = np.einsum("bi,ibhwc->bhwc", read, streams).astype(np.float32)
        added = np.einsum("bj,bhwc->jbhwc", write, branch(h0))
        streams = np.einsum("bij,ibhwc->jbhwc", mix, streams) + added
        sources = np.einsum("bij,bis->bjs", mix, sources)
        sources[..., k + 1] += write
        matrices.append(np.block([[np.zeros((1, 1)), write.mean(0)[None]], [read.mean(0)[:, None], mix.mean(0)]]))
    np.testing.assert_allclose(output, streams.mean(0), atol=2e-4)
    (found,) = analysis.stream_mixing(model, variables, IMAGES)
    np.testing.assert_allclose(found.matrices, matrices, atol=1e-5)
    np.testing.assert_allclose(found.connections, np.stack([*rows, sources.mean(1)], 1).mean(0), atol=1e-5)


def test_attention_over_depth_follows_the_equations_of_the_paper(draw_variables):
    model = PreActResNet(stage_sizes=(4,), widths=(3,), streams=AttentionResiduals())
    variables = draw_variables(model, IMAGES)
    stage = variables["params"]["stage_1"]
    parts = [*(stage[f"block_{i + 2}"]["streams"] for i in range(3)), stage["merge"]]
    assert [leaf.size for part in parts for leaf in jax.tree.leaves(part)] == [3] * 8  # a query and a scale of the keys
    sources, output = [None], None
    sources[0], output = _stage(model, variables)
    rows = np.zeros((4, 4))

    def mixture(own):
        values = np.stack(sources)
        keys = values / np.sqrt(np.square(values).mean(-1, keepdims=True) + 1e-6) * own["key_norm"]["scale"]
        logits = np.exp(keys @ own["query"])
        weights = logits / logits.sum(0)
        rows[len(sources) - 1, : len(sources)] = weights.mean((1, 2, 3))
        return (weights[..., None] * values).sum(0)

    for own, branch in zip(parts, _branches(variables), strict=False):
        sources.append(branch(mixture(own)))
    np.testing.assert_allclose(output, mixture(parts[-1]), atol=1e-4)
    (found,) = analysis.stream_mixing(model, variables, IMAGES)
    np.testing.assert_allclose(found.connections, rows, atol=1e-5)
    assert found.matrices is None

    # With queries of zero, as at first, the mixture is the mean: BN hides the factor, up to its epsilon.
    zero = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * (path[-1].key != "query"), variables)
    train = {"train": True, "mutable": ["batch_stats"]}
    whole, plain = (
        jax.jit(lambda v, model=model: model.apply(v, IMAGES, **train)[0]["stage_1"])(zero)
        for model in (model.clone(features_only=True), model.clone(features_only=True, streams=None))
    )
    np.testing.assert_allclose(4 * whole, plain, atol=2e-2)


@pytest.mark.parametrize("rule", [HyperConnections(2), AttentionResiduals()], ids=str)
def test_gates_close_branches_and_skips_of_streams(rule, draw_variables):
    """Without the last branch, or with an inactive one, its variables have no effect; without its skip, only it has."""
    model = PreActResNet(stage_sizes=(4,), widths=(3,), streams=rule)
    variables = draw_variables(model, IMAGES)
    run = jax.jit(lambda v, gates: model.apply(v, IMAGES, gates=gates))
    moved = jax.tree.map(np.copy, variables)
    moved["params"]["stage_1"]["block_4"]["conv_2"]["kernel"] *= 2
    open_gates = Gates(np.ones(4, np.float32), np.ones(4, np.float32), np.ones(4, bool))
    for closed in (open_gates.replace(branch=np.float32([1, 1, 1, 0])), open_gates.replace(active=np.arange(4) < 3)):
        np.testing.assert_array_equal(run(variables, closed), run(moved, closed))
        assert not np.array_equal(run(variables, closed), run(variables, open_gates))
    np.testing.assert_allclose(run(variables, open_gates), model.apply(variables, IMAGES), atol=1e-5)
    neither = open_gates.replace(branch=np.float32([1, 1, 1, 0]), skip=np.float32([1, 1, 1, 0]))
    bias = variables["params"]["head"]["linear"]["bias"]
    final = variables["params"]["final_norm"], variables["batch_stats"]["final_norm"]
    zeros = np.maximum(final[0]["bias"] - final[1]["mean"] / np.sqrt(final[1]["var"] + 1e-5) * final[0]["scale"], 0)
    logits = zeros @ variables["params"]["head"]["linear"]["kernel"] + bias
    np.testing.assert_allclose(run(variables, neither), np.broadcast_to(logits, (4, 10)), atol=1e-5)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HyperConnections(0), "expected count >= 1, a number of streams, got 0"),
        (lambda: ResNet(streams=4), r"streams: expected resjax.HyperConnections\(..\) or .*, got 4"),
        (lambda: ResNet(streams=HyperConnections(), shortcut="none"), "a plain network has no residual stream"),
        (lambda: ResNet(streams=AttentionResiduals()), "order 'original' has its nonlinearity behind the addition"),
        (
            lambda: PreActResNet(streams=HyperConnections(), order="bn_after_addition"),
            "order 'bn_after_addition' normalises behind the addition",
        ),
        (
            lambda: PreActResNet(streams=HyperConnections(), shortcut_variant=LearnedScaling()),
            "take the place of LearnedScaling; choose one",
        ),
        (lambda: PreActResNet(streams=AttentionResiduals(), scan=True), "read ever more sources: scan=False or 'auto'"),
        (lambda: analysis.stream_mixing(ResNet(), {}, IMAGES), "has one residual stream"),
        (lambda: analysis.stream_mixing(ResNet(streams=HyperConnections()), {}, IMAGES[:0]), "expected at least one"),
        (
            lambda: analysis.residual_jacobians(ResNet(streams=HyperConnections()), {}, IMAGES),
            "has several residual streams",
        ),
    ],
)
def test_what_streams_cannot_be_is_said(make, message):
    with pytest.raises(InputError, match=message):
        make()
