"""`--dry_run`: what a run would do, and its cost, predicted from shapes and the speed of this machine."""

import dataclasses
import textwrap
import time
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.configs.base import Config
from experiments.runtime.machine import describe_devices
from experiments.training.progress import format_seconds
from resjax import models, train

_STEPS_AT_ONCE = 2**20
_BARS = " ▁▂▃▄▅▆▇█"
_LABEL, _WIDTH = 18, 80  # columns of the names, and of a line
# Of the rate of matrix products: what training steps reach, and from where to where (results/speed.md).
_FRACTION, _RANGE = 0.4, "13 to 72 %"


def print_dry_run(
    config: Config,
    model,
    optimizer,
    schedule,
    image_shape: tuple[int, int, int],
    train_images: int,
    console: Console,
    resident_images: int | None = None,
    about: Mapping[str, str | Sequence[str]] | None = None,
    test_images: int = 0,
) -> None:
    """Prints what a run would do: its recipe, parameters, FLOPs, memory, learning rates, steps and time.

    Args:
      resident_images: number of images on the device at once; default: `train_images`.
      about: more lines for the top, by their name; a sequence is a line each.
      test_images: number of test images; 0 if it is not known.
    """
    steps_per_epoch = train_images // config.batch_size
    total = steps_per_epoch * config.epochs
    work = 2 * models.multiply_adds(model, image_shape)
    step_work = 3 * work * (2 if config.optimizer.sam_rho else 1)
    resident_images = train_images if resident_images is None else resident_images
    memory = memory_estimate(config, model, optimizer, image_shape, resident_images)
    passes = step_work * config.batch_size * total + work * test_images * config.epochs
    rate = matmul_rate(config.dtype)
    lines: dict[str, str | Sequence[str]] = {
        "network": config.model.name,
        **(about or {}),
        "optimizer": _fields(config.optimizer, (1.0, "all")),
        "schedule": _fields(config.schedule),
        **({"augmentation": _fields(config.augmentation, (1.0,))} if hasattr(config, "augmentation") else {}),
        "parameters": f"{models.parameter_count(model, image_shape):,}",
        "FLOPs per image": f"{work:,} forward, {step_work:,} in a training step (convolutions and linear layers)",
        "steps": f"{total:,} = {config.epochs} epochs of {steps_per_epoch} (batch {config.batch_size})",
        "training work": f"{step_work * config.batch_size * total / 1e15:,.2f} PFLOP",
        "time, about": f"{format_seconds(passes / (_FRACTION * rate))} with evaluations, on {describe_devices()}, at"
        f" {_FRACTION:.0%} of the {rate / 1e9:,.0f} GFLOP/s that matrix products were just measured at (training steps"
        f" reach {_RANGE} of it)",
        "memory, about": [
            f"{sum(memory.values()) / 2**20:,.1f} MiB",
            *(f"{size / 2**20:>10,.1f} MiB  {name}" for name, size in memory.items()),
        ],
        "learning rate": sparkline(schedule, total),
        "": [f"step {a:,} to {b:,}  {rate}" for a, b, rate in learning_rate_spans(schedule, total)],
    }
    for name, value in lines.items():
        for i, part in enumerate([value] if isinstance(value, str) else value):
            console.print(line_of(name if i == 0 else "", part), markup=False, highlight=False)


def line_of(name: str, text: str) -> str:
    """A name and its text beside it, on as many lines as it needs."""
    indent = " " * (_LABEL + len(text) - len(text.lstrip()))
    first = f"{name:<{_LABEL}}"
    return textwrap.fill(first + text, _WIDTH, subsequent_indent=indent, break_long_words=False, drop_whitespace=True)


def _fields(part, unsaid: Sequence[float | str] | None = None) -> str:
    """The values of a part of a config that are not off: "sgd, learning_rate 0.1, nesterov".

    Of those at their default only the ones that are not `unsaid`; None: none of them.
    """
    found = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if value is True:
            found.append(field.name)
        elif field.name == "kind":
            found.append(value)
        elif value == field.default and (unsaid is None or value in unsaid) and field.name != "factor":
            continue
        elif field.name == "factor" and part.kind != "piecewise":
            continue
        elif value not in (None, False, 0, (), ""):
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
            found.append(f"{field.name} {shown}")
    return ", ".join(found) or "none"


def matmul_rate(dtype: str) -> float:
    """FLOP/s of matrix products on all devices of this process, measured in a fraction of a second."""
    size, mesh = 1024, train.data_mesh()
    left = train.put_batch(np.ones((size * len(mesh.local_devices), size), dtype), mesh)
    right = jax.device_put(jnp.ones((size, size), dtype), train.replicated(mesh))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(left, right))
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready(product(left, right))
        seconds.append(time.perf_counter() - begin)
    return 2.0 * size**3 * jax.device_count() / min(seconds)


def memory_estimate(
    config: Config, model, optimizer, image_shape: tuple[int, int, int], resident_images: int
) -> dict[str, int]:
    """Bytes that a training step must hold at once. The compiler's fused and temporary buffers are not included."""
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
        **({"parameters and gradients uphill": 2 * params} if config.optimizer.sam_rho else {}),
        "activations kept for the backward pass": max(_bytes(kept) - params, 0),
        "training images": resident_images * int(np.prod(image_shape)),
    }


def state_zeros(shapes):
    """Zeros of the shapes and dtypes of a tree."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def sparkline(schedule, total: int, width: int = 44) -> str:
    """The learning rate over `total` steps as a line of bars."""
    rates = [float(schedule(int(step))) for step in np.linspace(0, max(total - 1, 0), width)]
    top = max(rates) or 1.0
    return "".join(_BARS[round(rate / top * (len(_BARS) - 1))] for rate in rates) + f"  (peak {top:g})"


def learning_rate_spans(schedule, total: int, most: int = 12) -> list[tuple[int, int, str]]:
    """The learning rate as (first step, last step, text): constant spans, or samples if it always changes."""
    rates_of = jax.jit(jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32)))
    spans: list[tuple[int, float]] = []  # first step and rate of each
    for first in range(0, total, _STEPS_AT_ONCE):
        rates = np.asarray(rates_of(first + jnp.arange(min(_STEPS_AT_ONCE, total))))[: total - first]
        changes = np.flatnonzero(np.diff(rates)) + 1
        new = not spans or rates[0] != spans[-1][1]
        spans += [(first + int(i), rates[i]) for i in (([0] if new else []) + changes[: most + 1].tolist())]
        if len(spans) > most:
            break
    if len(spans) <= most:
        ends = [start for start, _ in spans[1:]] + [total]
        return [(start, end - 1, f"{rate:.4g}") for (start, rate), end in zip(spans, ends, strict=True)]
    cuts = np.linspace(0, total, 6).astype(int)
    first, last = (np.asarray(rates_of(jnp.asarray(steps))) for steps in (cuts[:-1], cuts[1:] - 1))
    return [
        (int(a), int(b) - 1, f"{begin:.4g} to {end:.4g}")
        for a, b, begin, end in zip(cuts[:-1], cuts[1:], first, last, strict=True)
    ]


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
