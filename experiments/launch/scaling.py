"""`--scaling_report`: step time and efficiency on 1 to 4096 chips, predicted from one chip and the compiled steps."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.configs.base import RunConfig
from experiments.launch.target import Outcome, compile_step
from experiments.runtime import targets
from experiments.training.task import Task
from resjax import train
from resjax.train.collectives import Collective

CHIPS = tuple(4**i for i in range(7))
# The step is compiled for no more GPUs than these: the compiler of JAX 0.12 ends the process over the sums of 64.
_MOST_GPUS = 16
# Fraction of a step that is the backward pass, during which gradients can be sent: two of three thirds.
_BACKWARD = 2 / 3
# In one measured dispatch.
_MOST_STEPS = 64


@dataclasses.dataclass(frozen=True)
class Interconnect:
    """The networks that connect chips.

    Attributes:
      domain: chips within one fast network: a TPU pod, or a server of GPUs.
      inner, outer: bytes per second that a chip can send, within its domain and to others.
      inner_latency, outer_latency: fixed seconds of one collective.
      chip: the chips that the step is compiled for, one of `experiments.runtime.targets.CHIPS`.
      source: source of the numbers.
    """

    domain: int
    inner: float
    outer: float
    inner_latency: float
    outer_latency: float
    chip: str
    source: str


INTERCONNECTS = {
    "tpu_v5e": Interconnect(
        256, 200e9, 3.1e9, 10e-6, 100e-6, "tpu_v5e", "Google: 51.2 TB/s all-reduce, 6.4 Tb/s DCN a pod"
    ),
    "tpu_v5p": Interconnect(
        6144, 600e9, 6.25e9, 10e-6, 100e-6, "tpu_v5p", "Google: 1200 GB/s both ways, 50 Gb/s DCN a chip"
    ),
    "tpu_v6e": Interconnect(
        256, 400e9, 12.5e9, 10e-6, 100e-6, "tpu_v6e", "Google: 102.4 TB/s all-reduce, 25.6 Tb/s DCN a pod"
    ),
    "h100_ndr": Interconnect(8, 450e9, 50e9, 15e-6, 30e-6, "h100", "NVIDIA: NVLink 900 GB/s both ways, 400 Gb/s a GPU"),
    "a100_hdr": Interconnect(8, 300e9, 25e9, 15e-6, 30e-6, "h100", "NVIDIA: NVLink 600 GB/s both ways, 200 Gb/s a GPU"),
    "ethernet_100g": Interconnect(
        1, 12.5e9, 12.5e9, 50e-6, 50e-6, "h100", "100 Gb/s for each chip, no faster network within"
    ),
    "ethernet_10g": Interconnect(
        1, 1.25e9, 1.25e9, 50e-6, 50e-6, "h100", "10 Gb/s for each chip, no faster network within"
    ),
}
"""Interconnects by the name that `--interconnect` takes. Latencies are assumptions, not the makers' numbers."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of a step on `chips` chips, each with one chip's batch: with nothing hidden, and with all that can be."""

    chips: int
    serial: float
    overlapped: float


def transfer_seconds(bytes_: float, messages: int, chips: int, net: Interconnect) -> float:
    """Seconds of ring all-reduces of `bytes_` bytes in `messages` messages, first within domains, then between them."""
    inner = min(chips, net.domain)
    outer = chips / inner
    seconds = 2 * (inner - 1) / inner * bytes_ / net.inner + 2 * (outer - 1) / outer * bytes_ / inner / net.outer
    return seconds + messages * ((inner > 1) * net.inner_latency + (outer > 1) * net.outer_latency)


def sent(compiled: Mapping[int, Sequence[Collective]], chips: int) -> tuple[float, int]:
    """Bytes, as an all-reduce of so many, and number of messages of a step on `chips` chips.

    The sums of global BN have a place for each device. Where a slice was not compiled, the bytes are therefore on the
    line through those of the two largest that were; messages are those of the largest.

    Args:
      compiled: the collectives of the compiled steps by number of chips.
      chips: number of chips.
    """
    # A gather or a scatter is half an all-reduce.
    sizes = {n: sum(c.bytes * (1 if c.kind == "all-reduce" else 0.5) for c in found) for n, found in compiled.items()}
    nearest = chips if chips in compiled else max(compiled)
    size = sizes[nearest]
    if several := sorted(n for n in sizes if 1 < n < nearest < chips):
        size += (chips - nearest) * max(size - sizes[several[-1]], 0) / (nearest - several[-1])
    return size, sum(c.times for c in compiled[nearest])


def predict(
    step: float, bytes_: float, messages: int, gradient_bytes: int, chips: int, net: Interconnect
) -> Prediction:
    """Predicts a step on `chips` chips.

    Args:
      step: seconds of a step on one chip.
      bytes_: bytes that a step sends, see `sent`.
      messages: number of its messages.
      gradient_bytes: bytes of the gradients, which can be sent during the backward pass.
      chips: number of chips.
      net: the interconnect.
    """
    hidden = min(gradient_bytes, bytes_)
    gradients = transfer_seconds(hidden, 1, chips, net)
    rest = transfer_seconds(bytes_ - hidden, max(messages - 1, 0), chips, net)
    behind = max(gradients - _BACKWARD * step, 0)
    return Prediction(chips, step + gradients + rest, step + behind + rest)


def slices(chip: str) -> dict[int, str]:
    """The targets that the step is compiled for, by their number of chips: slices of a TPU, or servers of GPUs."""
    if shapes := targets.CHIPS[chip].shapes:
        sizes = {math.prod(map(int, shape.split("x"))): f"{chip}:{shape}" for shape in shapes}
        return {chips: sizes[chips] for chips in sizes if chips in CHIPS or chips == max(sizes)}
    return {n: f"{chip}:{n}" if n <= 8 else f"{chip}:{n // 8}x8" for n in CHIPS if n <= _MOST_GPUS}


def print_scaling_report(config: RunConfig, task: Task, streamed: bool, console: Console) -> None:
    """Measures a step on one device, compiles it for each slice, and prints the prediction and its basis.

    Raises:
      InputError: if the compiler of the chips is not installed.
    """
    net = INTERCONNECTS[config.interconnect]
    compiled: dict[int, Outcome] = {}
    for chips, name in slices(net.chip).items():
        machine = targets.target(name)
        console.print(f"compiling for {name}: the training step of {config.model.name}", highlight=False)
        # Weak scaling: each chip has the config's batch, which comes as an argument, whatever the number of images.
        whole = dataclasses.replace(config, batch_size=config.batch_size * chips)
        compiled[chips] = compile_step(whole, task, machine, streamed=True)
    resident = (
        0 if streamed else sum(array.nbytes for data in (task.train_data, *task.held_out().values()) for array in data)
    )
    seconds, params = _measure_step(config, task), _gradient_bytes(config, task)
    found = {chips: outcome.needs.collectives for chips, outcome in compiled.items() if outcome.needs}
    table = Table(box=None, pad_edge=False)
    for column in ("chips", "MiB a chip", "messages, MiB", "images/s", "efficiency"):
        table.add_column(column, justify="right", no_wrap=True)
    largest = max(compiled)
    for chips in sorted({*CHIPS, *compiled}):
        outcome = compiled.get(chips, compiled[largest])
        row = [f"{chips:,}{'' if chips in compiled else ' *'}", f"{(outcome.peak + resident) / 2**20:,.0f}"]
        if outcome.needs is None:
            table.add_row(*row, "does not fit")
            continue
        size, messages = sent(found, chips)
        p = predict(seconds, size, messages, params, chips, net)
        row.append(f"{messages}, {size / 2**20:.2f}")
        row.append(" .. ".join(f"{chips * config.batch_size / t:,.0f}" for t in (p.serial, p.overlapped)))
        row.append(" .. ".join(f"{100 * seconds / t:.1f}%" for t in (p.serial, p.overlapped)))
        table.add_row(*row)
    scope = config.model.get("norm_scope") or "global"
    for line in (
        f"measured: {1e3 * seconds:.4g} ms a step of {config.batch_size} images on one {jax.devices()[0].device_kind}",
        _kinds(compiled[largest], slices(net.chip)[largest]),
        f"each chip has a batch of {config.batch_size}: compiled for {', '.join(slices(net.chip).values())}",
        f"the gradient is {params / 2**20:.2f} MiB; BN scope {scope}",
        f"{config.interconnect}: {net.source}; {net.inner / 1e9:g} GB/s a chip among {net.domain:,},"
        f" {net.outer / 1e9:g} GB/s beyond; a collective takes {1e6 * net.inner_latency:g} us, beyond"
        f" {1e6 * net.outer_latency:g} us, beside its bytes",
    ):
        console.print(line, highlight=False, markup=False)
    console.print(table)
    console.print(
        "Assumptions: each chip has the batch and the speed of the measured device (weak scaling: adapt the learning"
        " rate yourself); input is never the bottleneck; no chip straggles; ring all-reduces at the makers' bandwidth,"
        " within a domain first; latencies as above. Rows with * were not compiled: their memory is that of the largest"
        " that was, and the bytes they send grow as those of the largest two. The better number of each pair hides"
        " gradients behind the backward pass (two thirds of a step). The worse number hides nothing. Sums of global BN"
        " are never hidden.",
        highlight=False,
    )


def _kinds(outcome: Outcome, name: str) -> str:
    """Names the collectives of each kind."""
    found = () if outcome.needs is None else outcome.needs.collectives
    kinds = {kind: [c for c in found if c.kind == kind] for kind in sorted({c.kind for c in found})}
    sent = ", ".join(
        f"{sum(c.times for c in of_kind)} {kind} of {sum(c.bytes for c in of_kind) / 2**20:.2f} MiB together"
        for kind, of_kind in kinds.items()
    )
    return f"compiled for {name}: {sent or 'nothing is sent'}"


def _measure_step(config: RunConfig, task: Task, rounds: int = 5) -> float:
    """Seconds of a step on one device: the median over dispatches of about half a second."""
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


def _gradient_bytes(config: RunConfig, task: Task) -> int:
    state = jax.eval_shape(lambda: task.new_state(config))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
