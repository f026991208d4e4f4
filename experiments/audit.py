"""Trains random parts of a run again and compares: `python -m experiments.audit RUN --spans 3`."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.console import Console

from experiments.runtime.arguments import read_options
from experiments.runtime.console import plain_console
from experiments.runtime.exit_codes import TrainingError, exit_code, leave
from experiments.runtime.targets import stay_on_cpu
from experiments.training.audit import TOLERANCE, Audit, Finding, choose
from resjax.errors import InputError

PROGRAM = "python -m experiments.audit"


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains random spans between two kept checkpoints of a run again, and compares the result with what the run saved:
    parameters, optimizer, statistics and the epochs' lines in metrics.jsonl. On the machine and versions of the run
    every bit must be the same; on others --tolerance holds. The run itself is only read.

    A run keeps the checkpoints with --keep_every N. Exit code 0: all is as saved; 1: something differs."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Workdir of the run."""
    spans: int = 3
    """Number of spans to train again, drawn at random."""
    seed: int = 0
    """Draws the spans."""
    data_dir: str | None = None
    """Where the run's data is now; default: where it was."""
    tolerance: float | None = None
    """Largest distance of the parameters at a span's end from the saved ones, as a fraction of the way that the saved
    ones moved in the span. Default: 0, bit for bit; on another machine or other versions 0.1."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, 1 (something differs), or 2 for bad input."""
    console = plain_console()

    def command():
        audit(read_options(Options, PROGRAM, arguments), console)

    return exit_code(command, "the run is unchanged")


def audit(options: Options, console: Console) -> None:
    """Audits a run and prints what it finds.

    Raises:
      TrainingError: if something differs.
      InputError: if there is no run, or nothing to train again.
    """
    if options.spans < 1:
        raise InputError(f"--spans: expected a number >= 1, got {options.spans}")
    stay_on_cpu()  # the accelerator, and its memory, are for the processes that train
    run = Audit(options.run, options.data_dir)
    spans = choose(run.spans, options.spans, options.seed)
    console.print(f"{options.run}: {len(run.spans)} spans between kept checkpoints; training {len(spans)} again")
    if (damage := run.check_files()) is not None:
        raise TrainingError(f"the files of the run are not those that it wrote: {damage}")
    failed = 0
    for i, span in enumerate(spans, start=1):
        where = f"span {i} of {len(spans)}, steps {span.first} to {span.last} (up to epoch {span.epochs})"
        console.print(f"{where}: training ..")
        with tempfile.TemporaryDirectory() as scratch:
            finding = run.train_again(span, pathlib.Path(scratch))
        same, said = verdict(finding, options.tolerance)
        failed += not same
        console.print(f"{where}: {said}")
    if failed:
        raise TrainingError(f"{failed} of {len(spans)} spans are not what this config and data give")
    console.print(f"{len(spans)} of {len(spans)} spans are as saved")


def verdict(finding: Finding, tolerance: float | None) -> tuple[bool, str]:
    """Whether a finding is within the tolerance, see `Options`, and what to say of it."""
    if finding.is_same:
        return True, "the same, bit for bit"
    if tolerance is None:
        tolerance = 0.0 if finding.machine is None else TOLERANCE
    said = f"parameters differ by {finding.distance:.2g} of the way that they moved"
    if finding.machine is not None:
        said += f" on another machine ({finding.machine})"
    lines = f"; metrics.jsonl: {finding.metrics[0]}" if finding.metrics else ""
    # Where every array is the same, rounding explains no other metrics.
    if finding.arrays and finding.distance <= tolerance and tolerance > 0:
        return True, f"{said}, within {tolerance:g}{lines}"
    arrays = f"; {len(finding.arrays)} arrays differ, the first {finding.arrays[0]}" if finding.arrays else ""
    return False, f"{said}{arrays}{lines}"


if __name__ == "__main__":
    leave(main())
