"""Exact sizes: the tables, the layers as they are called, arithmetic on the papers' text, published numbers."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from resjax import ConstantScaling, create_model, list_models, model_info
from resjax.models import multiply_adds, parameter_count, weighted_layers
from tests.helpers.counting import count_layers, counts

SHAPE = (32, 32, 3)

# Parameters and billions of multiply-adds, counted by arithmetic from the papers' text, apart from this library. The
# parameters agree with the authors' logs and with torchvision wherever those print them.
CIFAR = {
    "resnet_20": (269_722, 0.0406),
    "resnet_32": (464_154, 0.0689),
    "resnet_44": (658_586, 0.0972),
    "resnet_56": (853_018, 0.1255),
    "resnet_110": (1_727_962, 0.2529),
    "resnet_1202": (19_421_274, 2.8292),
    "plain_20": (269_722, 0.0406),
    "plain_32": (464_154, 0.0689),
    "plain_44": (658_586, 0.0972),
    "plain_56": (853_018, 0.1255),
    "plain_110": (1_727_962, 0.2529),
    "preresnet_110": (1_727_962, 0.2529),
    "preresnet_164": (1_703_258, 0.2445),
    "preresnet_1001": (10_327_706, 1.4878),
    "wrn_16_4": (2_748_890, 0.3926),
    "wrn_16_8": (10_961_370, 1.5481),
    "wrn_16_10": (17_116_634, 2.4122),
    "wrn_22_8": (17_158_106, 2.4541),
    "wrn_22_10": (26_797_914, 3.8278),
    "wrn_28_2": (1_467_610, 0.2144),
    "wrn_28_10": (36_479_194, 5.2433),
    "wrn_28_12": (52_517_850, 7.5439),
    "wrn_40_1": (563_930, 0.0833),
    "wrn_40_2": (2_243_546, 0.3276),
    "wrn_40_4": (8_949_210, 1.2986),
    "wrn_40_8": (35_748_314, 5.1720),
    "wrn_40_10": (55_841_754, 8.0745),
    "wrn_52_1": (758_362, 0.1116),
    "resnext_29_8x64d": (34_426_698, 5.3873),
    "resnext_29_16x64d": (68_155_210, 10.6889),
    "densenet_40_12": (1_019_722, 0.2648),
    "densenet_100_12": (6_979_642, 1.7695),
    "densenet_100_24": (27_249_082, 6.8893),
    "densenet_bc_100_12": (769_162, 0.2879),
    "densenet_bc_250_24": (15_324_406, 5.4188),
    "densenet_bc_190_40": (25_624_430, 9.3019),
    "densenet_bc_40_36": (1_542_682, 0.6473),
    "densenet_bc_40_48": (2_733_130, 1.1499),
    "densenet_bc_40_60": (4_261_690, 1.7958),
    "highway_19": (2_256_838, 0.3308),
    "vgg_15": (1_925_258, 0.3049),
    "speed_resnet": (1_972_480, 0.1181),
}
MNIST = {
    "highway_10_16": (38_986, 0.0080),
    "highway_10_32": (151_690, 0.0317),
}
IMAGENET = {
    "plain_18": (11_515_688, 1.7948),
    "plain_34": (21_623_848, 3.6445),
    "resnet_18": (11_689_512, 1.8141),
    "resnet_34": (21_797_672, 3.6638),
    "resnet_50": (25_557_032, 4.0892),
    "resnet_101": (44_549_160, 7.8014),
    "resnet_152": (60_192_808, 11.5136),
    "resnet_200": (64_673_832, 15.0075),
    "preresnet_152": (60_185_128, 11.5136),
    "preresnet_200": (64_666_152, 15.0075),
    "wrn_imagenet_18_1": (11_689_512, 1.8141),
    "wrn_imagenet_18_1.5": (25_875_816, 3.8663),
    "wrn_imagenet_18_2": (45_618_216, 6.6957),
    "wrn_imagenet_18_3": (101_783_976, 14.7244),
    "wrn_imagenet_34_1": (21_797_672, 3.6638),
    "wrn_imagenet_34_1.5": (48_613_608, 8.0281),
    "wrn_imagenet_34_2": (86_036_008, 14.0945),
    "wrn_50_2": (68_883_240, 11.3980),
    "wrn_101_2": (126_886_696, 22.7531),
    "resnext_50_2x40d": (25_425_000, 4.1245),
    "resnext_50_4x24d": (25_292_968, 4.1598),
    "resnext_50_8x14d": (25_603_016, 4.2674),
    "resnext_50_32x4d": (25_028_904, 4.2305),
    "resnext_101_2x40d": (44_456_296, 7.8436),
    "resnext_101_4x24d": (44_363_432, 7.8857),
    "resnext_101_8x14d": (45_104_328, 8.0769),
    "resnext_101_32x4d": (44_177_704, 7.9700),
    "resnext_101_1x100d": (85_611_336, 15.2729),
    "resnext_101_2x64d": (84_198_184, 15.1231),
    "resnext_101_64x4d": (83_455_272, 15.4603),
    "resnext_101_32x8d": (88_791_336, 16.4140),
    "densenet_121": (7_978_856, 2.8342),
    "densenet_161": (28_681_000, 7.7279),
    "densenet_169": (14_149_480, 3.3598),
    "densenet_201": (20_013_928, 4.2914),
    "densenet_264": (33_337_704, 5.7517),
    "wider_resnet_38_a": (109_167_912, 49.5186),
    "wider_resnet_38_a1": (109_167_912, 49.5186),
    "wider_resnet_38_a2": (109_167_912, 49.5186),
}


def count(name, **overrides):
    """Parameters and multiply-adds of a network, from the calls of its layers."""
    return count_layers(create_model(name, **overrides), model_info(name).input_size)


@pytest.mark.quick
def test_the_reference_covers_every_name():
    assert sorted(CIFAR | MNIST | IMAGENET) == list_models()


@pytest.mark.parametrize("name", CIFAR | MNIST | IMAGENET)
def test_the_table_the_modules_and_the_reference_agree(name):
    parameters, billions = (CIFAR | MNIST | IMAGENET)[name]
    info = model_info(name)
    small = SHAPE if name in CIFAR else (28, 28, 1)
    assert (info.num_classes, info.input_size) == ((1000, (224, 224, 3)) if name in IMAGENET else (10, small))
    assert round(info.multiply_adds / 1e9, 4) == billions
    assert info.parameters == parameters
    assert (info.parameters, info.multiply_adds) == counts(create_model(name), info.input_size)


@pytest.mark.parametrize(
    "name",
    [
        "resnet_20",
        "resnet_62",  # its stages are loops
        "plain_20",
        "preresnet_29",
        "wrn_16_4",
        "resnext_29_8x64d",
        "densenet_40_12",
        "highway_19",
        "vgg_15",
        "resnet_18",
    ],
)
def test_counting_functions_agree_with_the_calls_of_the_layers(name):
    model, shape = create_model(name), model_info(name).input_size
    assert bool(model.stacked_stages) == (name == "resnet_62")
    assert (parameter_count(model, shape), multiply_adds(model, shape)) == count(name)


def _conv_and_norm(kernel, inputs, outputs, size):
    weights = kernel * kernel * inputs * outputs
    return weights + 2 * outputs, weights * size * size


def _resnet(depth):
    """Parameters and multiply-adds of a CIFAR ResNet with option A, exactly, by hand."""
    parts = [_conv_and_norm(3, 3, 16, 32), (65 * 10, 64 * 10)]
    before = 16
    for width, size in ((16, 32), (32, 16), (64, 8)):
        for _ in range((depth - 2) // 6):
            parts += [_conv_and_norm(3, before, width, size), _conv_and_norm(3, width, width, size)]
            before = width
    return tuple(map(sum, zip(*parts, strict=True)))


def _wide_resnet(depth, k):
    """The same of a Wide ResNet; its BN sits before the convolutions, and its projections have none."""
    parts = [(9 * 3 * 16, 9 * 3 * 16 * 32 * 32), (2 * 64 * k + (64 * k + 1) * 10, 64 * k * 10)]
    before = 16
    for width, size in ((16 * k, 32), (32 * k, 16), (64 * k, 8)):
        for _ in range((depth - 4) // 6):
            parts += [_conv_and_norm(3, before, width, size), _conv_and_norm(3, width, width, size)]
            parts += [(2 * (before - width), 0)]
            if before != width:
                parts += [(before * width, before * width * size * size)]
            before = width
    return tuple(map(sum, zip(*parts, strict=True)))


@pytest.mark.quick
@pytest.mark.parametrize("name", [name for name in CIFAR if name.startswith(("resnet_", "plain_", "wrn_"))])
def test_the_table_holds_what_the_papers_text_adds_up_to(name):
    family, *numbers = name.split("_")
    info = model_info(name)
    expected = (_wide_resnet if family == "wrn" else _resnet)(*map(int, numbers))
    assert (info.parameters, info.multiply_adds) == expected


@pytest.mark.parametrize(
    ("name", "billions"), [("resnet_50", 3.8580), ("preresnet_152", 11.2824)], ids=["original", "pre_activation"]
)
def test_stride_in_the_first_1x1_saves_work_not_parameters(name, billions):
    parameters, work = count(name, bottleneck_stride="1x1")
    assert round(work / 1e9, 4) == billions
    assert parameters == model_info(name).parameters


@pytest.mark.quick
@pytest.mark.parametrize(
    ("depth", "block_type", "parameters"),
    [
        (40, (1, 3, 1), 1_429_082),
        (40, (3, 1), 1_211_354),
        (40, (1, 3), 1_297_370),
        (40, (3, 1, 1), 1_343_066),
        (28, (3, 3), 1_467_610),
        (22, (3, 1, 3), 1_145_498),
    ],
)
def test_block_types_of_wide_resnet_table_2(depth, block_type, parameters):
    assert create_model(f"wrn_{depth}_2", block_type=block_type).num_blocks == (depth - 4) // 2
    assert count(f"wrn_{depth}_2", block_type=block_type)[0] == parameters


@pytest.mark.parametrize(("deepening_factor", "blocks_per_group"), [(1, 12), (2, 6), (3, 4), (4, 3)])
def test_deepening_of_wide_resnet_table_3_keeps_the_count(deepening_factor, blocks_per_group):
    assert create_model("wrn_40_2", deepening_factor=deepening_factor).num_blocks == 3 * blocks_per_group
    assert count("wrn_40_2", deepening_factor=deepening_factor)[0] == 2_243_546


@pytest.mark.parametrize(
    ("name", "shortcut", "parameters"),
    [
        ("resnet_20", "B", 272_474),
        ("resnet_20", "C", 283_962),
        ("resnet_110", "C", 1_826_202),
        ("resnet_18", "C", 12_043_816),
        ("resnet_34", "A", 21_623_848),
        ("resnet_34", "C", 22_716_840),
    ],
)
def test_options_of_the_shortcut(name, shortcut, parameters):
    assert count(name, shortcut=shortcut)[0] == parameters


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    [
        ("resnet_110", 64, 1_733_812),
        ("wrn_28_10", 640, 36_536_884),
        ("resnext_29_8x64d", 1024, 34_518_948),
        ("densenet_40_12", 448, 1_060_132),
        ("densenet_bc_100_12", 342, 800_032),
        ("highway_19", 100, 2_265_928),
    ],
)
def test_100_classes_add_90_columns_of_the_linear_layer(name, features, parameters):
    assert parameters - model_info(name).parameters == 90 * (features + 1)
    assert count(name, num_classes=100) == (parameters, model_info(name).multiply_adds + 90 * features)


@pytest.mark.parametrize(("name", "trunk"), [("wider_resnet_38_a1", 105_070_912), ("resnet_18", 11_176_512)])
def test_no_classes_leave_the_linear_layer_out(name, trunk):
    assert count(name, num_classes=0)[0] == trunk


def test_multiply_adds_do_not_depend_on_parameters_or_dtype_but_on_pixels():
    """Twice the height and width: four times the convolutions, the same linear layer."""
    model, linear = create_model("resnet_8"), 64 * 10
    small, large = (multiply_adds(model, (size, size, 3)) for size in (32, 64))
    assert large - linear == 4 * (small - linear)
    assert multiply_adds(create_model("resnet_8", dtype="bfloat16"), SHAPE) == small


class Scanned(nn.Module):
    """Five products [1, 32 * 32] x [32 * 32, 32 * 32] of one description, behind a sum over the colours."""

    @nn.compact
    def __call__(self, images):
        weights = self.param("weights", nn.initializers.zeros, (5, 1024, 1024))
        flat = images.sum(-1).reshape(-1, 1024)
        return jax.lax.scan(lambda x, weight: (jnp.dot(x, weight), None), flat, weights)[0]


def test_a_scanned_layer_counts_as_often_as_it_runs():
    assert multiply_adds(Scanned(), SHAPE) == parameter_count(Scanned(), SHAPE) == 5 * 1024 * 1024
    assert weighted_layers(Scanned(), SHAPE) == 5


class Gram(nn.Module):
    """A product of pixels with each other, which no weight has a part in, before a linear layer."""

    @nn.compact
    def __call__(self, images):
        flat = images.reshape(len(images), -1, images.shape[-1])
        return nn.Dense(10)(jnp.einsum("nic,njc->nij", flat, flat).mean(1))


@pytest.mark.quick
def test_a_product_of_activations_is_no_layer():
    assert weighted_layers(Gram(), (4, 4, 3)) == 1


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize(
    ("name", "options", "layers"),
    [
        ("resnet_20", {}, 20),
        ("resnet_20", {"shortcut": "none"}, 20),
        ("resnet_20", {"shortcut": "C"}, 20),  # projections lie beside the layers of their blocks
        ("resnet_20", {"stage_sizes": (4, 4, 4)}, 26),
        ("resnet_20", {"block": "bottleneck", "shortcut": "B"}, 29),
        ("preresnet_29", {}, 29),
        ("resnet_18", {}, 18),
        ("wrn_16_1", {}, 14),  # its name counts the three projections, and not the linear layer
        ("resnext_29_2x4d", {}, 29),
    ],
)
def test_depth_is_counted_along_the_layers_and_not_read_from_a_name(name, options, layers, scan):
    assert weighted_layers(create_model(name, scan=scan, **options), (32, 32, 3)) == layers


@pytest.mark.parametrize(
    ("name", "layers"),
    [("densenet_22_4", 22), ("densenet_bc_22_4", 22), ("highway_19", 19), ("vgg_15", 15), ("speed_resnet", 8)],
)
def test_depth_of_networks_without_residual_stages(name, layers):
    assert weighted_layers(create_model(name), (32, 32, 3)) == layers


@pytest.mark.parametrize("name", ["resnet_1202", "preresnet_164"])
def test_depth_of_deep_networks(name):
    assert weighted_layers(create_model(name), SHAPE) == int(name.split("_")[1])


@pytest.mark.quick
def test_skips_are_known_from_the_module():
    with_skips = ["resnet_20", "preresnet_20", "wrn_10_1", "densenet_22_4", "highway_19", "speed_resnet"]
    assert all(create_model(name).has_skips for name in with_skips)
    assert not any(create_model(name).has_skips for name in ("plain_20", "plain_18", "vgg_15"))
    assert not create_model("resnet_20", shortcut="none").has_skips
    variants = {ConstantScaling(0.0, 1.0): False, ConstantScaling(0.5, 0.5): True, None: True}
    for variant, skips in variants.items():
        assert create_model("preresnet_20", order="original", shortcut_variant=variant).has_skips == skips
