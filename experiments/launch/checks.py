"""Checks of a config's values before a run."""

import jax

from experiments.configs.base import RunConfig
from experiments.runtime.numbers import check_numbers
from resjax import train
from resjax.errors import InputError


def check_sizes(config: RunConfig, train_images: int) -> None:
    """Raises InputError for impossible numbers of epochs or images."""
    for field in ("epochs", "batch_size", "eval_batch_size"):
        if getattr(config, field) <= 0:
            raise InputError(f"--{field}: expected a positive integer, got {getattr(config, field)}")
    if config.batch_size > train_images:
        raise InputError(
            f"--batch_size: {config.dataset} has {train_images:,} training images, got {config.batch_size:,}"
        )
    if (steps := train_images // config.batch_size * config.epochs) >= 2**31:
        raise InputError(f"--epochs: expected fewer than 2**31 steps in all, got {min(steps, 10**300):.3g}")


def check_values(config: RunConfig, train_images: int) -> None:
    """Raises InputError for values that no run can have on the devices present."""
    check_sizes(config, train_images)
    if not 0 <= config.seed < 2**31:
        raise InputError(f"--seed: expected an integer from 0 to 2**31 - 1, got {config.seed}")
    fields = {key: value for key, value in config.identity().items() if value is not None}
    for field in ("label_smoothing", "average_decay", "optimizer.momentum", "optimizer.b1", "optimizer.b2"):
        if not 0 <= (value := fields.get(field, 0)) < 1:
            raise InputError(f"--{field}: expected a number in [0, 1), got {value}")
    for field in ("optimizer.learning_rate", "optimizer.trust_coefficient", "optimizer.newton_schulz_steps"):
        if not (value := fields.get(field, 1)) > 0:
            raise InputError(f"--{field}: expected a number > 0, got {value}")
    if not 0 < (value := fields.get("optimizer.lookahead_step_size", 1)) <= 1:
        raise InputError(f"--optimizer.lookahead_step_size: expected a number in (0, 1], got {value}")
    check_numbers(config.identity() | config.run_options())
    until = config.schedule.warmup_until_error
    if until and not (until < 100 and config.schedule.warmup == "constant" and config.schedule.kind == "piecewise"):
        raise InputError(
            f"--schedule.warmup_until_error: expected a percentage below 100, for a piecewise schedule with a constant"
            f" warm-up; got {until} for {config.schedule.kind} and {config.schedule.warmup}"
        )
    if not config.checkpoint_minutes > 0:
        raise InputError(f"--checkpoint_minutes: expected a number > 0, got {config.checkpoint_minutes}")
    # Of another machine, `--target` itself checks whether its devices divide the batch.
    mesh = train.data_mesh(jax.devices()[:1] if config.target else None)
    check_parts(config)
    for field in ("batch_size", "eval_batch_size"):
        try:
            train.check_batch_size(getattr(config, field), mesh)
        except InputError as error:
            raise InputError(str(error).replace("batch_size", f"--{field}", 1)) from None


def check_parts(config: RunConfig) -> None:
    """Raises InputError if micro-batches and BN groups do not divide the batch."""
    if config.micro_batches < 1:
        raise InputError(f"--micro_batches: expected a positive integer, got {config.micro_batches}")
    scope = config.model.get("norm_scope")
    if isinstance(scope, int) and scope < 1:
        raise InputError(f"--model.norm_scope: expected global or a positive integer, got {scope}")
    unit = config.micro_batches * (scope if isinstance(scope, int) else 1)
    if config.batch_size % unit:
        raise InputError(
            f"--batch_size: {config.batch_size} is no multiple of {unit} (--micro_batches times the images that"
            " --model.norm_scope normalises together)"
        )
