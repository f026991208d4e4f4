"""Named configs: exact counts, the recipe at the steps where its source says that it changes."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs.cifar import CONFIGS
from experiments.inputs import splits as image_splits
from experiments.launch.checks import check_values
from experiments.training.optimizer import build_optimizer
from resjax import create_model, train
from resjax.models.published import HE_2015, HE_2016, VEIT_2016
from resjax.models.published.cifar import CIFAR_NETWORKS
from tests.helpers.counting import counts

SHAPE = (32, 32, 3)
# Published batches that the tests' eight devices do not divide.
ONE_DEVICE = {"highway_19", "highway_10_32", "highway_10_16"}


def _rates(name, steps):
    config = CONFIGS[name].config
    schedule = build_optimizer(config, 50_000)[1]
    return [float(schedule(step)) for step in steps]


def _counted(named):
    """Whether a config's network has other counts than its name says."""
    same = {"dropout_rate", "norm_scope", "norm_scale_init", "kernel_init", "stochastic_depth"}
    options = {key: value for key, value in named.config.model.overrides().items() if key not in same}
    return bool(options) and options != {"shortcut": "average_pool"}


def test_what_only_training_knows_of_does_not_change_the_counts():
    for name, named in CONFIGS.items():
        if not _counted(named):
            facts = CIFAR_NETWORKS[named.config.model.name]
            assert (named.facts.parameters, named.facts.multiply_adds) == (facts.parameters, facts.multiply_adds), name


@pytest.mark.parametrize("name", [name for name, named in CONFIGS.items() if _counted(named)])
def test_counts_of_variants_are_exact(name):
    named = CONFIGS[name]
    model = create_model(named.config.model.name, **named.config.model.overrides())
    assert counts(model, SHAPE) == (named.facts.parameters, named.facts.multiply_adds)


@pytest.mark.quick
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds(name):
    config = CONFIGS[name].config
    images = image_splits.training_size(config)
    if name not in ONE_DEVICE:
        check_values(config, images)
    model, (_, schedule) = config.create_model(100), build_optimizer(config, images)
    assert model.num_classes == 100
    assert float(schedule(1)) > 0


def test_he_2015_drops_near_32k_and_48k_of_64k_iterations():
    config = CONFIGS["resnet_20"].config
    assert config.epochs * 390 == 63_960
    np.testing.assert_allclose(_rates("resnet_20", [0, 31_979, 31_980, 47_969, 47_970]), [0.1, 0.1, 0.01, 0.01, 0.001])


def test_resnet_110_starts_at_a_hundredth_until_its_error_is_below_80_percent():
    # The factor of a tenth is the optimizer's, see tests/train/test_warmup.py.
    np.testing.assert_allclose(_rates("resnet_110", [0, 399, 400, 31_980]), [0.1, 0.1, 0.1, 0.01])
    for name, held in {"resnet_110": 0.1, "plain_110": 0.1, "resnet_56": 1.0}.items():
        optimizer = build_optimizer(CONFIGS[name].config, 50_000)[0]
        assert float(train.learning_rate_factor(optimizer.init({"kernel": jnp.ones(1)}))) == pytest.approx(held)


def test_pre_activation_networks_start_with_400_iterations_at_a_hundredth():
    np.testing.assert_allclose(_rates("preresnet_110", [0, 399, 400, 31_980]), [0.01, 0.01, 0.1, 0.01])


@pytest.mark.parametrize(
    ("name", "steps", "rates"),
    [
        ("preresnet_1001_batch_64", [0, 62_479, 62_480, 94_501], [0.1, 0.1, 0.01, 0.001]),  # 781 steps an epoch
        ("resnet_20_fb", [31_199, 31_200, 47_189, 47_190], [0.1, 0.01, 0.01, 0.001]),  # epochs 81 and 122
        ("resnext_29_8x64d", [58_499, 58_500, 87_750], [0.1, 0.01, 0.001]),
        ("densenet_40_12", [117_149, 117_150, 175_725], [0.1, 0.01, 0.001]),  # 781 steps an epoch
        ("resnet_110_stochastic_depth", [87_749, 87_750, 131_625], [0.1, 0.01, 0.001]),  # 351 steps of 45,000 images
        ("resnet_1202_stochastic_depth", [0, 3_509, 3_510, 52_650], [0.01, 0.01, 0.1, 0.01]),
        ("highway_19", [99_999, 100_000, 150_000, 175_000], [0.025, 0.0025, 0.00025, 0.000025]),
        ("highway_10_16", [59_999, 60_000, 120_000], [0.01, 0.001, 0.0001]),
        ("wrn_16_4_svhn", [372_958, 372_959], [0.01, 0.001]),  # 4,721 steps an epoch
    ],
)
def test_other_recipes_drop_where_their_sources_say(name, steps, rates):
    config = CONFIGS[name].config
    schedule = build_optimizer(config, image_splits.training_size(config))[1]
    np.testing.assert_allclose([float(schedule(step)) for step in steps], rates, rtol=1e-5)


def test_each_recipe_is_compared_with_results_of_its_own_kind_alone():
    """Neither a result on augmented images with one without, nor one of SVHN with a recipe for CIFAR."""
    for name, named in CONFIGS.items():
        plain = not (named.config.augmentation.crop_padding or named.config.augmentation.flip)
        for result in named.facts.results:
            assert result.augmented != plain, name
            for other in ("svhn_cropped", "mnist"):
                assert (result.dataset == other) == (named.config.dataset == other), name
            assert result.whitened == (named.config.normalization == "gcn_zca"), name
            assert (result.epoch == "lowest_validation_error") <= (named.config.validation_images > 0), name
            rate = result.options.get("dropout_rate")
            assert rate == named.config.model.fields.get("dropout_rate"), name


def test_microsofts_recipes_have_caffes_momentum_and_decay_of_weights_alone():
    for name, named in CONFIGS.items():
        theirs = named.source.startswith((str(HE_2015), str(HE_2016), str(VEIT_2016)))
        optimizer = named.config.optimizer
        if theirs:
            assert (optimizer.momentum_form, optimizer.nesterov, optimizer.decay) == ("caffe", False, "kernels"), name
        elif not name.startswith("highway") and optimizer.kind == "sgd":
            assert optimizer.momentum_form == "torch", name
    assert CONFIGS["preresnet_1001_batch_64"].config.optimizer.nesterov


def test_stochastic_depth_starts_by_fan_in_and_others_by_their_networks():
    for name, named in CONFIGS.items():
        fan_in = "stochastic_depth" in name or "constant_depth" in name or name == "preresnet_164_zca"
        assert named.config.model.fields.get("kernel_init") == ("he_normal_fan_in" if fan_in else None), name


@pytest.mark.parametrize(
    ("name", "dataset", "error"),
    [
        ("preresnet_164", "cifar100", 24.33),
        ("preresnet_1001_batch_64", "cifar10", 4.62),
        ("preresnet_1001_original", "cifar100", 27.82),
        ("preresnet_164_original", "cifar100", 25.16),
        ("preresnet_164_unaugmented", "cifar10", 11.26),
        ("preresnet_1001_unaugmented", "cifar100", 33.47),
        ("preresnet_164_relu_only_pre_activation", "cifar10", 5.91),
        ("preresnet_110_shortcut_gating_6", "cifar10", 6.91),
        ("preresnet_110_one_layer", "cifar10", 8.91),
        ("preresnet_110_one_layer_original", "cifar10", 9.90),
        ("wrn_28_10_zca", "cifar10", 4.17),
        ("wrn_16_8_svhn_dropout", "svhn_cropped", 1.54),
        ("densenet_bc_100_12_unaugmented", "cifar100", 24.15),
        ("densenet_100_24_svhn", "svhn_cropped", 1.59),
        ("resnext_29_16x64d", "cifar100", 17.31),
        ("resnet_110_stochastic_depth", "cifar10", 5.25),
        ("highway_19", "cifar10", 7.60),
        ("highway_10_32", "mnist", 0.45),
    ],
)
def test_published_errors_of_each_system(name, dataset, error):
    assert CONFIGS[name].published_for(dataset).test_error == error


def test_wide_resnet_drops_at_the_start_of_epochs_60_120_160():
    starts = [59 * 390, 119 * 390, 159 * 390]
    before = _rates("wrn_28_10", [start - 1 for start in starts])
    np.testing.assert_allclose(before, [0.1, 0.02, 0.004], rtol=1e-6)
    np.testing.assert_allclose(_rates("wrn_28_10", starts), [0.02, 0.004, 0.0008], rtol=1e-6)


def test_published_errors_stand_beside_their_dataset():
    assert CONFIGS["wrn_28_10"].published_for("cifar10").test_error == 4.00
    assert CONFIGS["wrn_28_10"].published_for("cifar100").test_error == 19.25
    assert CONFIGS["wrn_28_10_dropout"].published_for("cifar10").test_error == 3.89
    assert CONFIGS["resnet_110"].published_for("cifar10").test_error == 6.43
    assert CONFIGS["wrn_28_10"].published_for("cifar10_mini") is None


def test_images_are_whitened_where_the_papers_were():
    whitened = {name for name, named in CONFIGS.items() if named.config.normalization == "gcn_zca"}
    assert "wrn_40_2" in whitened and "wrn_40_2_b131" in whitened
    assert not {"wrn_28_10", "wrn_16_8", "wrn_40_4", "wrn_52_1", "resnet_20"} & whitened
