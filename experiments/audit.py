"""Trains random parts of a run again and compares: `python -m experiments.audit RUN --spans 3`. Checks weights, too."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

import tyro
from rich.console import Console

from experiments.evaluation.audit import BATCH_SIZE, Checked, check_run, check_weights
from experiments.runtime.arguments import read_options
from experiments.runtime.backend import prepare_backend
from experiments.runtime.console import plain_console
from experiments.runtime.exit_codes import TrainingError, exit_code, leave
from experiments.runtime.targets import stay_on_cpu
from experiments.training.audit import TOLERANCE, Audit, Finding, choose
from experiments.training.packed import folders_of_runs, unpack
from experiments.training.workdir import is_run, read_saved_run
from resjax import list_pretrained
from resjax.errors import InputError, did_you_mean

PROGRAM = "python -m experiments.audit"


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains random spans between two kept checkpoints of a run again, and compares the result with what the run saved:
    parameters, optimizer, statistics and the epochs' lines in metrics.jsonl. On the machine and versions of the run
    every bit must be the same; on others --tolerance holds. The run itself is only read.

    Of saved weights it checks the files, the images of their run, and the evaluation of their card to the last image;
    and with --run that they are the run's, whose spans it then trains again. It says what cannot be checked.

    A run keeps the checkpoints with --keep_every N. Exit code 0: all is as saved; 1: something differs."""

    of: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE|NAME")]
    """RUN, a workdir; FILE, a packed run; or NAME, weights of resjax.list_pretrained() or a folder of them."""
    run: str | None = None
    """Of weights: the run that trained them, its workdir or packed run."""
    spans: int = 3
    """Number of spans to train again, drawn at random."""
    seed: int = 0
    """Draws the spans."""
    data_dir: str | None = None
    """Where the run's data is now; default: where it was, of weights TFDS's folder."""
    tolerance: float | None = None
    """Largest distance of the parameters at a span's end from the saved ones, as a fraction of the way that the saved
    ones moved in the span. Default: 0, bit for bit; on another machine or other versions 0.1."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, 1 (something differs), or 2 for bad input."""
    console = plain_console()

    def command():
        audit(read_options(Options, PROGRAM, arguments), console)

    return exit_code(command, "what was audited is unchanged")


def audit(options: Options, console: Console) -> None:
    """Audits a run or weights, and prints what it finds.

    Raises:
      TrainingError: if something differs.
      InputError: if there is no run and there are no such weights, or nothing to train again.
    """
    if options.spans < 1:
        raise InputError(f"--spans: expected a number >= 1, got {options.spans}")
    stay_on_cpu()  # the accelerator, and its memory, are for the processes that train
    path = pathlib.Path(options.of).expanduser()
    if path.is_file() or is_run(path):
        if options.run is not None:
            raise InputError(f"--run: {options.of} is a run; only for weights")
        with _workdir(path) as folder:
            _audit_run(folder, options, console)
        return
    if not _is_weights(path) and options.of not in list_pretrained():
        if path.is_dir():
            read_saved_run(path)  # raises an error that says what the folder holds
        raise InputError(
            f"{options.of}: no such run, packed run or weights{did_you_mean(options.of, list_pretrained())}"
        )
    # Before the evaluation, which takes longer.
    with (
        contextlib.nullcontext() if options.run is None else _workdir(pathlib.Path(options.run).expanduser()) as folder
    ):
        prepare_backend((BATCH_SIZE,), "auto")
        wrong = _told(options.of, check_weights(options.of, options.data_dir), console)
        if folder is None:
            console.print("not audited: how they were trained; --run takes their run with its kept checkpoints")
        elif not wrong:
            wrong = _told(options.of, check_run(options.of, str(folder)), console)
        if wrong:
            raise TrainingError(f"{options.of}: {wrong[0]}")
        if folder is not None:
            _audit_run(folder, options, console)


def _told(weights: str, checks: Iterable[Checked], console: Console) -> list[str]:
    """Prints what was checked; returns what is wrong."""
    wrong = []
    for check in checks:
        lead = "not audited: " if check.is_right is None else "" if check.is_right else "WRONG "
        console.print(f"{weights}: {lead}{check.said}", highlight=False, markup=False)
        wrong += [check.said] if check.is_right is False else []
    return wrong


def _is_weights(path: pathlib.Path) -> bool:
    return (path / "model.safetensors").is_file()


@contextlib.contextmanager
def _workdir(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A workdir, or a packed run unpacked for the time of the audit."""
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack(path, pathlib.Path(scratch) / "run")
        runs = folders_of_runs(folder)
        if len(runs) > 1:
            raise InputError(f"{path}: holds {len(runs)} seeds; unpack it, and give the folder of one")
        yield runs[0]


def _audit_run(path: pathlib.Path, options: Options, console: Console) -> None:
    run = Audit(path, options.data_dir)
    spans = choose(run.spans, options.spans, options.seed)
    console.print(f"{path}: {len(run.spans)} spans between kept checkpoints; training {len(spans)} again")
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
