"""A permuted copy of a network is the same function, and is put back exactly."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from resjax import InputError, analysis, train
from resjax.models import VGG, DenseNet, Highway, PreActResNet, ResNet, ResNeXt, SpeedResNet, restack, unrolled

IMAGES = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("model", "channels"),
    [
        # A stream of 4 channels to which 3 are appended, a channel of each block's own.
        (ResNet(stage_sizes=(2, 1), widths=(4, 7), shortcut="A"), [3, 4, 4, 4, 7]),
        (PreActResNet(stage_sizes=(1, 3), widths=(3, 4), block="bottleneck", shortcut="B", scan=True), None),
        (ResNet(stage_sizes=(1, 1), widths=(3, 4), shortcut="none"), [3, 3, 3, 4, 4]),
        (VGG(stage_sizes=(2, 1), width=5), [5, 5, 5]),
        (DenseNet(stage_sizes=(2, 1), growth_rate=3), None),
        (Highway(stage_sizes=(1, 2), widths=(3, 4)), None),
        (SpeedResNet(widths=(3, 4)), None),
        (ResNeXt(stage_sizes=(1,), widths=(4,), cardinality=2), None),  # its grouped channels stay
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_permuted_copy_is_matched_back(model, channels, draw_variables):
    model = unrolled(model) if channels else model
    variables = draw_variables(model, IMAGES)
    groups = analysis.exchangeable_channels(model, variables, IMAGES)
    assert len(groups) > 1 and (channels is None or sorted(group.size for group in groups) == channels)
    rng = np.random.default_rng(1)
    shuffled = analysis.permuted(variables, groups, [rng.permutation(group.size) for group in groups])
    apply, flat = jax.jit(unrolled(model).apply), flatten_dict(restack(variables, ()))
    np.testing.assert_allclose(apply(shuffled, IMAGES), apply(restack(variables, ()), IMAGES), rtol=1e-4, atol=1e-4)
    changed = [path for path, leaf in flatten_dict(shuffled).items() if np.any(leaf != flat[path])]
    assert len(changed) > len(flat) // 4
    back = analysis.permuted(shuffled, groups, analysis.match_weights(variables, shuffled, groups))
    for path, leaf in flatten_dict(back).items():
        np.testing.assert_array_equal(leaf, flat[path], err_msg=str(path))


def test_statistics_are_those_of_all_images(draw_variables):
    """Of one layer's inputs, over two whole batches; the images that are left over are not read."""
    model = VGG(stage_sizes=(1,), width=3)
    variables, images = draw_variables(model, IMAGES), np.random.default_rng(2).normal(size=(9, 8, 8, 3))
    found = analysis.with_statistics_of(model, variables, images, 4, train.data_mesh(jax.devices()[:2]))
    kernel = np.float64(variables["params"]["stage_1"]["conv_1"]["kernel"])
    padded = np.pad(images[:8], ((0, 0), (1, 1), (1, 1), (0, 0)))
    responses = sum(padded[:, i : i + 8, j : j + 8] @ kernel[i, j] for i, j in np.ndindex(3, 3))
    (statistics,) = [tree for tree in jax.tree.leaves(found["batch_stats"], is_leaf=lambda tree: "mean" in tree)]
    np.testing.assert_allclose(statistics["mean"], responses.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(statistics["var"], responses.var((0, 1, 2)), rtol=0.01)  # of a batch: unbiased


def test_losses_on_the_line_are_those_of_the_networks_on_it(draw_variables):
    """With the statistics of the images, too."""
    model, labels, mesh = VGG(stage_sizes=(1,), width=3), np.arange(4) % 3, train.data_mesh(jax.devices()[:2])
    one, other = (draw_variables(model, IMAGES, seed=seed) for seed in (0, 1))
    for resets in (False, True):
        parts = (model, one, other, np.array([0.0, 0.4]), IMAGES, labels, resets, 4, mesh)
        losses, errors = analysis.losses_between(*parts)
        point = analysis.between(one, other, 0.4)
        if resets:
            point = analysis.with_statistics_of(model, point, IMAGES, 4, mesh)
        logits = np.float64(model.apply(point, IMAGES))
        expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(4), labels]
        np.testing.assert_allclose(losses[1], expected.mean(), rtol=1e-4)
        assert errors[1] == (logits.argmax(1) != labels).mean()


def test_networks_between_two():
    one, other = {"a": np.zeros(2), "b": {"c": np.ones(3)}}, {"a": np.ones(2), "b": {"c": np.full(3, 5.0)}}
    middle = analysis.between(one, other, 0.25)
    np.testing.assert_array_equal(middle["a"], [0.25, 0.25])
    np.testing.assert_array_equal(middle["b"]["c"], [2, 2, 2])
    assert analysis.barrier(np.array([1.0, 1.5, 2.0])) == 0 and analysis.barrier(np.array([2.0, 5.0, 0.0])) == 4
    with pytest.raises(InputError, match="expected two networks of one architecture"):
        analysis.match_weights({"params": {"a": np.ones(2)}}, {"params": {"a": np.ones(3)}}, [])
