"""What every experiment makes of a config: its values checked, an optimizer, a workdir."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from rich.console import Console

from experiments.configs.base import RunConfig
from experiments.workdir import Workdir, default_workdir
from resjax import train
from resjax.errors import InputError


def check_sizes(config: RunConfig, train_images: int) -> None:
    """Raises InputError for numbers of epochs or images that no run can have."""
    for field in ("epochs", "batch_size", "eval_batch_size"):
        if getattr(config, field) <= 0:
            raise InputError(f"--{field}: expected a positive integer, got {getattr(config, field)}")
    if config.batch_size > train_images:
        raise InputError(
            f"--batch_size: {config.dataset} has {train_images:,} training images, got {config.batch_size:,}"
        )


def check_values(config: RunConfig, train_images: int) -> None:
    """Raises InputError for numbers that no run can have, on the devices there are."""
    check_sizes(config, train_images)
    if not 0 <= config.seed < 2**31:
        raise InputError(f"--seed: expected an integer from 0 to 2**31 - 1, got {config.seed}")
    for field in ("label_smoothing", "average_decay", "optimizer.momentum"):
        if not 0 <= (value := config.identity().get(field, 0)) < 1:
            raise InputError(f"--{field}: expected a number in [0, 1), got {value}")
    if not config.optimizer.learning_rate > 0:
        raise InputError(f"--optimizer.learning_rate: expected a number > 0, got {config.optimizer.learning_rate}")
    for field in (
        "optimizer.weight_decay",
        "optimizer.head_decay_factor",
        "optimizer.clip_norm",
        "optimizer.bias_factor",
        "optimizer.scale_factor",
        "schedule.power",
        "schedule.warmup_epochs",
        "schedule.warmup_from",
        "schedule.warmup_until_error",
        "schedule.cooldown_epochs",
    ):
        if not (value := config.identity()[field]) >= 0:
            raise InputError(f"--{field}: expected a number >= 0, got {value}")
    until = config.schedule.warmup_until_error
    if until and not (until < 100 and config.schedule.warmup == "constant" and config.schedule.kind == "piecewise"):
        raise InputError(
            f"--schedule.warmup_until_error: expected a percentage below 100, for a piecewise schedule with a constant"
            f" warm-up; got {until} for {config.schedule.kind} and {config.schedule.warmup}"
        )
    if not config.checkpoint_minutes > 0:
        raise InputError(f"--checkpoint_minutes: expected a number > 0, got {config.checkpoint_minutes}")
    mesh = train.data_mesh()
    check_parts(config)
    for field in ("batch_size", "eval_batch_size"):
        try:
            train.check_batch_size(getattr(config, field), mesh)
        except InputError as error:
            raise InputError(str(error).replace("batch_size", f"--{field}", 1)) from None


def check_parts(config: RunConfig) -> None:
    """Raises InputError where micro-batches and BN groups do not divide the batch."""
    if config.micro_batches < 1:
        raise InputError(f"--micro_batches: expected a positive integer, got {config.micro_batches}")
    scope = config.model.norm_scope
    if isinstance(scope, int) and scope < 1:
        raise InputError(f"--model.norm_scope: expected global or a positive integer, got {scope}")
    unit = config.micro_batches * (scope if isinstance(scope, int) else 1)
    if config.batch_size % unit:
        raise InputError(
            f"--batch_size: {config.batch_size} is no multiple of {unit} (--micro_batches times the images that"
            " --model.norm_scope takes together)"
        )


def build_optimizer(
    config: RunConfig, train_images: int, factors: Callable[[Any], Any] | None = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and the learning-rate schedule of a config; for `factors` see `resjax.train.sgd`."""
    steps_per_epoch = train_images // config.batch_size
    options, peak = dataclasses.asdict(config.schedule), config.optimizer.learning_rate
    warm_up, until_error = None, options.pop("warmup_until_error")
    if until_error:
        options["warmup_epochs"] = 0.0
        warm_up = train.warm_up_until(until_error / 100, config.schedule.warmup_from / peak)
    schedule = train.learning_rate_schedule(peak=peak, steps_per_epoch=steps_per_epoch, epochs=config.epochs, **options)
    biases, scales = config.optimizer.bias_factor, config.optimizer.scale_factor
    if factors is None and (biases, scales) != (1, 1):
        factors = train.learning_rate_factors(biases=biases, scales=scales)
    drops = config.schedule.boundaries if config.schedule.kind == "piecewise" else ()
    optimizer = train.sgd(
        schedule,
        momentum=config.optimizer.momentum,
        nesterov=config.optimizer.nesterov,
        weight_decay=config.optimizer.weight_decay,
        decay=config.optimizer.decay,
        clip_norm=config.optimizer.clip_norm,
        momentum_resets=[round(b * steps_per_epoch) for b in drops] if config.optimizer.reset_momentum else (),
        factors=factors,
        warm_up=warm_up,
        momentum_form=config.optimizer.momentum_form,
        head_decay_factor=config.optimizer.head_decay_factor,
    )
    return optimizer, schedule


def open_workdir(
    name: str, config: RunConfig, changed: dict[str, Any], console: Console, seeds: Sequence[int] | None = None
) -> Workdir:
    """The workdir of a run, or of those of several `seeds`, checked against `--resume`; nothing in it is lost."""
    # Whatever their number, so that more seeds join those that are finished.
    name += "-seeds" if seeds else ""
    workdir = Workdir(config.workdir or default_workdir(name, changed.items()), writes=jax.process_index() == 0)
    runs = {config.seed: workdir} if seeds is None else {seed: workdir.of_seed(seed) for seed in seeds}
    if config.scaling_report:  # reads and writes nothing there
        return workdir
    if config.resume == "never" and any(run.holds_run() for run in runs.values()) and workdir.writes:
        console.print(f"an earlier run was moved to {workdir.move_aside()}", highlight=False)
    if config.resume == "must" and not any(run.saved_steps() for run in runs.values()):
        raise InputError(f"--resume must: {workdir.path} holds no checkpoint; check --workdir, or use --resume auto")
    for seed, run in runs.items():
        run.check_config(dataclasses.replace(config, seed=seed))
    train.wait_for_processes("workdir")
    return workdir
