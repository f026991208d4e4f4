"""`--seeds N`: which seeds of a config train together, and their joint result."""

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from rich.console import Console

from experiments.configs.base import Config
from experiments.launch.dry_run import line_of, memory_estimate
from experiments.training.seed_run import step_to_go_on_from
from experiments.training.workdir import Workdir
from resjax.errors import InputError
from resjax.layers import networks_in_a_loop

# Fraction of a device's memory to use; the estimate does not include the compiler's temporary buffers.
_SHARE_TO_FILL = 0.8


def seeds_of(config: Config) -> list[int] | None:
    """The seeds of `--seeds`; None for a single run."""
    return None if config.seeds == 1 else list(range(config.seed, config.seed + config.seeds))


def check_seeds(config: Config, processes: int = 1) -> None:
    """Raises InputError if several seeds cannot be trained together."""
    if config.seeds < 1:
        raise InputError(f"--seeds: expected a positive integer, got {config.seeds}")
    if config.seeds == 1:
        return
    if config.seed >= 0 and config.seed + config.seeds > 2**31:
        raise InputError(f"--seeds: {config.seeds} from --seed {config.seed} on go beyond 2**31 - 1")
    if processes > 1 or config.coordinator is not None:
        raise InputError("--seeds: needs one process; in several processes, start one run for each --seed")
    if config.shard_state:
        raise InputError(
            "--seeds: each seed is on one device; leave out --shard_state, or start one run for each --seed"
        )
    if config.scaling_report:
        raise InputError("--seeds: --scaling_report describes a single run; leave out one of the two")


def seeds_that_fit(memory: Mapping[str, int], devices: Sequence[jax.Device]) -> int:
    """How many seeds fit on the devices, from the estimate of one seed (see `memory_estimate`); at least 1."""
    images = memory["training images"]
    work = memory["gradients"] + memory["activations kept for the backward pass"]
    state = sum(memory.values()) - images - work
    left = _SHARE_TO_FILL * min(map(_bytes_of, devices)) - images
    # The loop has gradients and activations of one seed at a time. It has all states twice: as its input and output.
    each = (left - work) / (2 * state) if networks_in_a_loop(devices[0]) else left / (state + work)
    return max(1, int(each) * len(devices))


def finished_seeds(seeds: Sequence[int], workdir: Workdir) -> list[int]:
    """The seeds that were trained to their end."""
    return [seed for seed in seeds if workdir.of_seed(seed).is_finished()]


def groups_of_seeds(seeds: Sequence[int], workdir: Workdir, fit: int) -> list[list[int]]:
    """Divides the unfinished seeds into groups, which train one after another.

    The seeds of a group can resume from one step. A group has at most `fit` seeds.
    """
    groups: list[list[int]] = []
    done = finished_seeds(seeds, workdir)
    for seed in (seed for seed in seeds if seed not in done):
        together = [*groups[-1], seed] if groups else [seed]
        saved = [workdir.of_seed(each).saved_steps() for each in together]
        if groups and len(together) <= fit and step_to_go_on_from(saved) is not None:
            groups[-1] = together
        else:
            groups.append([seed])
    return groups


def plan_seeds(
    config: Config, model, optimizer, image_shape: tuple[int, int, int], images: int, workdir: Workdir, console: Console
) -> list[list[int]]:
    """`groups_of_seeds` with an estimate of memory; prints which seeds train together."""
    seeds = seeds_of(config)
    memory = memory_estimate(config, model, optimizer, image_shape, images)
    fit = seeds_that_fit(memory, jax.devices())
    if finished := finished_seeds(seeds, workdir):
        console.print(f"{len(finished)} of {len(seeds)} seeds are finished", highlight=False)
    if len(seeds) > fit:
        console.print(
            f"about {fit} of {len(seeds)} seeds fit in memory at once (one is {sum(memory.values()) / 2**20:,.0f} MiB):"
            " the others follow",
            highlight=False,
        )
    return groups_of_seeds(seeds, workdir, fit)


def describe_group(group: Sequence[int]) -> str:
    """Says which seeds train now."""
    if len(group) == 1:
        return f"seed {group[0]}"
    return f"seeds {', '.join(map(str, group))} together; the numbers below are their means"


def print_fit(config: Config, model, optimizer, image_shape, images: int, console: Console) -> None:
    """Prints the lines of `--dry_run` for several seeds."""
    memory = memory_estimate(config, model, optimizer, image_shape, images)
    fit = seeds_that_fit(memory, jax.devices())
    text = f"{config.seeds}, {'all' if fit >= config.seeds else f'about {fit}'} at once on {jax.device_count()} devices"
    console.print(line_of("seeds", text), markup=False, highlight=False)


def does_not_fit(error: Exception, group: Sequence[int], workdir: Workdir) -> str:
    """The message for a device that ran out of memory."""
    half, reason = len(group) // 2, str(error).splitlines()[0][:200]
    return (
        f"{len(group)} seeds at once need more memory than a device has ({reason}). Train fewer together, in the same"
        f" --workdir {workdir.path}: --seed {group[0]} --seeds {half}, then --seed {group[half]} --seeds"
        f" {len(group) - half}"
    )


def outcome(summaries: Sequence[Mapping[str, Any]], best: str) -> str:
    """Mean and sample standard deviation of the seeds' errors, in words; `best` is the label of the best epoch."""

    def spread(which):
        errors = [summary[f"{which}_test_error"] for summary in summaries]
        return f"{statistics.mean(errors):.2f} +- {statistics.stdev(errors):.2f}%"

    return (
        f"test error of {len(summaries)} seeds (mean +- sample standard deviation): final {spread('final')},"
        f" {best} {spread('best')}"
    )


def _bytes_of(device: jax.Device) -> float:
    """Memory of a device in bytes; CPU devices divide the machine's memory."""
    stats = device.memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return limit
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.device_count()
