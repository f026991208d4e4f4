"""`--target`: compiles the training step for a machine that is not here, and says what it needs there."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

from experiments.configs.base import RunConfig
from experiments.runtime.compiled import Needs, needs
from experiments.runtime.targets import Target, stay_on_cpu, target
from experiments.training.task import Task
from resjax import train
from resjax.errors import InputError
from resjax.train.seeds import SEED_AXIS

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Of a program that a TPU's memory cannot hold, its compiler says only this, in one of two ways.
_USED = re.compile(r"(?:Used |required for [\w ]*\()([\d.]+)([KMGT]?)(?: of |\) exceeds )")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A step compiled for a machine.

    Attributes:
      peak: bytes of memory that a device needs, with the images that it is evaluated on; at least so many if `needs`
        is None.
      needs: what the program needs; None if its compiler found that it does not fit.
    """

    peak: float
    needs: Needs | None


def check_target(config: RunConfig) -> Target | None:
    """The machine of `--target`; None without one. Call it before JAX starts.

    Raises:
      InputError: for an unknown machine, or a compiler that is not installed.
    """
    if config.target is None:
        if config.fit:
            raise InputError("--fit: looks for what fits on a machine; name it, e.g. --target h200")
        return None
    if config.scaling_report:
        raise InputError("--target and --scaling_report: choose one")
    stay_on_cpu()
    return target(config.target)


def lower_step(config: RunConfig, task: Task, devices: Sequence[jax.Device], streamed: bool) -> jax.stages.Lowered:
    """Lowers the program that the engine runs for training, with its state, data and shardings on `devices`.

    Args:
      config: the config of the run.
      task: its network and data, of which only shapes are used.
      devices: devices, which may be those of a topology.
      streamed: whether the images come as batches; otherwise all of them are on each device.

    Raises:
      InputError: if the batch cannot be split over the devices.
    """
    several = config.seeds > 1
    mesh = train.seed_mesh(config.seeds, devices) if several else train.data_mesh(devices)
    train.check_batch_size(config.batch_size, train.data_mesh(devices[:1]) if several else mesh)
    state = jax.eval_shape(lambda: task.new_state(config))
    totals = jax.eval_shape(lambda: task.zero.with_gradient_metrics(config.gradient_metrics))
    sharding = train.state_sharding(state, mesh, config.shard_state)
    step = task.train_step(config, sharding)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    images = config.batch_size if streamed else len(task.train_data[0])
    data = tuple(jax.ShapeDtypeStruct((images, *array.shape[1:]), array.dtype) for array in task.train_data)
    order = jax.ShapeDtypeStruct((images,), jnp.int32)
    if several:
        places = -(-config.seeds // mesh.size) * mesh.size
        split, whole = NamedSharding(mesh, PartitionSpec(SEED_AXIS)), NamedSharding(mesh, PartitionSpec())
        state, totals, order = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((places, *leaf.shape), leaf.dtype, sharding=split), (state, totals, order)
        )
        data, number = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), (data, number)
        )
        run = train.make_run_seeds(step, config.batch_size, config.seeds, mesh, in_a_loop=False)
        arguments = (data, order, number, number)
    elif streamed:
        run, arguments = train.make_run_batch(step, config.batch_size, mesh, sharding), (data,)
    else:
        run = train.make_run_steps(step, config.batch_size, mesh, sharding)
        arguments = (data, order, number, number)
    return run.lower(state, totals, *arguments)


def compile_step(config: RunConfig, task: Task, machine: Target, streamed: bool) -> Outcome:
    """Compiles the training program of a run for a machine, see `lower_step`."""
    evaluated = () if streamed else task.held_out().values()
    resident = sum(array.nbytes for data in evaluated for array in data)
    lowered = lower_step(config, task, machine.devices, streamed)
    try:
        with _without_cache():
            found = needs(lowered.compile())
    except jax.errors.JaxRuntimeError as error:
        used = _USED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or used is None:
            raise
        return Outcome(float(used[1]) * _UNITS[used[2]] + resident, None)
    return Outcome(found.peak + resident, found)


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Compiles anew: a program from the cache cannot say what it needs. JAX asks only once whether there is a cache."""
    kept = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
        compilation_cache.reset_cache()


def print_target_report(
    config: RunConfig, machine: Target, task_of: Callable[[RunConfig], Task], streamed: bool, console: Console
) -> None:
    """Prints what the training step needs on a machine; with `--fit` also what would fit.

    Args:
      config: the config of the run.
      machine: the machine.
      task_of: makes the task of a config.
      streamed: see `lower_step`.
      console: where it is printed.

    Raises:
      InputError: if the step does not fit into the machine's memory, after the report.
    """

    def compile_for(changed: RunConfig, what: str) -> Outcome:
        console.print(f"compiling for {machine.name}: {what}", highlight=False, markup=False)
        return compile_step(changed, task_of(changed), machine, streamed)

    memory = machine.chip.memory
    outcome = compile_for(config, f"the training step of {config.model.name}, batch {config.batch_size}")
    fits = outcome.peak <= memory
    for name, value in _lines(config, machine, outcome):
        console.print(f"{name:<42}{value}", markup=False, highlight=False)
    if config.fit:
        _print_fits(config, machine, outcome, compile_for, console)
    elif not fits:
        least = _bytes(jax.eval_shape(lambda: task_of(config).new_state(config)))
        about = int(config.batch_size * max(memory - least, 0) / max(outcome.peak - least, 1))
        raise InputError(
            f"--batch_size {config.batch_size}: needs {mib(outcome.peak)} of {mib(memory)} on each device of"
            f" {machine.name}, about {about} images would fit; --target {machine.name} --fit looks for the largest"
            " batch, and tries --remat, --micro_batches and --shard_state"
        )
    if not fits:
        raise InputError(f"--batch_size {config.batch_size}: does not fit on {machine.name}; see the table above")


def _lines(config: RunConfig, machine: Target, outcome: Outcome) -> Iterator[tuple[str, str]]:
    chip, found, devices = machine.chip, outcome.needs, len(machine.devices)
    yield machine.name, f"{devices} x {machine.devices[0].device_kind}, {mib(chip.memory)} each ({chip.source})"
    fits = "fits" if outcome.peak <= chip.memory else "does not fit"
    least = "" if outcome.needs else "at least "
    yield "peak memory a device", f"{least}{mib(outcome.peak)} of {mib(chip.memory)}: {fits}"
    if found is None:
        return
    yield "  temporaries", mib(found.temporaries)
    yield "FLOPs a device and step", f"{found.flops:,.4g}"
    yield "bytes moved a device and step", f"{found.bytes / 1e9:,.2f} GB, by {found.kernels:,} kernels"
    seconds = found.bound(chip, config.dtype)
    rate = config.batch_size * config.seeds / seconds
    limit = "memory" if found.bytes / chip.bandwidth >= seconds else "arithmetic"
    yield "roofline, a bound", f"at least {1e3 * seconds:.3g} ms a step, at most {rate:,.0f} images/s, by {limit}"
    if devices > 1:
        kinds = sorted({each.kind for each in found.collectives})
        for kind in kinds:
            sent = [each for each in found.collectives if each.kind == kind]
            total = sum(each.bytes for each in sent) / 2**20
            yield f"  {kind}", f"{sum(each.times for each in sent)} a step, {total:.2f} MiB together"
        if not kinds:
            yield "  collectives", "none"


def _print_fits(config: RunConfig, machine: Target, outcome: Outcome, compile_for, console: Console) -> None:
    """Prints the largest batch that fits, and the memory with each option that saves some."""
    memory = machine.chip.memory
    largest = largest_batch(
        lambda batch: compile_for(dataclasses.replace(config, batch_size=batch), f"batch {batch}").peak,
        (config.batch_size, outcome.peak),
        _unit(config, machine),
        memory,
    )
    console.print(f"{'largest batch that fits':<42}{largest or 'none'}", highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("with", "peak memory a device", "fits", "bytes moved", "at least ms"):
        table.add_column(column, justify="left" if column == "with" else "right")
    for flags, changed in _savings(config, machine):
        try:
            tried = compile_for(changed, flags or "as it is") if flags else outcome
        except InputError as error:  # not every network has every option
            table.add_row(flags, str(error))
            continue
        moved = bound = "-"
        if tried.needs is not None:
            moved = f"{tried.needs.bytes / 1e9:,.2f} GB"
            bound = f"{1e3 * tried.needs.bound(machine.chip, config.dtype):.3g}"
        table.add_row(flags or "-", mib(tried.peak), "yes" if tried.peak <= memory else "no", moved, bound)
    console.print(table)


def _savings(config: RunConfig, machine: Target) -> Iterator[tuple[str, RunConfig]]:
    yield "", config
    for remat in ("convs", "full"):
        if config.remat != remat:
            yield f"--remat {remat}", dataclasses.replace(config, remat=remat)
    for parts in (2, 4):
        if config.batch_size % (_unit(config, machine) // config.micro_batches * parts) == 0 and config.seeds == 1:
            yield f"--micro_batches {parts}", dataclasses.replace(config, micro_batches=parts)
    if len(machine.devices) > 1 and not config.shard_state and config.seeds == 1:
        yield "--shard_state", dataclasses.replace(config, shard_state=True)


def largest_batch(
    peak_of: Callable[[int], float], known: tuple[int, float], unit: int, memory: float, tries: int = 5
) -> int:
    """The largest batch, a multiple of `unit`, whose step was compiled and fits; 0 if none of those tried does.

    Memory is nearly linear in the batch: two batches give the line, and the next ones are where it ends.

    Args:
      peak_of: compiles a batch, and returns the bytes that it needs.
      known: a batch, and the bytes that it needs.
      unit: number of images that a batch is a multiple of.
      memory: bytes that there are.
      tries: how many batches to compile.
    """
    peaks = dict([known])
    batch = known[0] // 2 // unit * unit or 2 * known[0]
    for _ in range(tries):
        if batch < unit or batch in peaks:
            break
        peaks[batch] = peak_of(batch)
        fitting = [each for each in peaks if peaks[each] <= memory]
        above = [each for each in peaks if peaks[each] > memory]
        # The line goes through the nearest two, one on either side of the end if there are such.
        low, high = (max(fitting), min(above)) if fitting and above else (min(peaks), max(peaks))
        slope = max((peaks[high] - peaks[low]) / (high - low), 1)
        batch = int((memory - peaks[low]) / slope + low) // unit * unit
        batch = min(batch, min(above) - unit) if above else batch
        batch = max(batch, max(fitting)) if fitting else batch
    return max((each for each in peaks if peaks[each] <= memory), default=0)


def _unit(config: RunConfig, machine: Target) -> int:
    """Number of images that a batch is a multiple of on this machine."""
    scope = config.model.get("norm_scope")
    devices = 1 if config.seeds > 1 else len(machine.devices)
    parts = config.micro_batches * (scope if isinstance(scope, int) else 1)
    return jnp.lcm(parts, devices).item()


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def mib(size: float) -> str:
    """Bytes as MiB, in words."""
    return f"{size / 2**20:,.0f} MiB"
