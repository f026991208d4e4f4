"""Compares resjax and PyTorch on this machine: `python -m experiments.benchmark --models resnet_20:128 wrn_16_4:64`.

Both sides train the same network with the same batch, precision and optimizer. Each has its own process, and they run
alternately. The result is the median over the rounds of the ratio within a round, which noise changes least.
"""

import dataclasses
import datetime
import math
import multiprocessing
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any, Literal

from rich.console import Console

from experiments.benchmarks import compiled
from experiments.benchmarks.loader import InputOptions, input_table, measure_input
from experiments.benchmarks.workers import MeasurementError, Worker, create_network, machine
from experiments.configs.base import Remat, Scan, form_options
from experiments.runtime import files
from experiments.runtime.arguments import read_options
from experiments.runtime.console import plain_console
from experiments.runtime.exit_codes import exit_code, leave
from experiments.runtime.targets import compiler_versions
from resjax.errors import InputError
from resjax.models import model_info, multiply_adds

PROGRAM = "python -m experiments.benchmark"
MODELS = (
    "resnet_20:128",
    "wrn_16_4:64",
    "wrn_28_10:16",
    "preresnet_110:64",
    "resnext_29_8x64d:8",
    "densenet_bc_100_12:32",
    "resnet_50:8",
    "resnext_50_32x4d:8",
)
_TURN_SECONDS = 2.0
_MOST_USED = (
    "models", "rounds", "steps", "dtype", "torch", "input", "compiled", "data_dir", "workers", "output",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    models: tuple[str, ...] = MODELS
    """NAME:BATCH, with names of `resjax.create_model`, on images of the paper's size. NAME@8:BATCH is the network
    dilated to output stride 8."""
    rounds: int = 5
    """Number of rounds; both sides run once in each."""
    steps: int = 3
    """Minimum number of training steps in a round; it is raised until they take resjax two seconds."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Computation dtype; default: float32, with --compiled bfloat16. PyTorch runs bfloat16 by autocast."""
    scan: Scan = "auto"
    """Residual networks of resjax: compile blocks of one shape as one loop; auto: in deep stages."""
    remat: Remat = "none"
    """Residual networks of resjax: what blocks keep for the backward pass. none: everything; convs: the outputs of
    their convolutions; full: their input."""
    torch: tuple[Literal["eager", "compile"], ...] = ("eager", "compile")
    """Modes of PyTorch; the fastest one counts. Without a value, only resjax is measured."""
    input: bool = False
    """Measure the input pipeline instead; the loader by itself, and training the first network with it."""
    compiled: bool = False
    """Compile the training steps for other machines instead; they are not run, but their memory and traffic printed,
    beside plain Flax's. --models takes TARGET/NAME:BATCH, e.g. h200/resnet_50:256; with bfloat16 unless --dtype is
    given."""
    data_dir: str | None = None
    """Folder of class folders for --input; default: generated JPEG files."""
    workers: int | None = None
    """Number of decoding processes for --input; default: the number of cores minus one."""
    seconds: float = 10.0
    """With --input: seconds of each measurement in a round."""
    output: pathlib.Path = pathlib.Path("benchmarks")
    """Folder for results.json and results.md; with --input, for input.json and input.md; with --compiled, for
    compiled.json and compiled.md, which keep their other rows if the compilers are the same."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for bad input."""
    console = plain_console()

    def command():
        options = read_options(Options, PROGRAM, arguments, description=__doc__, most_used=_MOST_USED)
        options = dataclasses.replace(options, dtype=options.dtype or ("bfloat16" if options.compiled else "float32"))
        if options.compiled:
            console.print(compiled.table(run_compiled(options)))
            return
        elif options.input:
            results, name, text = run_input(options), "input", input_table
        else:
            results, name, text = run(options, console), "results", table
        write(options.output, name, results, text(results))
        console.print(text(results))

    return exit_code(command, kept="nothing was written")


def run(options: Options, console: Console) -> dict[str, Any]:
    """Measures every network; returns the contents of results.json.

    Raises:
      InputError: for an unknown network or an impossible number.
    """
    form = form_options(options.scan, options.remat)
    pairs = [_parse(text, form) for text in options.models]
    if options.rounds < 1 or options.steps < 1:
        raise InputError(f"--rounds and --steps: expected positive integers, got {options.rounds} and {options.steps}")
    context = multiprocessing.get_context("spawn")
    rows, machine = [], {}
    for name, batch in pairs:
        row, machine = measure(name, batch, options, context, console)
        rows.append(row)
        console.print(line(row), markup=False, highlight=False)
    return {"date": datetime.date.today().isoformat(), "machine": machine, "dtype": options.dtype, "networks": rows}


def run_compiled(options: Options) -> dict[str, Any]:
    """Compiles every network; returns the contents of compiled.json, which is written behind each, as it takes minutes.

    Raises:
      InputError: for an unknown network or target, or a compiler that is not installed.
    """
    texts = compiled.NETWORKS if options.models == MODELS else options.models
    form, networks = form_options(options.scan, options.remat), []
    for text in texts:
        where, slash, network = text.partition("/")
        if not slash:
            raise InputError(
                f"--models {text}: with --compiled expected TARGET/NAME:BATCH, e.g. {compiled.NETWORKS[0]}"
            )
        networks.append((where, *_parse(network, form)))
    about = {"date": datetime.date.today().isoformat(), "versions": compiler_versions(), "dtype": options.dtype}
    results: dict[str, Any] = {}
    for network in networks:
        rows = compiled.measure([network], options.dtype, form, lambda text: print(text, file=sys.stderr, flush=True))
        results = about | {"networks": compiled.with_recorded(rows, about, options.output / "compiled.json")}
        write(options.output, "compiled", results, compiled.table(results))
    return results


def run_input(options: Options) -> dict[str, Any]:
    """Measures the input pipeline; returns the contents of input.json.

    Raises:
      InputError: for a network that is not ImageNet's, or images that cannot be read.
    """
    models = options.models if options.models != MODELS else ("resnet_50:32",)
    name, batch = _parse(models[0], {})
    if options.rounds < 1 or not options.seconds > 0:
        raise InputError(f"--rounds and --seconds: expected positive numbers, got {options.rounds}, {options.seconds}")
    measured = measure_input(
        InputOptions(options.data_dir, name, batch, options.workers, options.rounds, options.seconds, options.dtype)
    )
    return {"date": datetime.date.today().isoformat(), "dtype": options.dtype, "machine": machine()} | measured


def measure(
    name: str, batch: int, options: Options, context: Any, console: Console
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measures one network on every side; returns its row, and the machine as its processes describe it."""
    info = model_info(name.partition("@")[0])
    work = multiply_adds(create_network(name), info.input_size)
    request = {"name": name, "batch": batch, "dtype": options.dtype}
    form = form_options(options.scan, options.remat)
    sides, machine, row = {}, {}, {"network": name, "batch": batch, "parameters": info.parameters}
    try:
        for side in ("resjax", *(f"torch_{way}" for way in options.torch)):
            try:
                sides[side] = worker = Worker(context, side, request | ({"form": form} if side == "resjax" else {}))
                machine |= worker.facts.pop("machine")
                row[side] = worker.facts
            except MeasurementError as error:
                console.print(f"{name}, {side}: left out: {error}", markup=False, highlight=False)
                row[side] = {"left_out": str(error)}
        # Many steps share the cost of a dispatch, as in training.
        own = row["resjax"].get("seconds_per_step", math.inf)
        steps = max(options.steps, math.ceil(_TURN_SECONDS / own))
        for kind in ("train", "forward"):
            seconds = {side: [] for side in sides}
            for _ in range(options.rounds):
                for side, worker in sides.items():
                    seconds[side].append(worker.round(kind, steps))
            row |= _rates(seconds, kind, batch, row)
        for side, worker in sides.items():
            row[side]["peak_memory_mib"] = worker.peak_memory()
        rivals = [row[side]["peak_memory_mib"] for side in sides if side != "resjax"]
        if "resjax" in sides and rivals:
            row["memory_ratio"] = row["resjax"]["peak_memory_mib"] / min(rivals)
    finally:
        for worker in sides.values():
            worker.close()
    if "resjax" in sides:
        rate = row["resjax"]["train_images_per_second"]
        # A training step costs three forward passes. A multiply-add is two operations.
        row["share_of_ceiling"] = 6 * work * rate / 1e9 / row["resjax"]["ceiling_gflops"]
    return row, machine


def _rates(seconds: dict[str, list[float]], kind: str, batch: int, row: dict[str, Any]) -> dict[str, Any]:
    for side, times in seconds.items():
        row[side][f"{kind}_images_per_second"] = batch / statistics.median(times)
    rivals = [side for side in seconds if side != "resjax"]
    if "resjax" not in seconds or not rivals:
        return {}
    best = min(rivals, key=lambda side: statistics.median(seconds[side]))
    ratios = [theirs / ours for ours, theirs in zip(seconds["resjax"], seconds[best], strict=True)]
    return {
        f"{kind}_ratio": statistics.median(ratios),
        f"{kind}_ratio_range": [min(ratios), max(ratios)],
        f"{kind}_rival": best,
    }


def write(folder: pathlib.Path, name: str, results: dict[str, Any], text: str) -> None:
    """Writes NAME.json and NAME.md."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / f"{name}.json", results)
    files.write(folder / f"{name}.md", text + "\n")


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    rows = results["networks"]
    lines = [
        f"{results['date']}, {results['dtype']}, {', '.join(f'{k} {v}' for k, v in results['machine'].items())}",
        "",
        "| network, batch | resjax img/s | PyTorch img/s | ratio (range) | forward ratio | of the matmul rate |"
        " trace + lower + compile s | step's program MiB | peak MiB of the process | PyTorch's (ratio) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "train_images_per_second" not in row["resjax"]:
            lines.append(f"| {row['network']}, {row['batch']} | left out: {row['resjax']['left_out']} |")
            continue
        ours, compiled = row["resjax"], "no PyTorch"
        theirs = ratio = forward = memory = compiled
        if "train_ratio" in row:
            rival = row["train_rival"]
            theirs = f"{row[rival]['train_images_per_second']:.1f} ({rival.removeprefix('torch_')})"
            low, high = row["train_ratio_range"]
            ratio, forward = f"{row['train_ratio']:.2f} ({low:.2f} .. {high:.2f})", f"{row['forward_ratio']:.2f}"
            memory = f"{ours['peak_memory_mib'] / row['memory_ratio']:.0f} ({row['memory_ratio']:.2f})"
        cells = (
            f"{row['network']}, {row['batch']}",
            f"{ours['train_images_per_second']:.1f}",
            theirs,
            ratio,
            forward,
            f"{row['share_of_ceiling']:.0%}",
            f"{ours['trace_s']:.1f} + {ours['lower_s']:.1f} + {ours['compile_s']:.1f}",
            f"{ours['program_mib']:.0f}",
            f"{ours['peak_memory_mib']:.0f}",
            memory,
        )
        lines.append(f"| {' | '.join(cells)} |")
    compared = [row for row in rows if "train_ratio" in row]
    if compared:
        rate, memory = (
            statistics.geometric_mean(row[key] for row in compared) for key in ("train_ratio", "memory_ratio")
        )
        lines += ["", f"Geometric mean of the ratios: {rate:.2f}; of the ratios of memory: {memory:.2f}."]
    return "\n".join(lines)


def line(row: dict[str, Any]) -> str:
    """One network's result as a line, printed before the next network is measured."""
    rate = row["resjax"].get("train_images_per_second")
    ours = "left out" if rate is None else f"{rate:.1f} img/s"
    ratio = f", {row['train_ratio']:.2f} of {row['train_rival']}" if "train_ratio" in row else ""
    return f"{row['network']}, batch {row['batch']}: resjax {ours}{ratio}"


def _parse(text: str, form: dict[str, Any]) -> tuple[str, int]:
    name, _, batch = text.partition(":")
    if not batch.isdecimal() or int(batch) == 0:
        raise InputError(f"--models {text}: expected NAME:BATCH, e.g. resnet_20:128")
    if "@" in name and not name.partition("@")[2].isdecimal():
        raise InputError(f"--models {text}: expected an output stride behind @, e.g. resnet_50@8:4")
    create_network(name, **form)
    return name, int(batch)


if __name__ == "__main__":
    leave(main())
