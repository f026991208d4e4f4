"""Named configs: exact counts, the recipe at the steps where its source says that it changes."""

import numpy as np
import pytest

from experiments import cifar
from experiments.configs.cifar import CONFIGS
from resjax import create_model
from resjax.models import multiply_adds, parameter_count

SHAPE = (32, 32, 3)


def _rates(name, steps):
    config = CONFIGS[name].config
    schedule = cifar.build(config, 10, 50_000)[2]
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("name", [name for name, named in CONFIGS.items() if named.config.model.overrides()])
def test_counts_of_variants_are_exact(name):
    named = CONFIGS[name]
    model = create_model(named.config.model.name, **named.config.model.overrides())
    counts = (parameter_count(model, SHAPE), multiply_adds(model, SHAPE))
    assert counts == (named.facts.parameters, named.facts.multiply_adds)


@pytest.mark.quick
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds(name):
    config = CONFIGS[name].config
    cifar.check_values(config, 5000 if name == "quickstart" else 50_000)
    model = cifar.build(config, 100, 50_000)[0]
    assert model.num_classes == 100


def test_he_2015_drops_near_32k_and_48k_of_64k_iterations():
    config = CONFIGS["resnet_20"].config
    assert config.epochs * 390 == 63_960
    np.testing.assert_allclose(_rates("resnet_20", [0, 31_979, 31_980, 47_969, 47_970]), [0.1, 0.1, 0.01, 0.01, 0.001])


def test_resnet_110_starts_with_400_iterations_at_a_hundredth():
    np.testing.assert_allclose(_rates("resnet_110", [0, 399, 400, 31_980]), [0.01, 0.01, 0.1, 0.01])
    np.testing.assert_allclose(_rates("resnet_56", [0]), [0.1])


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


def test_deviation_is_listed_where_the_paper_whitened_its_images():
    whitened = {name for name, named in CONFIGS.items() if any("ZCA" in text for text in named.deviations)}
    assert "wrn_40_2" in whitened and "wrn_40_2_b131" in whitened
    assert not {"wrn_28_10", "wrn_16_8", "wrn_40_4", "wrn_52_1", "resnet_20"} & whitened
