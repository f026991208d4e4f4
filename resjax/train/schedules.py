"""Learning-rate schedules: functions of the step, composed from optax's."""

from collections.abc import Sequence

import optax

from resjax.errors import InputError

SCHEDULES = ("constant", "piecewise", "cosine", "linear", "poly", "one_cycle")


def learning_rate_schedule(
    kind: str,
    peak: float,
    steps_per_epoch: int,
    epochs: int,
    boundaries: Sequence[float] = (),
    factor: float = 0.1,
    final: float = 0.0,
    warmup_epochs: float = 0.0,
    warmup_from: float = 0.0,
    warmup: str = "linear",
    per_epoch: bool = False,
    power: float = 0.9,
    cooldown_epochs: float = 0.0,
) -> optax.Schedule:
    """Learning rate as a function of the step.

    Args:
      kind: "constant"; "piecewise" (times `factor` at each of `boundaries`); "cosine", "linear" or "poly" (from
        `peak` to `final` at the end; poly by the `power` of the remaining fraction, Liu et al. 2015, arXiv 1506.04579);
        "one_cycle" (linear up to `peak`, then linear down to `final`; the rise takes
        `warmup_epochs`, or 30% of training if that is 0) (Smith 2017, arXiv 1708.07120).
      peak: the base learning rate.
      steps_per_epoch, epochs: length of training.
      boundaries: completed epochs at which "piecewise" drops; they do not scale with `epochs`.
      factor: factor of the rate at each drop.
      final: learning rate at the end of "cosine", "linear", "poly", "one_cycle", and of a cooldown.
      power: exponent of "poly".
      warmup_epochs: length of the warm-up, which replaces the first epochs of the schedule.
      warmup_from: learning rate at the start of the warm-up.
      warmup: "linear" from `warmup_from` to `peak`, or "constant" at `warmup_from`, as He et al. 2015 start ResNet-110.
      per_epoch: whether each epoch keeps its first value.
      cooldown_epochs: number of last epochs of "constant" and "piecewise" in which the rate falls linearly to `final`.

    Raises:
      InputError: for an unknown `kind` or `warmup`, boundaries that do not ascend, or a cooldown of another kind.

    Example:
      >>> rate = learning_rate_schedule("piecewise", peak=0.1, steps_per_epoch=10, epochs=4, boundaries=(2, 3))
      >>> [round(float(rate(step)), 6) for step in (0, 19, 21, 31)]
      [0.1, 0.1, 0.01, 0.001]
    """
    if kind not in SCHEDULES:
        raise InputError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {kind!r}")
    if warmup not in ("linear", "constant"):
        raise InputError(f"warmup: expected 'linear' or 'constant', got {warmup!r}")
    if list(boundaries) != sorted(set(boundaries)) or any(boundary <= 0 for boundary in boundaries):
        raise InputError(f"boundaries: expected ascending numbers of completed epochs, got {tuple(boundaries)}")
    if cooldown_epochs and kind not in ("constant", "piecewise"):
        raise InputError(f"cooldown_epochs: only for constant and piecewise schedules; {kind} falls by itself")
    total = steps_per_epoch * epochs
    if kind == "one_cycle" and not warmup_epochs:
        warmup_epochs = 0.3 * epochs
    warmup_steps = min(round(warmup_epochs * steps_per_epoch), total)
    remaining = max(total - warmup_steps, 1)
    if kind == "piecewise":
        # Boundaries count from the start of training, the joined schedule from the end of the warm-up.
        drops = [round(boundary * steps_per_epoch) - warmup_steps for boundary in boundaries]
        start = peak * factor ** sum(drop <= 0 for drop in drops)
        main = optax.piecewise_constant_schedule(start, {drop: factor for drop in drops if drop > 0})
    elif kind == "cosine":
        main = optax.cosine_decay_schedule(peak, remaining, alpha=final / peak)
    elif kind == "poly":
        main = optax.polynomial_schedule(peak, final, power, remaining)
    elif kind in ("linear", "one_cycle"):
        main = optax.linear_schedule(peak, final, remaining)
    else:
        main = optax.constant_schedule(peak)
    if warmup_steps:
        first = optax.linear_schedule(warmup_from, peak, warmup_steps)
        first = first if warmup == "linear" else optax.constant_schedule(warmup_from)
        main = optax.join_schedules([first, main], [warmup_steps])
    if cooldown_epochs:
        cooldown_steps = min(round(cooldown_epochs * steps_per_epoch), total)
        start, share = total - cooldown_steps, optax.linear_schedule(1, 0, cooldown_steps)
        held = main
        main = optax.join_schedules([held, lambda step: final + (held(start) - final) * share(step)], [start])
    if per_epoch:
        return lambda step: main(step // steps_per_epoch * steps_per_epoch)
    return main
