"""The numbers that a run on photographs cannot have."""

import dataclasses

import pytest

from experiments.configs.imagenet import CONFIGS
from experiments.inputs.photographs import check_options
from resjax import InputError

CONFIG = next(iter(CONFIGS.values())).config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workers": -1}, "--workers: expected a number >= 0, got -1"),
        ({"repeats": 0}, "--repeats: expected a divisor of the batch size"),
        ({"batch_size": 8, "repeats": 3}, "--repeats: expected a divisor of the batch size 8, got 3"),
        ({"eval_scales": ()}, r"--eval_scales: expected positive numbers, got \(\)"),
        ({"eval_scales": (256, 0)}, "--eval_scales: expected positive numbers"),
    ],
)
def test_each_is_named_with_its_flag(fields, message):
    check_options(CONFIG)
    with pytest.raises(InputError, match=f"^{message}"):
        check_options(dataclasses.replace(CONFIG, **fields))
