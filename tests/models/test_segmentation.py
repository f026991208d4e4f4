"""Segmentation networks: exact counts, dilation that computes the same at more places, logits at their places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import InputError, create_model
from resjax.models import (
    ResNet,
    SegmentationNetwork,
    WiderResNet,
    create_segmentation_model,
    load_trunk,
    parameter_count,
    upsample,
)

TINY = {"stage_sizes": (1, 2, 1), "widths": (4, 6, 8), "features_only": True}
IMAGES = np.random.default_rng(0).normal(size=(2, 33, 26, 3)).astype(np.float32)


@pytest.mark.parametrize(("num_classes", "count"), [(21, 124_042_581), (19, 124_033_363), (150, 124_637_142)])
def test_counts_of_the_papers_networks_are_exact(num_classes, count):
    for variant in ("a1", "a2") if num_classes == 21 else ("a1",):
        model = create_segmentation_model(f"wider_resnet_38_{variant}", num_classes)
        assert parameter_count(model, (64, 64, 3)) == count


@pytest.mark.parametrize(
    ("name", "output_stride", "channels"),
    [("resnet_50", 8, 2048), ("resnet_101", 16, 2048), ("wider_resnet_38_a2", 8, 4096)],
)
def test_trunks_of_any_family_put_out_at_their_stride(name, output_stride, channels):
    model = create_segmentation_model(name, 7, output_stride)
    images = jax.ShapeDtypeStruct((1, 65, 64, 3), jnp.float32)
    rows, columns = -(-65 // output_stride), 64 // output_stride
    final, logits, coarse = (
        jax.eval_shape(lambda x, call=call: call(x)[0], images)
        for call in (
            lambda x: model.trunk.init_with_output(jax.random.key(0), x),
            lambda x: model.init_with_output(jax.random.key(0), x),
            lambda x: model.clone(coarse_training=True).init_with_output(
                {"params": jax.random.key(0), "dropout": jax.random.key(1)}, x, train=True
            ),
        )
    )
    assert final["final"].shape == (1, rows, columns, channels)
    assert logits.shape == (1, 65, 64, 7) and coarse.shape == (1, rows, columns, 7)


@pytest.mark.parametrize(
    "fields",
    [{}, {"block": "bottleneck"}, {"block": "bottleneck", "bottleneck_stride": "1x1"}, {"shortcut": "B"}],
    ids=["basic", "bottleneck", "v1", "projection"],
)
def test_dilated_trunk_computes_the_same_at_more_places(draw_variables, fields):
    """Of output stride 1 every second and fourth pixel is what the strided stages computed, from the same variables."""
    model = ResNet(**TINY, **fields)
    variables = draw_variables(model, IMAGES)
    strided, half, full = (
        jax.jit(model.clone(output_stride=stride).apply)(variables, IMAGES) for stride in (None, 2, 1)
    )
    for name, factor in {"stage_1": 1, "stage_2": 2, "stage_3": 4, "final": 4}.items():
        np.testing.assert_allclose(full[name][:, ::factor, ::factor], strided[name], atol=1e-4, err_msg=name)
    np.testing.assert_allclose(half["final"][:, ::2, ::2], strided["final"], atol=1e-4)
    assert full["final"].shape[1:3] == (33, 26) and half["final"].shape[1:3] == (17, 13)


def test_logits_are_two_dilated_convolutions_of_the_trunk(draw_variables):
    model = SegmentationNetwork(ResNet(**TINY, output_stride=2), 4, head_width=5, head_dilation=3, coarse_training=True)
    variables = draw_variables(model, IMAGES)
    trunk = jax.tree.map(lambda leaf: leaf, {kind: tree["trunk"] for kind, tree in variables.items()})
    x = np.asarray(model.trunk.apply(trunk, IMAGES)["final"], np.float64)

    def explicit(x, own):
        height, width = x.shape[1:3]
        padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
        taps = [
            padded[:, 3 * i : 3 * i + height, 3 * j : 3 * j + width] @ own["kernel"][i, j]
            for i in range(3)
            for j in range(3)
        ]
        return sum(taps) + own["bias"]

    params = variables["params"]
    expected = explicit(np.maximum(explicit(x, params["head_conv_1"]), 0), params["head_conv_2"])
    coarse = jax.jit(lambda v: model.apply(v, IMAGES, train=True, mutable=["batch_stats"]))
    frozen = model.clone(trunk=model.trunk.clone(frozen_statistics=True))
    logits, moved = jax.jit(lambda v: frozen.apply(v, IMAGES, train=True, mutable=["batch_stats"]))(variables)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
    # Frozen statistics stay; those of a batch move, and the logits with them.
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], variables["batch_stats"])
    free, moved = coarse(variables)
    assert np.abs(free - logits).max() > 0.01
    assert not np.allclose(jax.tree.leaves(moved)[0], jax.tree.leaves(variables["batch_stats"])[0])
    fine = jax.jit(model.apply)(variables, IMAGES)
    np.testing.assert_allclose(fine[:, ::2, ::2], expected, rtol=1e-3, atol=1e-3)


def test_enlarged_logits_are_interpolated_between_their_places():
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 2))
    fine = np.asarray(upsample(jnp.asarray(x, jnp.float32), (10, 5), 4))
    for row, column in np.ndindex(10, 5):
        r, c = min(row / 4, 2), min(column / 4, 1)
        i, j = min(int(r), 1), min(int(c), 0)
        a, b = r - i, c - j
        cells = x[0, i : i + 2, j : j + 2]
        expected = (1 - a) * (1 - b) * cells[0, 0] + (1 - a) * b * cells[0, 1] + a * (1 - b) * cells[1, 0]
        np.testing.assert_allclose(fine[0, row, column], expected + a * b * cells[1, 1], atol=1e-6)


def test_a_classifiers_weights_load_into_the_trunk_stacked_or_not(draw_variables):
    classifier = ResNet(stage_sizes=(3, 1), widths=(4, 6), scan=False)
    weights = draw_variables(classifier, IMAGES)
    trunk = classifier.clone(features_only=True, output_stride=1, scan=True)
    model = SegmentationNetwork(trunk, 3, head_width=4)
    loaded = load_trunk(jax.jit(model.init)(jax.random.key(0), IMAGES), weights)
    assert "blocks" in loaded["params"]["trunk"]["stage_1"] and set(loaded["params"]) > {"trunk", "head_conv_1"}
    own = {kind: tree["trunk"] for kind, tree in loaded.items()}
    expected = classifier.clone(features_only=True, output_stride=1).apply(weights, IMAGES)["final"]
    np.testing.assert_allclose(trunk.apply(own, IMAGES)["final"], expected, atol=1e-4)
    with pytest.raises(InputError, match=r"not those of .* trunk: .*expected \(3, 3, 4, 4\), got \(3, 3, 5"):
        load_trunk(loaded, draw_variables(classifier.clone(widths=(5, 6)), IMAGES))


def test_dropout_of_the_paper_unless_told_otherwise():
    assert create_segmentation_model("wider_resnet_38_a1", 21).trunk.dropout_rates == (0.3, 0.5)
    chosen = create_segmentation_model("wider_resnet_38_a1", 21, dropout_rates=(0.0, 0.0))
    assert chosen.trunk.dropout_rates == (0.0, 0.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: create_segmentation_model("resnet_50", 21, 12), "output_stride: expected one of 4, 8, 16, 32, got 12"),
        (lambda: create_segmentation_model("densenet_121", 21), "takes no 'output_stride'"),
        (lambda: SegmentationNetwork(create_model("resnet_20")), "features_only=True"),
        (lambda: SegmentationNetwork(ResNet(**TINY)), "output_stride"),
        (lambda: SegmentationNetwork(WiderResNet(features_only=True), 0), "num_classes: expected positive"),
    ],
)
def test_wrong_options_are_told_what_is_right(build, message):
    with pytest.raises(InputError, match=message):
        build()
