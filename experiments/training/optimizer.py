"""Builds the optimizer and the learning-rate schedule of a config."""

import dataclasses

import optax

from experiments.configs.base import OPTIMIZER_KINDS, RunConfig
from resjax import train


def build_optimizer(config: RunConfig, train_images: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the optimizer and the learning-rate schedule of a config."""
    steps_per_epoch = train_images // config.batch_size
    options, peak = dataclasses.asdict(config.schedule), config.optimizer.learning_rate
    warm_up, until_error = None, options.pop("warmup_until_error")
    if until_error:
        options["warmup_epochs"] = 0.0
        warm_up = train.warm_up_until(until_error / 100, config.schedule.warmup_from / peak)
    schedule = train.learning_rate_schedule(peak=peak, steps_per_epoch=steps_per_epoch, epochs=config.epochs, **options)
    fields = config.optimizer
    each = (config.head_factor, fields.bias_factor, fields.scale_factor, fields.layer_decay)
    factors = None if set(each) == {1} else train.learning_rate_factors(*each)
    own = {name: getattr(fields, name) for name in OPTIMIZER_KINDS[fields.kind]}
    del own["learning_rate"]
    if own.pop("reset_momentum", False) and config.schedule.kind == "piecewise":
        own["momentum_resets"] = [round(boundary * steps_per_epoch) for boundary in config.schedule.boundaries]
    optimizer = train.OPTIMIZERS[fields.kind](
        schedule,
        **own,
        decay=fields.decay,
        clip_norm=fields.clip_norm,
        factors=factors,
        warm_up=warm_up,
        head_decay_factor=fields.head_decay_factor,
    )
    if trained := train.trained_parameters(config.freeze):
        optimizer = train.train_only(optimizer, trained)
    if fields.sam_rho:
        optimizer = train.sharpness_aware(optimizer, fields.sam_rho)
    if fields.lookahead_period:
        optimizer = train.lookahead(optimizer, fields.lookahead_period, fields.lookahead_step_size)
    return optimizer, schedule
