"""`--scaling_report`: step time and efficiency on 1 to 4096 chips, predicted from one chip and the compiled step."""

import dataclasses
import time

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.configs.base import RunConfig
from experiments.task import Task
from resjax import train
from resjax.errors import InputError
from resjax.layers import plain_convolutions
from resjax.train.collectives import Collective, collectives

CHIPS = tuple(4**i for i in range(7))
# A step's backward pass, behind which gradients can travel: two of its three thirds.
_BACKWARD = 2 / 3
# Of one dispatch that is measured.
_MOST_STEPS = 64


@dataclasses.dataclass(frozen=True)
class Interconnect:
    """What joins chips.

    Attributes:
      domain: chips of one fast network: a TPU pod, a server of GPUs.
      inner, outer: bytes per second that a chip can send, within its domain and to others.
      inner_latency, outer_latency: seconds of one collective beside its bytes.
      source: where the numbers are from.
    """

    domain: int
    inner: float
    outer: float
    inner_latency: float
    outer_latency: float
    source: str


INTERCONNECTS = {
    "tpu_v5e": Interconnect(256, 200e9, 3.1e9, 10e-6, 100e-6, "Google: 51.2 TB/s all-reduce, 6.4 Tb/s DCN a pod"),
    "tpu_v5p": Interconnect(6144, 600e9, 6.25e9, 10e-6, 100e-6, "Google: 1200 GB/s both ways, 50 Gb/s DCN a chip"),
    "tpu_v6e": Interconnect(256, 400e9, 12.5e9, 10e-6, 100e-6, "Google: 102.4 TB/s all-reduce, 25.6 Tb/s DCN a pod"),
    "h100_ndr": Interconnect(8, 450e9, 50e9, 15e-6, 30e-6, "NVIDIA: NVLink 900 GB/s both ways, 400 Gb/s a GPU"),
    "a100_hdr": Interconnect(8, 300e9, 25e9, 15e-6, 30e-6, "NVIDIA: NVLink 600 GB/s both ways, 200 Gb/s a GPU"),
    "ethernet_100g": Interconnect(1, 12.5e9, 12.5e9, 50e-6, 50e-6, "100 Gb/s for each chip, no faster network within"),
    "ethernet_10g": Interconnect(1, 1.25e9, 1.25e9, 50e-6, 50e-6, "10 Gb/s for each chip, no faster network within"),
}
"""By the name that `--interconnect` takes. Latencies are assumptions, not the makers'."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A step on `chips` chips, each with the batch of one: seconds, with nothing and with all that can be hidden."""

    chips: int
    serial: float
    overlapped: float


def transfer_seconds(bytes_: float, messages: int, chips: int, net: Interconnect) -> float:
    """Seconds of ring all-reduces of so many bytes in so many messages, first within domains, then between them."""
    inner = min(chips, net.domain)
    outer = chips / inner
    seconds = 2 * (inner - 1) / inner * bytes_ / net.inner + 2 * (outer - 1) / outer * bytes_ / inner / net.outer
    return seconds + messages * ((inner > 1) * net.inner_latency + (outer > 1) * net.outer_latency)


def predict(step: float, found: list[Collective], gradient_bytes: int, net: Interconnect) -> list[Prediction]:
    """Predicts a step for each of `CHIPS`.

    Args:
      step: seconds of a step on one chip.
      found: collectives of the step.
      gradient_bytes: those of them that can travel behind the backward pass.
      net: what joins the chips.
    """
    # A gather or a scatter is half an all-reduce.
    total = sum(c.bytes * (1 if c.kind == "all-reduce" else 0.5) for c in found)
    hidden = min(gradient_bytes, total)
    messages = sum(c.times for c in found)
    predictions = []
    for chips in CHIPS:
        gradients = transfer_seconds(hidden, 1, chips, net)
        rest = transfer_seconds(total - hidden, max(messages - 1, 0), chips, net)
        behind = max(gradients - _BACKWARD * step, 0)
        predictions.append(Prediction(chips, step + gradients + rest, step + behind + rest))
    return predictions


def print_scaling_report(config: RunConfig, task: Task, console: Console) -> None:
    """Measures a step on one device, reads what the compiled step sends, prints the prediction and its basis."""
    seconds = _measure_step(config, task)
    found = _step_collectives(config, task)
    params = _gradient_bytes(config, task)
    net = INTERCONNECTS[config.interconnect]
    table = Table(box=None, pad_edge=False)
    for column in ("chips", "batch", "step ms", "images/s", "efficiency"):
        table.add_column(column, justify="right")
    for p in predict(seconds, found, params, net):
        row = [f"{p.chips:,}", f"{p.chips * config.batch_size:,}"]
        row.append(f"{1e3 * p.overlapped:.4g} .. {1e3 * p.serial:.4g}")
        row.append(" .. ".join(f"{p.chips * config.batch_size / t:,.0f}" for t in (p.serial, p.overlapped)))
        row.append(" .. ".join(f"{100 * seconds / t:.1f}%" for t in (p.serial, p.overlapped)))
        table.add_row(*row)
    kinds = {c.kind for c in found}
    sent = ", ".join(
        f"{sum(c.times for c in found if c.kind == kind)} {kind} of"
        f" {sum(c.bytes for c in found if c.kind == kind) / 2**20:.2f} MiB together"
        for kind in sorted(kinds)
    )
    scope = config.model.norm_scope or "global"
    lines = (
        f"measured: {1e3 * seconds:.4g} ms a step of {config.batch_size} images on one {jax.devices()[0].device_kind}",
        f"compiled step: {sent}; the gradient is {params / 2**20:.2f} MiB; BN scope {scope}",
        f"{config.interconnect}: {net.source}; {net.inner / 1e9:g} GB/s a chip among {net.domain:,},"
        f" {net.outer / 1e9:g} GB/s beyond; a collective takes {1e6 * net.inner_latency:g} us, beyond"
        f" {1e6 * net.outer_latency:g} us, beside its bytes",
    )
    for line in lines:
        console.print(line, highlight=False, markup=False)
    console.print(table)
    console.print(
        "Assumptions: each chip has the batch and the speed of the one measured (weak scaling: the learning rate is"
        " your concern); input is never the slower side; no chip straggles; ring all-reduces at the makers' bandwidth,"
        " within a domain first; latencies as above. The better number of each pair hides gradients behind the backward"
        " pass (two thirds of a step), the worse hides nothing; sums of global BN are never hidden.",
        highlight=False,
    )


def _measure_step(config: RunConfig, task: Task, rounds: int = 5) -> float:
    """Seconds of a step on one device: the median of some dispatches of half a second and more."""
    mesh = train.data_mesh(jax.devices()[:1])
    run_steps = train.make_run_steps(task.train_step(config), config.batch_size, mesh)
    state = jax.jit(lambda: task.new_state(config), out_shardings=train.replicated(mesh))()
    zero, order = train.put_whole((task.zero, np.tile(np.arange(config.batch_size), _MOST_STEPS)), mesh)
    data = train.put_resident(tuple(array[: config.batch_size] for array in task.train_data), mesh)

    def take(count, state):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(run_steps(state, zero, data, order, 0, count))
        return (time.perf_counter() - began) / count, state

    _, state = take(1, state)  # compiles
    once, state = take(1, state)
    times = []
    for _ in range(rounds):
        seconds, state = take(min(max(1, round(0.5 / once)), _MOST_STEPS), state)
        times.append(seconds)
    return float(np.median(times))


def _step_collectives(config: RunConfig, task: Task) -> list[Collective]:
    """The collectives of the step as XLA compiles it for the CPU devices: data-parallel programs send the same."""
    devices = jax.devices("cpu")
    mesh = train.data_mesh(devices)
    if len(devices) == 1:
        raise InputError("--scaling_report: reads the step compiled for several CPU devices; set JAX_NUM_CPU_DEVICES=2")
    images = config.batch_size * len(devices)
    state = jax.eval_shape(lambda: task.new_state(config))
    sharding = train.state_sharding(state, mesh, config.shard_state)
    shapes = jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), state, sharding)
    split = train.batch_sharding(mesh)
    batch = tuple(
        jax.ShapeDtypeStruct((images, *array.shape[1:]), array.dtype, sharding=split) for array in task.train_data
    )
    step = jax.jit(
        task.train_step(config, sharding),
        out_shardings=(sharding, train.replicated(mesh)),
    )
    with plain_convolutions():
        return collectives(step.lower(shapes, batch).compile())


def _gradient_bytes(config: RunConfig, task: Task) -> int:
    state = jax.eval_shape(lambda: task.new_state(config))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
