"""Recipes on the real CIFAR-10 beside the PyTorch program: a dozen steps; `recipes` runs more of them and draws."""

import dataclasses
import functools

import numpy as np
import pytest

from resjax.data import load_dataset
from tests.parity import recipes, twins
from tests.parity.recipe_cases import CASES, Case, compressed, wanted_steps
from tests.parity.recipe_report import exceeded

STEPS = 12
# What is new of these is their optimizer and schedule. Their own networks are those of `recipes`.
SMALLER = {
    "resnet_110": ("resnet_8", lambda: twins.resnet(8)),
    "wrn_16_4": ("wrn_10_2", lambda: twins.wide_resnet(10, 2)),
}


@functools.cache
def _compressed(name, data_dir):
    """(case, training set, our run) with the whole schedule in a dozen steps, of small batches."""
    case, data = CASES[name], load_dataset("cifar10", "train", data_dir)
    config, recipe = dataclasses.replace(case.config, batch_size=16), case.recipe
    if name in SMALLER:
        smaller, network = SMALLER[name]
        config = dataclasses.replace(config, model=config.model.replace(name=smaller))
        recipe = dataclasses.replace(recipe, network=network)
    case = compressed(Case(config, recipe), STEPS)
    return case, data, recipes.train_ours(case, *data, STEPS, wanted_steps(case, STEPS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("resnet_20", [0.1, 0.01, 0.001]),
        ("wrn_16_4", [0.1, 0.02, 0.004, 0.0008]),
        # Warm-up, peak, two drops.
        ("resnet_110", [0.01, 0.1, 0.01, 0.001]),
    ],
)
def test_one_step_from_the_same_state_is_the_programs_all_along_the_schedule(name, rates, real_data_dir):
    case, data, ours = _compressed(name, real_data_dir)
    steps = list(recipes.single_steps(case, *data, ours))
    seen = [step["rate"] for step in steps]
    np.testing.assert_allclose([rate for i, rate in enumerate(seen) if rate not in seen[i - 1 : i]], rates)
    assert not [(step["step"], beyond) for step in steps if (beyond := exceeded(step))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("resnet_20", {"decayed": "all"}),
        ("resnet_20", {"weight_decay": 2e-4}),
        ("resnet_20", {"momentum": 0.85}),
        ("resnet_20", {"nesterov": True}),
        ("resnet_20", {"caffe": False}),
        ("resnet_20", {"drops": (7, 9)}),
        ("resnet_20", {"per_pixel": False}),
        ("resnet_20", {"padding": "reflect"}),
        ("resnet_110", {"warm_up": 0}),
        ("wrn_16_4", {"decayed": "weights"}),
        ("wrn_16_4", {"nesterov": False}),
        ("wrn_16_4", {"rebuilds": False}),
        ("wrn_16_4", {"factor": 0.1}),
    ],
    ids=str,
)
def test_another_recipe_than_ours_is_seen(name, change, real_data_dir):
    case, data, ours = _compressed(name, real_data_dir)
    other = dataclasses.replace(case, recipe=dataclasses.replace(case.recipe, **change))
    assert any(exceeded(step) for step in recipes.single_steps(other, *data, ours))


@pytest.mark.slow
def test_both_go_the_same_way_on_their_own(real_data_dir):
    """A difference grows up to thirty-fold a step at the paper's rate: ours is of the size that rounding grows to.

    PyTorch beside itself, from weights that differ by the rounding of float32, gives that size.
    """
    case, data, ours = _compressed("resnet_20", real_data_dir)
    theirs, *rounded = (
        recipes.train_program(case, *data, ours.snapshots[0], STEPS, perturbation)
        for perturbation in (0.0, 6e-8, 1e-7, -1e-7)
    )
    grown = np.abs(np.array(rounded) - theirs).max(0)
    np.testing.assert_array_less(np.abs(np.array(ours.losses) - theirs), 1e-5 + 10 * np.maximum.accumulate(grown))
    np.testing.assert_allclose(ours.losses[:2], theirs[:2], rtol=1e-3)
    np.testing.assert_allclose(ours.losses, theirs, rtol=0.2)
