"""ResNet for ImageNet: where a bottleneck strides, what the stem does, and blocks that start as their shortcut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import Gates, InputError, create_model
from resjax.models import ResNet, multiply_adds, parameter_count

IMAGENET = (224, 224, 3)
IMAGES = np.random.default_rng(0).normal(size=(2, 9, 6, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "count", "with_1x1", "with_3x3"),
    [("resnet_50", 25_557_032, 3.858, 4.089), ("resnet_101", 44_549_160, 7.570, 7.801)]
    + [("resnet_152", 60_192_808, 11.282, 11.514)],
)
def test_bottlenecks_stride_in_the_1x1_or_the_3x3(name, count, with_1x1, with_3x3):
    """The published multiply-adds of v1 and v1.5, in billions; the parameters are the same."""
    for stride, billions in (("1x1", with_1x1), ("3x3", with_3x3)):
        model = create_model(name, bottleneck_stride=stride)
        assert round(multiply_adds(model, IMAGENET) / 1e9, 3) == billions
    assert parameter_count(create_model(name, bottleneck_stride="1x1"), IMAGENET) == count
    assert create_model(name) == create_model(name, bottleneck_stride="3x3")


@pytest.mark.quick
def test_stages_of_an_imagenet_network_have_the_sizes_of_table_1():
    model = create_model("resnet_50", features_only=True)
    images = jax.ShapeDtypeStruct((1, *IMAGENET), jnp.float32)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0])
    assert shapes == {
        "stem": (1, 56, 56, 64),
        "stage_1": (1, 56, 56, 256),
        "stage_2": (1, 28, 28, 512),
        "stage_3": (1, 14, 14, 1024),
        "stage_4": (1, 7, 7, 2048),
        "final": (1, 7, 7, 2048),
    }


@pytest.mark.quick
@pytest.mark.parametrize(("block", "last_norm"), [("basic", "norm_2"), ("bottleneck", "norm_3")])
def test_zero_init_residual_starts_each_block_as_its_shortcut(block, last_norm):
    """In training and in evaluation, by the last BN scale alone, which learns at once: behind it comes no ReLU."""
    small = {"stage_sizes": (1, 1), "widths": (4, 6), "shortcut": "B", "block": block}

    @functools.partial(jax.jit, static_argnums=0)
    def start(zero_init_residual, branch):
        model = ResNet(**small, zero_init_residual=zero_init_residual)
        variables = model.init(jax.random.key(0, impl="rbg"), IMAGES)  # Threefry takes five times as long to compile
        apply = functools.partial(model.apply, variables, IMAGES, gates=Gates(jnp.full(2, branch)))
        return variables["params"], (apply(train=True, mutable=["batch_stats"])[0], apply())

    (params, opened), (_, closed) = start(True, 1.0), start(True, 0.0)
    jax.tree.map(np.testing.assert_array_equal, opened, closed)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "scale":
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, path[-2].key != last_norm))
    for opened, closed in zip(start(False, 1.0)[1], start(False, 0.0)[1], strict=True):
        assert np.abs(opened - closed).max() > 1e-3


@pytest.mark.quick
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zero_init_residual": True, "shortcut": "none"}, "zero_init_residual: a plain network .* computes nothing"),
        ({"cardinality": 2}, "cardinality, base_width: for bottlenecks only"),
        ({"base_width": 128}, "cardinality, base_width: for bottlenecks only"),
        ({"block": "bottleneck", "base_width": 3}, r"base_width: expected at least 4 for widths \(16, 32, 64\), got 3"),
        ({"block": "bottleneck", "cardinality": 0}, "cardinality: expected positive integers, got 0"),
        ({"stem_width": 0}, "stem_width: expected positive integers, got 0"),
        ({"block": "wide"}, "block: expected one of 'basic', 'bottleneck', got 'wide'"),
        ({"bottleneck_stride": "7x7"}, "bottleneck_stride: expected one of '1x1', '3x3', got '7x7'"),
        ({"stem": "mnist"}, "stem: expected one of 'cifar', 'cifar_max_pool', 'imagenet', got 'mnist'"),
    ],
)
def test_wrong_fields_are_named(options, message):
    with pytest.raises(InputError, match=message):
        ResNet(**options)
