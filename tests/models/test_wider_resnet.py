"""Wider ResNet-38: its three variants, and the trunk of output stride 8, which computes the same at more places."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resjax import InputError, create_model
from resjax.layers import BatchNorm, Conv
from resjax.models import WiderResNet, parameter_count

VARIANTS = ("a", "a1", "a2")
# Levels 2 .. 7, their widths by kind of block; two neighbours that are as wide as the level before them.
TINY = {
    "stage_sizes": (1, 1, 1, 2, 1, 1),
    "widths": ((4, 4), (4, 5), (3, 4), (4, 4), (2, 3, 5), (2, 3, 5)),
    "stem_width": 3,
    "num_classes": 3,
}
ALL_3X3 = TINY | {"widths": ((4, 4),) * 6}
# 21 x 17 on level 4 and 6 x 5 on level 6: neither a multiple of the strides before it.
IMAGES = np.random.default_rng(0).normal(size=(1, 165, 131, 3))


def _straight_line(variables, images, stage_sizes, output_stride, pooled, strided):
    """Logits of Wu et al. 2016 and the last feature map, from the variables alone."""
    params, statistics = variables["params"], variables["batch_stats"]

    def conv(x, kernel, stride=1, dilation=1):
        pads = [(dilation * (size // 2),) * 2 for size in kernel.shape[:2]]
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, pads, rhs_dilation=(dilation,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def norm_relu(x, own, running):
        scaled = (x - running["mean"]) / jnp.sqrt(running["var"] + 1.001e-5) * own["scale"] + own["bias"]
        return jnp.maximum(scaled, 0)

    def max_pool(x):
        height, width = x.shape[1:3]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
        return functools.reduce(
            jnp.maximum, [x[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
        )

    x = conv(images, params["stem"]["conv"]["kernel"])
    for level, num_blocks in enumerate(stage_sizes, start=2):
        keeps = output_stride == 8 and level > 4
        if level in pooled and not keeps:
            x = max_pool(x)
        for j in range(1, num_blocks + 1):
            own, running = (tree[f"stage_{level - 1}"][f"block_{j}"] for tree in (params, statistics))
            y = norm_relu(x, own["norm_1"], running["norm_1"])
            stride = 2 if j == 1 and level in strided and not keeps else 1
            if j == 1:
                x = conv(y, own["shortcut_conv"]["kernel"], stride)
            for i in range(1, 4 if "conv_3" in own else 3):
                if i > 1:
                    y = norm_relu(y, own[f"norm_{i}"], running[f"norm_{i}"])
                dilation = {5: 1 if (i, j) == (1, 1) else 2, 6: 4, 7: 4}[level] if keeps else 1
                y = conv(y, own[f"conv_{i}"]["kernel"], stride if i == 1 else 1, dilation)
            x = x + y
    x = norm_relu(x, params["final_norm"], statistics["final_norm"])
    return x.mean((1, 2)) @ params["head"]["linear"]["kernel"] + params["head"]["linear"]["bias"]


@pytest.mark.parametrize(
    ("variant", "output_stride", "pooled", "strided"),
    [
        ("a", 32, (2, 3, 4, 5, 6), ()),
        ("a1", 32, (), (2, 3, 4, 5, 6)),
        ("a2", 32, (2, 3), (4, 5, 6)),
        ("a", 8, (2, 3, 4), ()),
        ("a1", 8, (), (2, 3, 4)),
    ],
)
def test_network_is_the_authors(variant, output_stride, pooled, strided, draw_variables, in_float64):
    model = WiderResNet(**TINY, variant=variant, output_stride=output_stride, dtype=jnp.float64)
    images = IMAGES[:, :75, :66]
    variables = draw_variables(model, images, dtype=np.float64)
    reference = functools.partial(_straight_line, variables, images, TINY["stage_sizes"], output_stride)
    logits, expected = jax.jit(lambda: (model.apply(variables, images), reference(pooled, strided)))()
    np.testing.assert_allclose(logits, expected, rtol=1e-9)


@pytest.mark.parametrize(("variant", "fields"), [("a1", TINY), ("a2", TINY), ("a1", ALL_3X3)])
def test_every_fourth_pixel_of_stride_8_is_stride_32(variant, fields, draw_variables, in_float64):
    """Exactly, up to the borders: subsampling commutes with what follows once that is dilated (a trous).

    The convolution that had the stride reads the pixels that it read before; those behind it, and all of later levels,
    find theirs the factor apart by which the resolution is higher. Zeros beyond the border stay zeros.
    """
    model = WiderResNet(**fields, variant=variant, dtype=jnp.float64, features_only=True)
    variables = draw_variables(model, IMAGES, dtype=np.float64)
    run = jax.jit(lambda stride: model.clone(output_stride=stride).apply(variables, IMAGES), static_argnums=0)
    coarse, fine = run(32), run(8)
    for name, factor in {"stem": 1, "stage_3": 1, "stage_4": 2, "stage_5": 4, "stage_6": 4, "final": 4}.items():
        np.testing.assert_allclose(fine[name][:, ::factor, ::factor], coarse[name], atol=1e-10, err_msg=name)
    assert coarse["final"].shape[1:3] == (6, 5) and fine["final"].shape[1:3] == (21, 17)


def test_of_the_pooled_variant_stride_8_is_another_function(draw_variables):
    """Pooling before levels 5 and 6 is left out with its stride."""
    model = WiderResNet(**TINY, variant="a", features_only=True)
    images = IMAGES[:, :64, :64].astype(np.float32)
    variables = draw_variables(model, images)
    run = jax.jit(lambda stride: model.clone(output_stride=stride).apply(variables, images), static_argnums=0)
    coarse, fine = run(32), run(8)
    np.testing.assert_allclose(fine["stage_3"], coarse["stage_3"], atol=1e-5)
    assert np.abs(fine["stage_4"][:, ::2, ::2] - coarse["stage_4"]).max() > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_of_the_levels(variant):
    """Of 64 x 64 images through the published widths: halved before levels 2 .. 6, or 2 .. 4."""
    model = create_model(f"wider_resnet_38_{variant}", features_only=True)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    for output_stride, sizes in ((32, (64, 32, 16, 8, 4, 2, 2, 2)), (8, (64, 32, 16, 8, 8, 8, 8, 8))):
        network = model.clone(output_stride=output_stride)
        outputs, _ = jax.eval_shape(lambda x, n=network: n.init_with_output(jax.random.key(0), x), images)
        widths = (64, 128, 256, 512, 1024, 2048, 4096, 4096)
        names = ("stem", *(f"stage_{i}" for i in range(1, 7)), "final")
        assert {name: shape.shape for name, shape in outputs.items()} == {
            name: (1, size, size, width) for name, size, width in zip(names, sizes, widths, strict=True)
        }


@pytest.mark.parametrize("fields", [{}, ALL_3X3], ids=["published", "equal_widths"])
def test_variants_and_output_strides_have_the_same_variables(fields):
    """Every level's first block projects, also where nothing of its shape changes."""

    def shapes(variant, output_stride):
        model = create_model(f"wider_resnet_38_{variant}", **fields, output_stride=output_stride)
        return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))

    expected = shapes("a1", 32)
    for variant, output_stride in (("a", 32), ("a2", 32), ("a1", 8)):
        assert shapes(variant, output_stride) == expected
    for i in range(1, 7):
        stage = expected["params"][f"stage_{i}"]
        assert [name for name in stage if "shortcut_conv" in stage[name]] == ["block_1"]


def test_published_count():
    """Computed from the authors' code: 105,070,912 without the classifier of 1,000."""
    model = create_model("wider_resnet_38_a1")
    assert parameter_count(model, (224, 224, 3)) == 109_167_912
    assert parameter_count(model.clone(num_classes=0), (224, 224, 3)) == 105_070_912


@pytest.fixture(scope="module")
def modules():
    """modules(model) -> every layer called in training, by path, in order."""

    def traced(model):
        called = {}

        def record(call, args, kwargs, context):
            called["/".join(context.module.path)] = context.module
            return call(*args, **kwargs)

        images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        with nn.intercept_methods(record):
            jax.eval_shape(lambda x: model.init_with_output(rngs, x, train=True), images)
        return called

    return traced


def test_dilations_are_those_of_the_authors_segmentation_network(modules):
    """Level 5: its first 3x3 undilated, then 2; levels 6 and 7: 4. With output stride 32, none."""
    for output_stride in (32, 8):
        model = create_model("wider_resnet_38_a1", output_stride=output_stride)
        convs = {path: module for path, module in modules(model).items() if isinstance(module, Conv)}
        dilated = {path: conv.dilation for path, conv in convs.items() if conv.dilation != 1}
        expected = {f"stage_4/block_{j}/conv_{i}": 2 for j in (1, 2, 3) for i in (1, 2) if (j, i) != (1, 1)}
        expected |= {"stage_5/block_1/conv_2": 4, "stage_6/block_1/conv_2": 4}
        assert dilated == (expected if output_stride == 8 else {})
        strided = {path for path, conv in convs.items() if conv.strides == 2}
        levels = range(1, 4 if output_stride == 8 else 6)
        assert strided == {f"stage_{i}/block_1/{name}" for i in levels for name in ("conv_1", "shortcut_conv")}


def test_dropout_comes_before_the_last_convolution_of_levels_6_and_7(modules):
    called = modules(WiderResNet(**TINY, dropout_rates=(0.3, 0.5)))
    order = list(called)
    dropouts = {path: module.rate for path, module in called.items() if isinstance(module, nn.Dropout)}
    assert dropouts == {"stage_5/block_1/dropout_3": 0.3, "stage_6/block_1/dropout_3": 0.5}
    for path in dropouts:
        assert order[order.index(path) + 1] == path.replace("dropout", "conv")
    assert not any(isinstance(module, nn.Dropout) for module in modules(WiderResNet(**TINY)).values())


def test_every_norm_has_the_authors_epsilon(modules):
    norms = [module for module in modules(WiderResNet(**TINY)).values() if isinstance(module, BatchNorm)]
    assert len(norms) == 5 * 2 + 2 * 3 + 1 and {norm.epsilon for norm in norms} == {1.001e-5}


def test_dropout_without_a_key_says_how():
    model = WiderResNet(**TINY, dropout_rates=(0.0, 0.5))
    images = jnp.zeros((2, 8, 8, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    with pytest.raises(InputError, match=r"dropout_rate=0.5 with train=True draws: pass rngs"):
        jax.eval_shape(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]), variables)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variant": "b"}, "variant: expected one of 'a', 'a1', 'a2', got 'b'"),
        ({"output_stride": 16}, "output_stride: expected one of 8, 32, got 16"),
        ({"stage_sizes": (1, 1)}, "stage_sizes: expected an entry for each of levels 2 .. 7"),
        ({"widths": ((4, 4),) * 5 + ((4,),)}, "convolutions of a block: expected one of 2, 3, got 1"),
        ({"widths": ((4, 4),) * 5 + ((4, 0),)}, r"widths: expected positive integers, got \(4, 0\)"),
        ({"dropout_rates": (0.5,)}, "dropout_rates: expected those of levels 6 and 7"),
        ({"dropout_rates": (0.5, 1.0)}, r"dropout_rates: expected a number in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_options_are_told_what_is_right(fields, message):
    with pytest.raises(InputError, match=message):
        WiderResNet(**fields)
