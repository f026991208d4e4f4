"""`--dry_run`: what a run would cost, from shapes alone."""

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.configs.base import Config
from resjax import models, train

_BARS = " ▁▂▃▄▅▆▇█"


def print_dry_run(
    config: Config,
    model,
    optimizer,
    schedule,
    image_shape: tuple[int, int, int],
    train_images: int,
    console: Console,
    resident_images: int | None = None,
) -> None:
    """Prints parameters, FLOPs per image, a memory estimate, the learning-rate curve and the number of steps.

    `resident_images` are on the device at once: by default all `train_images`.
    """
    steps_per_epoch = train_images // config.batch_size
    total = steps_per_epoch * config.epochs
    work = 2 * models.multiply_adds(model, image_shape)
    resident_images = train_images if resident_images is None else resident_images
    memory = memory_estimate(config, model, optimizer, image_shape, resident_images)
    lines = {
        "model": config.model.name,
        "parameters": f"{models.parameter_count(model, image_shape):,}",
        "FLOPs per image": f"{work:,} forward, {3 * work:,} in a training step (convolutions and linear layers)",
        "steps": f"{total:,} = {config.epochs} epochs of {steps_per_epoch} (batch {config.batch_size})",
        "training work": f"{3 * work * config.batch_size * total / 1e15:,.2f} PFLOP",
        "memory, about": f"{sum(memory.values()) / 2**20:,.1f} MiB",
        **{f"  {name}": f"{size / 2**20:,.1f} MiB" for name, size in memory.items()},
        "learning rate": sparkline(schedule, total),
        **{f"  step {a:,} to {b:,}": rate for a, b, rate in learning_rate_spans(schedule, total)},
    }
    for name, value in lines.items():
        console.print(f"{name:<42}{value}", markup=False, highlight=False)


def memory_estimate(
    config: Config, model, optimizer, image_shape: tuple[int, int, int], resident_images: int
) -> dict[str, int]:
    """Bytes of what a training step must hold at once; fused and temporary buffers of the compiler come on top."""
    images = jax.ShapeDtypeStruct((config.batch_size, *image_shape), jnp.float32)
    state = jax.eval_shape(
        lambda: train.create_state(model, optimizer, config.seed, image_shape, config.average_decay > 0)
    )

    def kept_for_backward(params, images):
        def loss(params):
            logits, _ = model.apply(
                {"params": params, "batch_stats": state_zeros(state.batch_stats)},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return logits.sum()

        return jax.vjp(loss, params)[1]

    kept = jax.eval_shape(kept_for_backward, state.params, images)
    params = _bytes(state.params)
    return {
        "parameters and BN statistics": params + _bytes(state.batch_stats),
        "optimizer state": _bytes(state.opt_state),
        **({"moving average": _bytes(state.average)} if state.average is not None else {}),
        "gradients": params,
        "activations kept for the backward pass": max(_bytes(kept) - params, 0),
        "training images": resident_images * int(np.prod(image_shape)),
    }


def state_zeros(shapes):
    """Zeros of the shapes and dtypes of a tree."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def sparkline(schedule, total: int, width: int = 60) -> str:
    """The learning rate over `total` steps as a line of bars."""
    rates = [float(schedule(int(step))) for step in np.linspace(0, max(total - 1, 0), width)]
    top = max(rates) or 1.0
    return "".join(_BARS[round(rate / top * (len(_BARS) - 1))] for rate in rates) + f"  (peak {top:g})"


def learning_rate_spans(schedule, total: int, most: int = 12) -> list[tuple[int, int, str]]:
    """The learning rate as (first step, last step, text): constant stretches, or samples where it always changes."""
    rates = np.asarray(jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32))(jnp.arange(total)))
    starts = np.concatenate([[0], np.flatnonzero(np.diff(rates)) + 1])
    if len(starts) <= most:
        ends = np.concatenate([starts[1:], [total]]) - 1
        return [(int(a), int(b), f"{rates[a]:.4g}") for a, b in zip(starts, ends, strict=True)]
    cuts = np.linspace(0, total, 6).astype(int)
    return [(int(a), int(b) - 1, f"{rates[a]:.4g} to {rates[b - 1]:.4g}") for a, b in zip(cuts, cuts[1:], strict=False)]


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
