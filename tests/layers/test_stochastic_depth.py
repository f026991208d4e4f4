"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382): what is drawn, and what networks make of it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import EffectivePaths, Gates, InputError, StochasticDepth
from resjax.models import VGG, DenseNet, Highway, PreActResNet, ResNet, WideResNet

L = 54  # blocks of ResNet-110
RULES = [StochasticDepth(0.5), StochasticDepth(0.8), StochasticDepth(0.7, decay="constant")]
IMAGES = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype(np.float32)
PLAIN = ResNet(stage_sizes=(2, 2), widths=(3, 4), shortcut="B")
BLOCKS = list(itertools.product(("stage_1", "stage_2"), ("block_1", "block_2")))


def _standard_errors(draws, p):
    """How far the means of draws [n, ..] are from p, in standard deviations."""
    return np.abs(draws.mean(0) - p) / np.sqrt(p * (1 - p) / len(draws))


@pytest.mark.quick
def test_survival_probabilities_are_the_papers():
    """Equation 4, and section 3: with p_L = 0.5 about 3 L / 4 blocks are active, 40 of 54."""
    p = StochasticDepth(0.5).survival_probabilities(L)
    np.testing.assert_allclose(p, [1 - block / L * (1 - 0.5) for block in range(1, L + 1)])
    assert p[-1] == 0.5 and p.sum() == pytest.approx(40.25) == (3 * L - 1) / 4
    np.testing.assert_array_equal(StochasticDepth(0.7, decay="constant").survival_probabilities(L), np.full(L, 0.7))
    np.testing.assert_array_equal(StochasticDepth(1.0).survival_probabilities(L), np.ones(L))


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_blocks_are_drawn_as_often_as_they_survive(rule, seed):
    """And each on its own: no two of them go together."""
    keys, p = jax.random.split(jax.random.key(seed), 4000), rule.survival_probabilities(L)
    gates = jax.jit(jax.vmap(lambda key: rule.training_gates(key, L, 8)))(keys)
    assert gates.branch is None and gates.skip is None and gates.active.shape == (4000, L)
    active = np.asarray(gates.active)
    assert _standard_errors(active, p).max() < 4.5
    assert abs(active.sum(1).mean() - p.sum()) < 4.5 * np.sqrt((p * (1 - p)).sum() / 4000)
    deviations = (active - p) / np.sqrt(p * (1 - p))
    correlations = np.abs(deviations.T @ deviations / 4000)[~np.eye(L, dtype=bool)]
    assert correlations.max() < 5.5 / np.sqrt(4000)


@pytest.mark.parametrize("seed", range(2))
def test_images_are_drawn_each_on_its_own(seed):
    rule, keys = StochasticDepth(0.5, per_sample=True), jax.random.split(jax.random.key(seed), 2000)
    gates = jax.jit(jax.vmap(lambda key: rule.training_gates(key, L, 4)))(keys)
    assert gates.active is None and gates.skip is None and gates.branch.shape == (2000, L, 4)
    branch, p = np.asarray(gates.branch), rule.survival_probabilities(L)
    assert set(np.unique(branch)) == {0, 1}
    assert _standard_errors(branch, p[:, None]).max() < 4.5
    assert _standard_errors(branch[..., 0] * branch[..., 1], p**2).max() < 4.5


@pytest.mark.quick
def test_effective_paths_have_exactly_so_many_blocks_any_of_them_alike():
    """23 of 54, and every block equally often: m / n of the batches, which evaluation multiplies by."""
    rule, keys = EffectivePaths(23), jax.random.split(jax.random.key(5), 4000)
    gates = jax.jit(jax.vmap(lambda key: rule.training_gates(key, L, 8)))(keys)
    assert gates.branch is None and gates.skip is None and gates.active.dtype == bool
    active = np.asarray(gates.active)
    np.testing.assert_array_equal(active.sum(1), 23)
    assert _standard_errors(active, np.full(L, 23 / L)).max() < 4.5
    np.testing.assert_allclose(rule.evaluation_gates(L).branch, 23 / L, rtol=1e-6)


@pytest.fixture(scope="module")
def variables(draw_variables):
    return draw_variables(PLAIN, IMAGES)


@functools.cache
def _step(model):
    """step(variables, key, gates) -> logits, new statistics and gradients of a training step, compiled."""

    @jax.jit
    def step(variables, key=None, gates=None):
        def loss(params):
            logits, new = model.apply(
                {**variables, "params": params},
                IMAGES,
                train=True,
                gates=gates,
                mutable=["batch_stats"],
                rngs={} if key is None else {"dropout": key},
            )
            return jnp.sin(logits).sum(), (logits, new["batch_stats"])

        gradients, (logits, statistics) = jax.grad(loss, has_aux=True)(variables["params"])
        return {"logits": logits, "statistics": statistics, "gradients": gradients}

    return step


def _active(statistics, old):
    """[.., num_blocks]; whether the branches of `PLAIN` ran, which moves their statistics, for each draw."""
    means = [[tree[stage][block]["norm_1"]["mean"] for stage, block in BLOCKS] for tree in (statistics, old)]
    return np.stack([np.any(np.asarray(new) != before, axis=-1) for new, before in zip(*means, strict=True)], axis=-1)


def _assert_same(got, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5), got, expected)


@pytest.mark.quick
@pytest.mark.parametrize("rescale", [False, True])
def test_training_leaves_out_the_branches_drawn(rescale, variables):
    """Logits, statistics and gradients are those of the network with these branches inactive, survivors as they are,
    or divided by p_l. A branch left out has gradients of exactly 0 and statistics as they were; shortcuts stay."""
    rule = StochasticDepth(0.4, rescale=rescale)
    old, seen = variables["batch_stats"], []
    for seed in range(6):
        result = _step(PLAIN.clone(stochastic_depth=rule))(variables, jax.random.key(seed))
        active = _active(result["statistics"], old)
        branch = 1 / rule.survival_probabilities(4) if rescale else np.ones(4)
        gates = Gates(branch.astype(np.float32), np.ones(4, np.float32), active)
        _assert_same(result, _step(PLAIN)(variables, gates=gates))
        for is_active, (stage, block) in zip(active, BLOCKS, strict=True):
            moves = jax.tree.map(np.subtract, result["statistics"][stage][block], old[stage][block])
            for tree in (result["gradients"][stage][block], moves):
                for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
                    is_shortcut = path[0].key.startswith("shortcut")
                    assert np.any(leaf != 0) == (is_active or is_shortcut), (stage, block, path)
        seen.append(active)
    assert np.all(np.any(seen, 0)) and not np.any(np.all(seen, 0)[1:])


@pytest.mark.quick
def test_networks_train_exactly_the_blocks_of_an_effective_path(variables):
    """Logits, statistics and gradients are those of the network with the other branches inactive."""
    seen = set()
    for seed in range(5):
        result = _step(PLAIN.clone(stochastic_depth=EffectivePaths(2)))(variables, jax.random.key(seed))
        active = _active(result["statistics"], variables["batch_stats"])
        assert active.sum() == 2
        ones = np.ones(4, np.float32)
        _assert_same(result, _step(PLAIN)(variables, gates=Gates(ones, ones, active)))
        seen.add(tuple(active))
    assert len(seen) > 1


def test_networks_draw_each_block_by_its_own_probability(variables):
    rule, keys = StochasticDepth(0.2), jax.random.split(jax.random.key(0), 1000)
    apply = functools.partial(PLAIN.clone(stochastic_depth=rule).apply, variables, IMAGES, mutable=["batch_stats"])
    run = jax.vmap(lambda key: apply(train=True, rngs={"dropout": key})[1]["batch_stats"])
    active = _active(jax.jit(run)(keys), variables["batch_stats"])
    assert _standard_errors(active, np.array([0.8, 0.6, 0.4, 0.2])).max() < 4.5


MODELS = [
    PLAIN,
    PreActResNet(stage_sizes=(1, 1), widths=(3, 4)),
    WideResNet(depth=10, widening_factor=1),
    Highway(stage_sizes=(1, 1), widths=(3, 4)),
]


@pytest.mark.quick
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_evaluation_scales_each_branch_by_its_survival(model, draw_variables):
    """Equation 5; or not at all, where training divided by it. Without a key."""
    variables, n = draw_variables(model, IMAGES), model.num_blocks
    plain = jax.jit(lambda branch: model.apply(variables, IMAGES, gates=Gates(branch)))
    whole = plain(np.ones(n, np.float32))
    for rule in RULES:
        logits = jax.jit(model.clone(stochastic_depth=rule).apply)(variables, IMAGES)
        np.testing.assert_allclose(logits, plain(rule.survival_probabilities(n).astype(np.float32)), atol=1e-5)
        assert np.abs(logits - whole).max() > 1e-3
    logits = jax.jit(model.clone(stochastic_depth=StochasticDepth(0.5, rescale=True)).apply)(variables, IMAGES)
    np.testing.assert_allclose(logits, whole, atol=1e-5)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_mean_over_draws_is_what_evaluation_computes(per_sample, rescale, draw_variables):
    """Of a block without ReLU behind the addition: shortcut + p branch, or the whole block where survivors are divided
    by p; the noise of the mean is that of a share of 2000 draws."""
    p, keys = 0.3, jax.random.split(jax.random.key(0), 2000)
    rule = StochasticDepth(p, per_sample=per_sample, rescale=rescale)
    model = PreActResNet(stage_sizes=(1,), widths=(3,), features_only=True)
    variables = draw_variables(model, IMAGES)

    def output(key, rule, gates):
        apply = functools.partial(model.clone(stochastic_depth=rule).apply, mutable=["batch_stats"])
        return apply(variables, IMAGES, train=True, gates=gates, rngs={"dropout": key})[0]["stage_1"]

    mean = jax.jit(lambda keys: jax.vmap(lambda key: output(key, rule, None))(keys).mean(0))(keys)
    shortcut, whole = (output(keys[0], None, Gates(np.array([gate], np.float32))) for gate in (0, 1))
    kept, expected = (1 / p, 1) if rescale else (1, p)
    noise = 4.5 * np.sqrt(p * (1 - p) / len(keys)) * kept * np.abs(whole - shortcut)
    assert np.all(np.abs(mean - (shortcut + expected * (whole - shortcut))) < noise + 1e-5)


@pytest.mark.quick
@pytest.mark.parametrize(("rescale", "kept"), [(False, 1.0), (True, 2.0)])
def test_each_image_has_its_own_network(rescale, kept, draw_variables):
    """Without BN an image's logits are those of one of the four networks with and without either layer, by chance."""
    rule = StochasticDepth(0.5, decay="constant", per_sample=True, rescale=rescale)
    model = Highway(stage_sizes=(1, 1), widths=(3, 4), dropout_rate=0.0)
    images = np.random.default_rng(1).normal(size=(32, 6, 6, 3)).astype(np.float32)
    variables = draw_variables(model, images)
    train = jax.jit(
        lambda key: model.clone(stochastic_depth=rule).apply(variables, images, True, rngs={"dropout": key})
    )
    networks = jax.jit(jax.vmap(lambda branch: model.apply(variables, images, gates=Gates(branch))))
    expected = networks(kept * np.float32([(0, 0), (0, 1), (1, 0), (1, 1)]))
    is_network = np.abs(train(jax.random.key(0)) - expected).max(-1) < 1e-5
    np.testing.assert_array_equal(is_network.sum(0), np.ones(32))
    assert np.all(is_network.sum(1) > 0)


def test_with_draws_for_each_image_every_branch_runs(draw_variables):
    """Behind the same batch statistics an image has the branch or not: its logits are those of one or the other."""
    model = ResNet(stage_sizes=(1,), widths=(3,))
    variables = draw_variables(model, IMAGES)
    rule = StochasticDepth(0.5, per_sample=True)
    open_, closed = (_step(model)(variables, gates=Gates(np.float32([gate]))) for gate in (1, 0))
    has_branch = []
    for seed in range(8):
        result = _step(model.clone(stochastic_depth=rule))(variables, jax.random.key(seed))
        is_open, is_closed = (np.abs(result["logits"] - each["logits"]).max(-1) < 1e-5 for each in (open_, closed))
        np.testing.assert_array_equal(is_open ^ is_closed, np.ones(3, bool))
        _assert_same(result["statistics"], open_["statistics"])
        has_branch.append(is_open)
    assert 0 < np.mean(has_branch) < 1 and any(len(set(row)) == 2 for row in np.asarray(has_branch).tolist())


@pytest.mark.quick
def test_gates_given_and_gates_drawn_are_both_obeyed(variables):
    """Factors are multiplied, and a branch runs where it was drawn and is asked for."""
    rule = StochasticDepth(0.4)
    model = PLAIN.clone(stochastic_depth=rule)
    given = Gates(np.float32([0.5, 2, 1, 0.7]), np.float32([1, 0.8, 1.1, 1]), np.array([True, True, False, True]))
    for seed in range(4):
        result = _step(model)(variables, jax.random.key(seed), given)
        drawn = _active(_step(model)(variables, jax.random.key(seed))["statistics"], variables["batch_stats"])
        _assert_same(result, _step(PLAIN)(variables, gates=given.replace(active=given.active & drawn)))
    evaluated = jax.jit(model.apply)(variables, IMAGES, gates=given)
    scaled = given.replace(branch=given.branch * np.float32(rule.survival_probabilities(4)))
    np.testing.assert_allclose(evaluated, jax.jit(PLAIN.apply)(variables, IMAGES, gates=scaled), atol=1e-5)


@pytest.mark.quick
def test_training_is_a_function_of_its_key_compiled_or_not(draw_variables):
    model = ResNet(stage_sizes=(1,), widths=(3,), stochastic_depth=StochasticDepth(0.5))
    variables = draw_variables(model, IMAGES)
    logits = {}
    for seed in range(6):
        key = jax.random.key(seed)
        result, again = (_step(model)(variables, key) for _ in range(2))
        jax.tree.map(np.testing.assert_array_equal, result, again)
        eager, _ = model.apply(variables, IMAGES, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        np.testing.assert_allclose(eager, result["logits"], atol=1e-5)
        logits[seed] = np.asarray(eager).round(4).tobytes()
    assert len(set(logits.values())) == 2  # with the block and without


def test_initialisation_needs_no_key_and_makes_every_branch():
    model = PLAIN.clone(stochastic_depth=StochasticDepth(0.01))
    drawn, plain = (
        jax.eval_shape(functools.partial(network.init, train=True), jax.random.key(0), IMAGES)
        for network in (model, PLAIN)
    )
    assert drawn == plain


@pytest.mark.quick
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_training_without_a_key_says_how(model):
    model = model.clone(
        stochastic_depth=StochasticDepth(0.5), **{"dropout_rate": 0.0} if isinstance(model, Highway) else {}
    )
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    message = r"stochastic_depth=StochasticDepth\(.*\) with train=True draws: pass rngs=\{'dropout': key\}"
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda v: model.apply(v, IMAGES, train=True, mutable=["batch_stats"]), variables)


@pytest.mark.quick
@pytest.mark.parametrize(
    "network", [functools.partial(ResNet, shortcut="none"), DenseNet, VGG], ids=["plain", "DenseNet", "VGG"]
)
def test_networks_without_blocks_refuse_it(network):
    with pytest.raises(InputError, match="stochastic_depth: this network has no residual blocks"):
        network(stochastic_depth=StochasticDepth(0.5))


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: StochasticDepth(0), r"survival_probability: expected a number in \(0, 1\], got 0"),
        (lambda: StochasticDepth(1.5), "survival_probability: .* got 1.5"),
        (lambda: StochasticDepth(True), "survival_probability: .* got True"),
        (lambda: StochasticDepth("0.5"), "survival_probability: .* got '0.5'"),
        (lambda: StochasticDepth(decay="cosine"), "decay: expected 'linear' or 'constant', got 'cosine'"),
        (lambda: ResNet(stochastic_depth=0.5), "stochastic_depth: expected resjax.StochasticDepth or .*, got 0.5"),
        (lambda: EffectivePaths(0), "active_blocks: expected a positive integer, got 0"),
        (lambda: EffectivePaths(2.0), "active_blocks: .* got 2.0"),
        (lambda: ResNet(stochastic_depth=EffectivePaths(10)), "active_blocks: the network has 9 blocks, got 10"),
    ],
)
def test_wrong_values_are_named(create, message):
    with pytest.raises(InputError, match=message):
        create()
