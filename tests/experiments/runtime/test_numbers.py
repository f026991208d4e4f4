"""Every number of a flag has a finite range, which every named config keeps to."""

import math

import pytest

from experiments.configs.programs import PROGRAMS
from experiments.runtime.numbers import check_numbers
from resjax import InputError

CONFIGS = [named.config for configs in PROGRAMS.values() for named in configs.values()]


def _fields(config):
    return config.identity() | config.run_options()


def _numbers(fields):
    """The fields that are numbers, or lists of numbers."""
    first = {name: value[0] if isinstance(value, list) and value else value for name, value in fields.items()}
    return [name for name, value in first.items() if isinstance(value, (int, float)) and not isinstance(value, bool)]


def test_every_named_config_is_in_range():
    for config in CONFIGS:
        check_numbers(_fields(config))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, 10**12, -1, -1e-9])
def test_no_number_of_a_config_may_be_out_of_range(value):
    fields = {name: value for config in CONFIGS for name in _numbers(_fields(config))}
    assert {
        "epochs",
        "optimizer.learning_rate",
        "schedule.factor",
        "augmentation.mixup",
        "eval_scales",
    } <= fields.keys()
    for name in fields:
        if name.startswith("model.") and -1 <= value < 0:
            continue
        for given in value, [0, value]:
            with pytest.raises(InputError, match=rf"^--{name}: expected a number (>=|of at most) .*, got "):
                check_numbers({name: given})


def test_what_is_no_number_is_passed_over_and_so_is_what_is_checked_elsewhere():
    check_numbers({"workdir": "runs", "nesterov": True, "workers": None, "scales": ("a",)})
    check_numbers({"mean": (-1.0, math.nan)})
