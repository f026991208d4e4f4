"""Lesions and reorderings: each is a network that is built that way, with the same weights."""

import jax
import numpy as np
import pytest
from scipy import stats

from resjax import Gates, InputError, analysis, train
from resjax.layers import BatchNorm
from resjax.models import VGG, DenseNet, Highway, PreActResNet, ResNet, restack

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(21, 8, 8, 3)).astype(np.float32)
# So many classes, without biases, that each lesion changes that of some image.
CLASSES = 200
RESIDUAL = PreActResNet(stage_sizes=(2, 3), widths=(3, 4), num_classes=CLASSES, scan=True)
PLAIN = VGG(stage_sizes=(2, 2), width=4, num_classes=CLASSES)


@pytest.fixture(scope="module")
def draw(draw_variables):
    def drawn(model):
        variables = draw_variables(model, IMAGES)
        head = variables["params"]["head"]["linear"]
        head["bias"] = 0 * head["bias"]
        return variables

    return drawn


@pytest.fixture(scope="module")
def variables(draw):
    return {model: draw(model) for model in (RESIDUAL, PLAIN)}


def _classes(model, variables):
    return np.asarray(jax.jit(model.apply)(variables, IMAGES)).argmax(-1)


def _without(variables, stage, names, gone):
    """The variables without entry `gone` of the `names` of a stage, those behind it renamed."""
    result = {}
    for collection, tree in restack(variables, ()).items():
        kept = [tree[stage].get(name) for name in names if name != gone]
        others = {key: value for key, value in tree[stage].items() if key not in names}
        renamed = {name: value for name, value in zip(names, kept, strict=False) if value is not None}
        result[collection] = tree | {stage: others | renamed}
    return result


@pytest.mark.parametrize("batch_size", [8, 16])
def test_a_lesion_is_the_network_built_without_that_block(batch_size, variables):
    """Of every block that can be left out of a network; a batch that is not full, on one device and on eight."""
    mesh = train.data_mesh(jax.devices()[: batch_size // 2])
    deleted = np.concatenate([np.zeros((1, 5), bool), analysis.single_lesions(5)])
    predictions = analysis.predict_without_blocks(
        RESIDUAL, variables[RESIDUAL], IMAGES, deleted, batch_size=batch_size, mesh=mesh
    )
    assert predictions.shape == (6, 21) and predictions.dtype == np.int32
    whole = _classes(RESIDUAL, variables[RESIDUAL])
    np.testing.assert_array_equal(predictions[0], whole)
    for lesion, stage, names, gone, sizes in (
        (2, "stage_1", ["block_1", "block_2"], "block_2", (1, 3)),
        (4, "stage_2", ["block_1", "block_2", "block_3"], "block_2", (2, 2)),
        (5, "stage_2", ["block_1", "block_2", "block_3"], "block_3", (2, 2)),
    ):
        built = RESIDUAL.clone(stage_sizes=sizes, scan=False)
        expected = _classes(built, _without(variables[RESIDUAL], stage, names, gone))
        np.testing.assert_array_equal(predictions[lesion], expected)
        assert np.any(expected != whole)
    # The first blocks of the stages, of which the down-sampling one keeps its shortcut.
    for lesion in (1, 3):
        branch = np.ones(5, np.float32)
        branch[lesion - 1] = 0
        closed = RESIDUAL.apply(variables[RESIDUAL], IMAGES, gates=Gates(branch))
        np.testing.assert_array_equal(predictions[lesion], closed.argmax(-1))
        assert np.any(predictions[lesion] != whole)


@pytest.mark.quick
def test_transition_blocks_change_the_shape():
    for model, expected in (
        (RESIDUAL, [2]),
        (ResNet(stage_sizes=(2, 1), widths=(3, 3), shortcut="B", stem_width=5), [0, 2]),
        (Highway(stage_sizes=(2, 2), widths=(3, 4)), []),
    ):
        variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
        assert analysis.transition_blocks(model, variables, IMAGES) == expected


def test_the_control_removes_the_skip_and_keeps_the_branch(variables):
    none = np.zeros((5, 5), bool)
    predictions = analysis.predict_without_blocks(
        RESIDUAL, variables[RESIDUAL], IMAGES, none, analysis.single_lesions(5), batch_size=24
    )
    run = jax.jit(lambda skip: RESIDUAL.apply(variables[RESIDUAL], IMAGES, gates=Gates(skip=skip)))
    for i in range(5):
        np.testing.assert_array_equal(predictions[i], run(np.float32(np.arange(5) != i)).argmax(-1))


def test_a_removed_layer_is_the_vgg_built_without_it(variables):
    """Convolution, BN and ReLU; the first layer, which changes the number of channels, stays."""
    names = analysis.removable_layers(PLAIN, variables[PLAIN], IMAGES)
    assert names == ["stage_1/conv_2", "stage_2/conv_1", "stage_2/conv_2"]
    removed = np.concatenate([np.zeros((1, 3), bool), analysis.single_lesions(3)])
    predictions = analysis.predict_without_layers(PLAIN, variables[PLAIN], IMAGES, removed, batch_size=8)
    whole = _classes(PLAIN, variables[PLAIN])
    np.testing.assert_array_equal(predictions[0], whole)
    for got, sizes, stage, gone in zip(
        predictions[1:], [(1, 2), (2, 1), (2, 1)], ["stage_1", "stage_2", "stage_2"], [2, 1, 2], strict=True
    ):
        without = variables[PLAIN]
        for kind in ("conv", "norm"):
            without = _without(without, stage, [f"{kind}_1", f"{kind}_2"], f"{kind}_{gone}")
        expected = _classes(VGG(stage_sizes=sizes, width=4, num_classes=CLASSES), without)
        np.testing.assert_array_equal(got, expected)
        assert np.any(expected != whole)


def test_layers_of_plain_resnets_are_those_that_keep_the_shape():
    model = ResNet(stage_sizes=(1, 1), widths=(3, 4), shortcut="none")
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    layers = analysis.removable_layers(model, variables, IMAGES)
    assert layers == [f"stage_{i}/block_1/conv_{j}" for i, j in ((1, 1), (1, 2), (2, 2))]


@pytest.mark.quick
def test_random_lesions_remove_k_parts_any_of_them_alike():
    lesions = analysis.random_lesions(3, 6, 2000)
    assert lesions.shape == (7, 2000, 6) and lesions.dtype == bool
    np.testing.assert_array_equal(lesions.sum(-1), np.arange(7)[:, None].repeat(2000, 1))
    np.testing.assert_allclose(lesions.mean(1), (np.arange(7) / 6)[:, None].repeat(6, 1), atol=0.05)
    assert (lesions[1:] >= lesions[:-1]).all(), "a draw removes one part after another"


@pytest.mark.parametrize(
    "model",
    [
        PreActResNet(stage_sizes=(3, 4), widths=(3, 4), num_classes=CLASSES, scan=True),
        ResNet(stage_sizes=(3, 4), widths=(3, 4), num_classes=CLASSES, shortcut="none"),
    ],
    ids=["residual", "plain"],
)
def test_blocks_in_another_order_are_the_network_with_their_weights_exchanged(draw, model):
    drawn = draw(model)
    groups = analysis.exchangeable_blocks(drawn)
    assert [group.tolist() for group in groups] == [[1, 2], [4, 5, 6]]
    orders = np.array([[0, 1, 2, 3, 4, 5, 6], [0, 2, 1, 3, 6, 4, 5]])
    predictions = analysis.predict_reordered(model, drawn, IMAGES, orders, batch_size=24)
    np.testing.assert_array_equal(predictions[0], _classes(model, drawn))
    exchanged = {}
    for collection, tree in restack(drawn, ()).items():
        first, second = tree["stage_1"], tree["stage_2"]
        exchanged[collection] = tree | {
            "stage_1": first | {"block_2": first["block_3"], "block_3": first["block_2"]},
            "stage_2": second
            | {"block_2": second["block_4"], "block_3": second["block_2"], "block_4": second["block_3"]},
        }
    expected = _classes(model.clone(scan=False), exchanged)
    np.testing.assert_array_equal(predictions[1], expected)
    assert np.any(predictions[1] != predictions[0])
    with pytest.raises(InputError, match="orders: expected permutations"):
        analysis.predict_reordered(model, drawn, IMAGES, np.array([[0, 1, 2, 4, 3, 5, 6]]), batch_size=24)


@pytest.mark.quick
def test_swaps_stay_within_their_group_and_tau_is_kendalls():
    groups = [np.arange(1, 4), np.arange(5, 9), np.arange(0)]
    orders = analysis.swapped_orders(0, groups, 10, np.arange(40) % 8)
    for order, swaps in zip(orders, np.arange(40) % 8, strict=True):
        for group in groups:
            assert set(order[group]) == set(group)
        assert order[[0, 4, 9]].tolist() == [0, 4, 9]
        assert (np.sum(order != np.arange(10)) <= 2 * swaps) and (swaps != 1 or np.sum(order != np.arange(10)) == 2)
    # Orders of one walk follow each other by a swap, those of different walks do not.
    walks = orders.reshape(5, 8, 10)
    np.testing.assert_array_equal((walks[:, 1:] != walks[:, :-1]).sum(-1), 2)
    assert len({tuple(order) for order in walks[:, 7].tolist()}) > 1
    expected = [stats.kendalltau(order, np.arange(10)).statistic for order in orders]
    np.testing.assert_allclose(analysis.kendall_tau(orders), expected, atol=1e-12)
    with pytest.raises(InputError, match="no stage has two blocks"):
        analysis.swapped_orders(0, [np.arange(1, 2)], 2, np.array([1]))


@pytest.mark.quick
def test_any_number_of_variants_and_batches_is_one_program():
    traced = []

    def apply(weights, variant, images):
        traced.append(images.shape)
        return images.sum((1, 2)) @ weights * variant

    weights, variants = RNG.normal(size=(3, 5)).astype(np.float32), RNG.normal(size=7).astype(np.float32)
    predictions = analysis.predict(apply, weights, variants, IMAGES, batch_size=8)
    logits = np.einsum("nhwc,ck,v->vnk", IMAGES, weights, variants)
    np.testing.assert_array_equal(predictions, logits.argmax(-1))
    assert len(traced) == 1


@pytest.mark.quick
def test_errors_are_shares_of_wrong_classes():
    predictions = np.array([[[0, 1, 2, 3]], [[0, 0, 0, 0]]])
    np.testing.assert_array_equal(analysis.error_rates(predictions, np.array([0, 1, 2, 2])), [[0.25], [0.75]])


@pytest.mark.quick
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analysis.predict_without_blocks(PLAIN, {}, IMAGES, np.zeros((1, 0), bool)), "VGG: has no residual"),
        (lambda: analysis.removable_layers(RESIDUAL, {}, IMAGES), "PreActResNet: has residual blocks"),
        (lambda: analysis.predict(None, {}, {}, IMAGES, batch_size=9), "batch_size 9 cannot be split evenly"),
        (lambda: analysis.predict(None, {}, {}, IMAGES[:0], batch_size=8), "images: expected at least one"),
        (lambda: analysis.layer_responses(PLAIN, {}, IMAGES[:0], batch_size=8), "images: expected at least one"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_networks_and_arrays_that_do_not_fit_are_named(variables, draw):
    single, without_bn = VGG(stage_sizes=(1,), width=4), Highway(stage_sizes=(1,), widths=(3,), head_width=None)
    with pytest.raises(InputError, match="VGG: no layer keeps the shape of its input"):
        analysis.removable_layers(single, draw(single), IMAGES)
    with pytest.raises(InputError, match=r"layers: expected bool \[lesions, 3\], got shape \(1, 4\)"):
        analysis.predict_without_layers(PLAIN, variables[PLAIN], IMAGES, np.zeros((1, 4), bool), batch_size=8)
    with pytest.raises(InputError, match="Highway: has no BN, whose outputs are the responses"):
        analysis.layer_responses(without_bn, draw(without_bn), IMAGES, batch_size=8)


@pytest.mark.parametrize(
    "model",
    [ResNet(stage_sizes=(1, 1), widths=(3, 4), shortcut="B"), DenseNet(stage_sizes=(1, 1), growth_rate=3)],
    ids=lambda model: type(model).__name__,
)
def test_responses_are_those_of_the_layers_bn(model, draw_variables):
    """Against every value that BN puts out, over images that fill no batch."""
    variables = draw_variables(model, IMAGES)
    responses = analysis.layer_responses(model, variables, IMAGES, batch_size=8)

    def is_norm(module, _):
        return isinstance(module, BatchNorm)

    _, state = jax.jit(lambda v: model.apply(v, IMAGES, capture_intermediates=is_norm, mutable=["intermediates"]))(
        variables
    )
    # The calls of a module, and of a norm of several arrays its value before their moments.
    values = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state["intermediates"]):
        *module, _ = (key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        values["/".join(module)] = np.asarray(leaf)
    expected = {name: value for name, value in values.items() if not name.endswith("shortcut_norm")}
    assert set(responses.layers) == set(expected) and len(responses.layers) == len(expected)
    for name, mean, deviation in zip(responses.layers, responses.means, responses.deviations, strict=True):
        np.testing.assert_allclose(deviation, expected[name].std(dtype=np.float64), rtol=1e-5)
        np.testing.assert_allclose(mean, expected[name].mean(dtype=np.float64), atol=1e-5)
    if isinstance(model, ResNet):
        blocks = [f"stage_{i}/block_1/norm_{j}" for i in (1, 2) for j in (1, 2)]
        assert list(responses.layers) == ["stem/norm", *blocks]
        assert len(values) == len(expected) + 1  # the projection's, which is no layer of the row
