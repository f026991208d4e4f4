"""Names of networks: which exist, what they build, what is known of them, and what a wrong one is told."""

import jax.numpy as jnp
import pytest

import resjax
from resjax import InputError, create_model, list_models, model_info
from resjax.data import list_datasets
from resjax.models import (
    VGG,
    DenseNet,
    Highway,
    PreActResNet,
    ResNet,
    ResNeXt,
    SpeedResNet,
    WideResNet,
    WiderResNet,
)
from resjax.models.published import HE_2016, HUANG_2016_DEPTH, TORCHVISION, PublishedResult
from resjax.models.published.cifar import CIFAR_NETWORKS
from resjax.models.published.imagenet import IMAGENET_NETWORKS

NETWORKS = CIFAR_NETWORKS | IMAGENET_NETWORKS
IMAGENET = {
    "stage_sizes": (2, 2, 2, 2),
    "widths": (64, 128, 256, 512),
    "stem": "imagenet",
    "shortcut": "B",
    "num_classes": 1000,
}


@pytest.mark.quick
def test_names_are_sorted_and_filtered_by_wildcards():
    assert list_models() == sorted(set(list_models()))
    assert list_models("plain*") == [
        "plain_110",
        "plain_18",
        "plain_20",
        "plain_32",
        "plain_34",
        "plain_44",
        "plain_56",
    ]
    assert list_models("wrn_16_?") == ["wrn_16_4", "wrn_16_8"]
    assert list_models("densenet_[0-9][0-9][0-9]") == [f"densenet_{depth}" for depth in (121, 161, 169, 201, 264)]
    assert list_models("inception*") == []


@pytest.mark.quick
@pytest.mark.parametrize("name", list_models())
def test_every_name_creates_a_network_for_its_papers_images(name):
    model, info = create_model(name), model_info(name)
    assert info.name == name
    assert info.paper.arxiv in str(info.paper)
    assert (info.num_classes, info.num_blocks) == (model.num_classes, model.num_blocks)
    assert (info.input_size, model.num_classes) in (((32, 32, 3), 10), ((28, 28, 1), 10), ((224, 224, 3), 1000))
    assert model.minimum_size <= info.input_size[0]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "module", "fields"),
    [
        ("resnet_110", ResNet, {"stage_sizes": (18, 18, 18), "shortcut": "A"}),
        ("plain_20", ResNet, {"stage_sizes": (3, 3, 3), "shortcut": "none"}),
        ("resnet_18", ResNet, IMAGENET),
        ("resnet_200", ResNet, IMAGENET | {"stage_sizes": (3, 24, 36, 3), "block": "bottleneck"}),
        ("plain_34", ResNet, IMAGENET | {"stage_sizes": (3, 4, 6, 3), "shortcut": "none"}),
        ("preresnet_110", PreActResNet, {"stage_sizes": (18, 18, 18)}),
        ("preresnet_164", PreActResNet, {"stage_sizes": (18, 18, 18), "block": "bottleneck", "shortcut": "B"}),
        ("preresnet_34", PreActResNet, IMAGENET | {"stage_sizes": (3, 4, 6, 3), "bottleneck_stride": "3x3"}),
        ("wrn_16_8", WideResNet, {"depth": 16, "widening_factor": 8}),
        (
            "wrn_101_2",
            ResNet,
            IMAGENET | {"stage_sizes": (3, 4, 23, 3), "block": "bottleneck", "base_width": 128},
        ),
        ("wrn_imagenet_18_1.5", ResNet, IMAGENET | {"stem_width": 64, "widths": (96, 192, 384, 768)}),
        ("resnext_29_16x64d", ResNeXt, {"stage_sizes": (3, 3, 3), "cardinality": 16, "base_width": 64}),
        (
            "resnext_50_32x4d",
            ResNeXt,
            IMAGENET | {"stage_sizes": (3, 4, 6, 3), "block": "bottleneck", "cardinality": 32, "base_width": 4},
        ),
        (
            "densenet_40_12",
            DenseNet,
            {"stage_sizes": (12, 12, 12), "stem_width": 16, "bottleneck": False, "compression": 1.0},
        ),
        ("densenet_bc_190_40", DenseNet, {"stage_sizes": (31, 31, 31), "growth_rate": 40, "stem_width": 80}),
        (
            "densenet_121",
            DenseNet,
            {
                "stage_sizes": (6, 12, 24, 16),
                "growth_rate": 32,
                "stem_width": 64,
                "stem": "imagenet",
                "num_classes": 1000,
            },
        ),
        ("highway_19", Highway, {}),
        ("vgg_15", VGG, {}),
        ("speed_resnet", SpeedResNet, {"widths": (64, 256, 256)}),
        ("wider_resnet_38_a2", WiderResNet, {"variant": "a2", "num_classes": 1000}),
    ],
)
def test_a_name_stands_for_fields(name, module, fields):
    assert create_model(name) == module(**fields)


@pytest.mark.quick
def test_overrides_are_fields_of_the_module():
    model = create_model("wrn_28_10", num_classes=100, dtype=jnp.bfloat16, dropout_rate=0.3)
    assert model == WideResNet(depth=28, widening_factor=10, num_classes=100, dtype=jnp.bfloat16, dropout_rate=0.3)
    assert create_model("resnet_20", shortcut="C", norm_momentum=0.5) == ResNet(shortcut="C", norm_momentum=0.5)


def test_a_name_outside_the_table_is_built_and_counted():
    """WRN-10-1 and ResNet-8, counted by hand: stem, blocks, transitions, linear."""
    stages = 9 * (16 * 16 + 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    resnet, wide = model_info("resnet_8"), model_info("wrn_10_1")
    assert resnet.parameters == 9 * 3 * 16 + stages + 2 * (16 + 2 * (16 + 32 + 64)) + 650
    projections = 16 * 32 + 32 * 64
    assert wide.parameters == 9 * 3 * 16 + stages + projections + 2 * (16 + 16 + 16 + 32 + 32 + 64 + 64) + 650
    assert (resnet.num_blocks, wide.num_blocks) == (3, 3)
    assert (resnet.published, wide.published) == ((), ())


# The error to compare with, of CIFAR-10 or of one 224x224 crop of ImageNet where published, as the papers print it.
FIRST = {
    "resnet_20": 8.75,
    "resnet_32": 7.51,
    "resnet_44": 7.17,
    "resnet_56": 6.97,
    "resnet_110": 6.43,
    "resnet_1202": 7.93,
    "preresnet_110": 6.37,
    "preresnet_164": 5.46,
    "preresnet_1001": 4.92,
    "wrn_40_4": 4.53,
    "wrn_16_8": 4.27,
    "wrn_22_8": 4.38,
    "wrn_28_10": 4.00,
    "wrn_28_12": 4.33,
    "wrn_40_1": 6.85,
    "resnext_29_8x64d": 3.65,
    "resnext_29_16x64d": 3.58,
    "densenet_40_12": 5.24,
    "densenet_100_24": 3.74,
    "densenet_bc_250_24": 3.62,
    "densenet_bc_190_40": 3.46,
    "highway_19": 7.60,
    "highway_10_32": 0.45,
    "plain_34": 28.54,
    "resnet_18": 30.43,
    "resnet_50": 23.9,
    "resnet_152": 22.16,
    "preresnet_200": 21.66,
    "wrn_imagenet_18_3": 24.06,
    "wrn_50_2": 21.9,
    "resnext_50_32x4d": 22.2,
    "resnext_101_64x4d": 20.4,
    "densenet_121": 25.02,
    "densenet_264": 22.15,
    "wider_resnet_38_a": 19.20,
}


@pytest.mark.quick
@pytest.mark.parametrize("name", FIRST)
def test_the_first_published_error_is_the_papers(name):
    assert model_info(name).published[0].test_error == FIRST[name]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "dataset", "fields", "errors"),
    [
        ("wrn_28_10", "cifar100", {"aggregate": "median", "whitened": False}, [(19.25, None)]),
        ("wrn_28_10", "cifar100", {"whitened": True}, [(20.50, None)]),
        ("wrn_16_8", "svhn_cropped", {"options": {"dropout_rate": 0.4}}, [(1.54, None)]),
        ("preresnet_1001", "cifar10", {"batch_size": 64}, [(4.62, None)]),
        ("preresnet_1001", "cifar100", {"aggregate": "median", "runs": 5, "mean": 22.68}, [(22.71, None)]),
        ("densenet_100_12", "cifar100", {"augmented": False}, [(23.79, None)]),
        ("densenet_bc_100_12", "svhn_cropped", {"augmented": False}, [(1.76, None)]),
        ("highway_19", "cifar100", {"aggregate": "best", "runs": 5, "std": 0.15}, [(32.24, None)]),
        ("highway_10_16", "mnist", {"aggregate": "best"}, [(0.57, None)]),
        ("resnet_34", "imagenet2012", {"view": "ten_crops"}, [(24.76, 7.35), (24.52, 7.46)]),
        ("resnet_34", "imagenet2012", {"view": "multi_scale"}, [(21.84, 5.71)]),
        ("resnet_101", "imagenet2012", {"view": "ten_crops", "options": {"bottleneck_stride": "1x1"}}, [(21.75, 6.05)]),
        ("wrn_50_2", "imagenet2012", {"view": "one_crop"}, [(21.9, 6.03), (21.532, 5.914)]),
        ("resnext_101_64x4d", "imagenet2012", {"view": "one_crop", "size": 320}, [(19.1, 4.4)]),
        ("densenet_169", "imagenet2012", {"view": "ten_crops"}, [(22.08, 5.92)]),
        ("resnet_50", "imagenet2012", {"origin": TORCHVISION}, [(23.870, 7.138)]),
        ("resnet_152", "imagenet2012", {"origin": HUANG_2016_DEPTH, "epochs": 120}, [(21.78, None)]),
    ],
)
def test_further_published_errors_say_in_fields_what_they_are(name, dataset, fields, errors):
    found = NETWORKS[name].having(dataset=dataset, **fields)
    assert [(result.test_error, result.top5_error) for result in found] == errors


@pytest.mark.quick
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "statistic not stated"),
        ({"aggregate": "single"}, "single run"),
        ({"aggregate": "single", "epoch": "last"}, "single run, last step"),
        ({"aggregate": "mean", "runs": 10}, "mean of 10 runs"),
        ({"aggregate": "median", "runs": 5, "whitened": True}, "median of 5, ZCA whitening"),
        ({"aggregate": "best", "runs": 5, "mean": 6.61, "std": 0.16}, "best of 5 (mean 6.61 +- 0.16)"),
        ({"aggregate": "median", "runs": 5, "mean": 4.69, "std": 0.2, "batch_size": 64},)
        + ("median of 5 (mean 4.69 +- 0.20), batch 64",),
        ({"augmented": False, "options": {"dropout_rate": 0.4}}, "statistic not stated, no augmentation, dropout 0.4"),
        ({"epoch": "lowest_validation_error"}, "test error at the lowest validation error"),
        ({"view": "ten_crops", "size": 224, "options": {"shortcut": "A"}}, '10-crop 224, shortcut="A"'),
        ({"view": "one_crop"}, "1-crop"),
        ({"view": "multi_scale"}, "multi-scale, fully convolutional"),
        ({"view": "one_scale", "mirrored": True, "note": "VOC 2012 val"},)
        + ("one scale, with mirrored images, VOC 2012 val",),
    ],
)
def test_a_published_number_is_put_into_words_from_its_fields(fields, sentence):
    result = PublishedResult(5.0, dataset="cifar10", origin=HE_2016, place="table 3", **fields)
    assert result.statistic == sentence
    assert result.source == "He et al. 2016, arXiv 1603.05027, table 3"
    written = result.to_json()
    assert (written["value"], written["statistic"], written["origin"]) == (5.0, sentence, str(HE_2016))
    assert {field: written[field] for field in fields} == fields and "top5_error" not in written


@pytest.mark.quick
def test_fields_of_published_numbers_agree_with_each_other():
    for name, facts in NETWORKS.items():
        for result in facts.results:
            assert (result.runs is None) == (result.aggregate in ("single", "not_stated")), (name, result)
            assert (result.mean is None) == (result.std is None), (name, result)
            assert (result.view is None) <= (result.dataset != "imagenet2012" or result.epochs is not None), name
            assert not result.whitened or result.dataset in ("cifar10", "cifar100"), (name, result)
            if result.mean is not None:  # a median lies near the mean, the best of several below it
                assert abs(result.value - result.mean) < 2.5 * result.std, (name, result)
                assert result.aggregate != "best" or result.value < result.mean, (name, result)
            create_model(name, **result.options)


@pytest.mark.quick
def test_every_result_is_a_percentage_of_a_known_dataset_with_its_source():
    without = [name for name in list_models() if not model_info(name).published]
    # Plain CIFAR networks and VGG have curves only, model A2 has segmentation only, and one network is our own.
    plain = [f"plain_{depth}" for depth in (110, 20, 32, 44, 56)]
    assert without == [*plain, "speed_resnet", "vgg_15", "wider_resnet_38_a2"]
    for name in list_models():
        info = model_info(name)
        datasets = ["imagenet2012"] if info.num_classes == 1000 else list_datasets()
        for result in info.published:
            assert result.dataset in datasets
            assert 0 < result.test_error < 50 and result.statistic and result.source
            assert result.top5_error is None or 0 < result.top5_error < result.test_error


@pytest.mark.quick
def test_plain_networks_and_vgg_have_no_gates():
    for name in [*list_models("plain*"), "vgg_15"]:
        assert model_info(name).num_blocks == 0


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrn_29_10", "wrn_29_10: depth: .* got 29; nearest are 28 and 34"),
        ("wrn_4_2", "expected 6 n \\+ 4 .* got 4; nearest are 10 and 16"),
        ("wrn_18_2", "wrn_18_2: depth: .* got 18; .* for ImageNet are wrn_imagenet_18_<k>"),
        ("wrn_28_0", "wrn_28_0: widening_factor: expected positive integers, got 0"),
        ("wrn_28_010", "unknown model 'wrn_28_010'; did you mean 'wrn_28_10'"),
        ("wrn_imagenet_50_2", r"unknown model.*wrn_imagenet_<18\|34>_<k>"),
        ("resnet_21", "resnet_21: depth: expected 6 n \\+ 2 .* got 21; nearest are 20 and 26"),
        ("resnet_050", r"unknown model 'resnet_050'.*resnet_<6n\+2>, resnet_<18\|34\|50\|101\|152\|200>"),
        ("resnet_\uff12\uff10", "unknown model"),  # digits that int() reads, too
        ("resnet20", "its name here is 'resnet_20'"),
        ("ResNet_20", "its name here is 'resnet_20'"),
        ("plain_2", "got 2; nearest are 8 and 14"),
        ("plain_50", r"unknown model 'plain_50'.*plain_<6n\+2>, plain_<18\|34>"),  # 6 n + 2, but ImageNet's
        ("preresnet_111", r"expected 6 n \+ 2 .* or 9 n \+ 2 .* got 111; nearest with basic blocks are 110 and 116"),
        ("preresnet_1", "got 1; nearest with basic blocks are 8 and 14"),
        ("resnext_30_8x64d", r"resnext_30_8x64d: depth: expected 9 n \+ 2 .* got 30; nearest are 29 and 38"),
        ("resnext_18_32x4d", "resnext_18_32x4d: depth: ResNeXt has bottlenecks, in depths 50, 101, 152, 200"),
        ("resnext_50", r"unknown model 'resnext_50'.*resnext_<50\|101\|152\|200>_<C>x<d>d"),
        ("densenet_41_12", r"densenet_41_12: depth: expected 3 n \+ 4 .* got 41; nearest are 40 and 43"),
        ("densenet_bc_101_12", r"depth: expected 6 n \+ 4 .* got 101; nearest are 100 and 106"),
        ("densenet_122", r"did you mean 'densenet_121'.*densenet_<121\|161\|169\|201\|264>"),
        ("highway_20", "did you mean 'highway_19'"),
        ("vgg_16", "did you mean 'vgg_15'"),
        ("wider_resnet_38", r"did you mean 'wider_resnet_38_a'.*wider_resnet_38_<a\|a1\|a2>"),
        (" wrn_28_10", "its name here is 'wrn_28_10'"),
        ("", r"unknown model '' \(names are densenet_.*, resnet_.*, vgg_15.*RESJAX_PLUGINS"),
        (20, "unknown model '20'"),
        ("resnet_60002", "resnet_60002: 30,000 blocks or layers, expected at most 10,000"),
    ],
)
def test_wrong_names_are_told_what_is_valid(name, message):
    with pytest.raises(InputError, match=message):
        create_model(name)
    with pytest.raises(InputError, match=message):
        model_info(name)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("resnet_20", {"num_class": 10}, "resnet_20 takes no 'num_class'; did you mean 'num_classes'"),
        ("resnet_20", {"dropout_rate": 0.3}, r"resnet_20 takes no 'dropout_rate'.*\(it takes .*dtype, "),
        ("resnet_20", {"parent": None}, "resnet_20 takes no 'parent'"),
        ("resnet_20", {"shortcut": "D"}, "shortcut: expected one of 'A', 'B', 'C', 'average_pool', 'none', got 'D'"),
        ("resnet_20", {"num_classes": -1}, "num_classes: .* got -1"),
        ("resnet_20", {"num_classes": True}, "num_classes: .* got True"),
        ("resnet_20", {"dtype": jnp.int32}, "dtype: expected a floating-point"),
        ("resnet_20", {"dtype": "bfloat"}, "got 'bfloat'; did you mean 'bfloat16'"),
        ("resnet_20", {"stage_sizes": (3, 0, 3)}, r"stage_sizes: expected positive integers, got \(3, 0, 3\)"),
        ("resnet_20", {"stage_sizes": (10**9, 1, 1)}, "resnet_20: 1,000,000,002 blocks .* at most 10,000"),
        ("densenet_40_12", {"stage_sizes": (10**9, 1)}, r"stage_sizes: 1,000,000,001 dense layers.* at most 1,000"),
        ("resnet_20", {"widths": (16, 32)}, r"stage_sizes \(3, 3, 3\) and widths \(16, 32\)"),
        ("resnet_20", {"kernel_init": "he"}, "unknown kernel_init 'he'.*known: dirac, he_normal_fan_in"),
        (
            "resnet_20",
            {"stochastic_depth": 0.5},
            "expected resjax.StochasticDepth or resjax.EffectivePaths, got 0.5",
        ),
        ("resnet_20", {"cardinality": 8}, "cardinality, base_width: for bottlenecks only"),
        ("resnet_50", {"bottleneck_stride": "2x2"}, "bottleneck_stride: expected one of '1x1', '3x3', got '2x2'"),
        ("preresnet_110", {"order": "post"}, "order: expected one of 'original', .* got 'post'"),
        ("preresnet_110", {"shortcut_variant": 0.5}, r"shortcut_variant: expected resjax.ConstantScaling"),
        ("wrn_28_10", {"dropout_rate": 1.0}, r"wrn_28_10: dropout_rate: expected a number in \[0, 1\), got 1.0"),
        ("wrn_28_10", {"dropout_rate": -0.1}, "dropout_rate: .* got -0.1"),
        ("wrn_28_10", {"dropout_rate": "0.3"}, "dropout_rate: .* got '0.3'"),
        ("wrn_28_10", {"deepening_factor": 5}, "deepening_factor: expected one of 1, 2, 3, 4, got 5"),
        ("wrn_28_10", {"deepening_factor": 3}, "expected 9 n \\+ 4 .* got 28; nearest are 22 and 31"),
        ("wrn_28_10", {"block_type": (3, 5)}, r"block_type: .* got \(3, 5\)"),
        ("wrn_28_10", {"block_type": (3, 1), "deepening_factor": 1}, "block_type and deepening_factor: choose one"),
        ("wrn_28_10", {"norm_scale_init": "zero"}, "unknown norm_scale_init 'zero'; did you mean 'zeros'"),
        ("resnext_29_8x64d", {"form": "d"}, "form: expected one of 'split_transform_sum', .* got 'd'"),
        ("densenet_40_12", {"compression": 0}, r"compression: expected a number in \(0, 1\], got 0"),
        ("densenet_40_12", {"growth_rate": 0}, "growth_rate: expected positive integers, got 0"),
        ("highway_19", {"norm_momentum": 0.9}, "highway_19 takes no 'norm_momentum'"),
        ("highway_19", {"dropout_rate": 1}, r"dropout_rate: expected a number in \[0, 1\), got 1"),
        ("vgg_15", {"width": -1}, "width: expected positive integers, got -1"),
        ("wider_resnet_38_a", {"output_stride": 16}, "output_stride: expected one of 8, 32, got 16"),
    ],
)
def test_wrong_overrides_are_told_what_is_right(name, overrides, message):
    with pytest.raises(InputError, match=message):
        create_model(name, **overrides)


def test_the_public_names_are_there():
    for name in resjax.__all__:
        assert getattr(resjax, name)
