"""Each guard of a run's numbers, tripped by the smallest wrong value, and not by the largest right one."""

import dataclasses
import functools

import pytest

from experiments.configs.cifar import CONFIGS
from experiments.launch.checks import check_values
from resjax import InputError

CONFIG = dataclasses.replace(CONFIGS["resnet_20"].config, batch_size=128, eval_batch_size=512)
IMAGES = 50_000


def _changed(**fields):
    """The config with changed fields; "group__field" is one of a group."""
    config = CONFIG
    for name, value in fields.items():
        group, _, field = name.rpartition("__")
        replace = (
            config.model.replace
            if group == "model"
            else functools.partial(dataclasses.replace, getattr(config, group or "optimizer"))
        )
        change = {group: replace(**{field: value})} if group else {field: value}
        config = dataclasses.replace(config, **change)
    return config


NOT_NEGATIVE = (
    *("optimizer__weight_decay", "optimizer__head_decay_factor", "optimizer__clip_norm", "optimizer__bias_factor"),
    *("optimizer__scale_factor", "schedule__power", "schedule__warmup_epochs", "schedule__warmup_from"),
    *("schedule__warmup_until_error", "schedule__cooldown_epochs"),
)
WRONG = [
    *(({field: 0}, f"--{field}: expected a positive integer, got 0") for field in ("epochs", "batch_size")),
    ({"eval_batch_size": 0}, "--eval_batch_size: expected a positive integer, got 0"),
    ({"batch_size": 50_008}, "--batch_size: cifar10 has 50,000 training images, got 50,008"),
    ({"seed": 2**31}, r"--seed: expected an integer from 0 to 2\*\*31 - 1, got 2147483648"),
    ({"average_decay": 1.0}, r"--average_decay: expected a number in \[0, 1\), got 1.0"),
    ({"optimizer__momentum": -0.1}, r"--optimizer.momentum: expected a number in \[0, 1\), got -0.1"),
    ({"optimizer__learning_rate": 0.0}, "--optimizer.learning_rate: expected a number > 0, got 0.0"),
    *(({field: -1.0}, f"--{field.replace('__', '.')}: expected a number >= 0, got -1.0") for field in NOT_NEGATIVE),
    ({"optimizer__weight_decay": float("nan")}, "--optimizer.weight_decay: expected a number >= 0, got nan"),
    ({"schedule__warmup_until_error": 100.0, "schedule__warmup": "constant"}, "warmup_until_error: .* below 100"),
    ({"checkpoint_minutes": 0.0}, "--checkpoint_minutes: expected a number > 0, got 0.0"),
    ({"micro_batches": 0}, "--micro_batches: expected a positive integer, got 0"),
    ({"micro_batches": 3}, "--batch_size: 128 is no multiple of 3 "),
    ({"model__norm_scope": 0}, "--model.norm_scope: expected global or a positive integer, got 0"),
    ({"model__norm_scope": 32, "micro_batches": 8}, "--batch_size: 128 is no multiple of 256 "),
    ({"batch_size": 100}, "--batch_size 100 cannot be split"),
    ({"epochs": 10**9}, r"--epochs: expected fewer than 2\*\*31 steps in all, got 3.9e\+11"),
    ({"epochs": 200_000, "batch_size": 50_000}, "--epochs: expected a number of at most 100,000, got 200000"),
    ({"optimizer__learning_rate": 1e308}, r"--optimizer.learning_rate: expected a number of at most 1,000,000, got 1e"),
    (
        {"schedule__warmup_epochs": float("inf")},
        "--schedule.warmup_epochs: expected a number of at most 1,000,000",
    ),
    ({"schedule__boundaries": (1.0, float("nan"))}, "--schedule.boundaries: expected a number >= 0, got nan"),
    ({"schedule__factor": float("nan")}, "--schedule.factor: expected a number >= 0, got nan"),
    ({"augmentation__mixup": float("inf")}, "--augmentation.mixup: expected a number of at most 1,000,000, got inf"),
    ({"eval_batch_size": 100}, "--eval_batch_size 100 cannot be split"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_a_number_that_no_run_can_have_is_named_with_its_flag(fields, message):
    with pytest.raises(InputError, match=f"^{message}" if message.startswith("--") else message):
        check_values(_changed(**fields), IMAGES)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"batch_size": 50_000},
        {"seed": 2**31 - 1, "average_decay": 0.999, "optimizer__momentum": 0.0},
        {field: 0.0 for field in NOT_NEGATIVE},
        {"schedule__warmup_until_error": 99.0, "schedule__warmup": "constant"},
        {"model__norm_scope": 16, "micro_batches": 8},
    ],
)
def test_the_last_number_that_a_run_can_have_is_taken(fields):
    check_values(_changed(**fields), IMAGES)
