"""Packs a run into one file, and unpacks it elsewhere: `python -m experiments.pack RUN`."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.console import Console

from experiments.runtime.arguments import read_options
from experiments.runtime.console import plain_console
from experiments.runtime.exit_codes import exit_code, leave
from experiments.training.packed import SUFFIX, folders_of_runs, pack, unpack
from experiments.training.workdir import read_saved_run
from resjax.errors import InputError

PROGRAM = "python -m experiments.pack"


@dataclasses.dataclass(frozen=True)
class Options:
    """Packs a run, finished or not, into one file: config, metrics, curves and checkpoints. Given such a file, unpacks
    it. The unpacked run goes on by its own command, bit for bit on the same kind of machine."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE")]
    """RUN, a workdir, to pack; or FILE, a packed run, to unpack."""
    output: str | None = None
    """The file to write; default: RUN.run.tar, beside the run. Unpacking: the folder; default: beside the file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for bad input."""
    console = plain_console()

    def command():
        run(read_options(Options, PROGRAM, arguments), console)

    return exit_code(command, "nothing was written")


def run(options: Options, console: Console) -> None:
    """Packs or unpacks, and says what comes next.

    Raises:
      InputError: see `experiments.training.packed`.
    """
    path = pathlib.Path(os.path.expanduser(options.run)).absolute()
    output = None if options.output is None else pathlib.Path(os.path.expanduser(options.output))
    if path.is_dir():
        target = path.with_name(path.name + SUFFIX) if output is None else output
        count = pack(path, target)
        console.print(f"{target}: {count} files, {target.stat().st_size / 2**20:.1f} MiB")
        console.print(f"elsewhere: {PROGRAM} {target.name}")
    elif path.is_file():
        folder = unpack(path, output)
        saved = read_saved_run(folders_of_runs(folder)[0])
        console.print(f"{folder}: unpacked. It goes on by this command; --data_dir is where its data is:")
        console.print(saved.command(workdir=str(folder), resume="must"))
    else:
        raise InputError(f"{options.run}: no such run, and no such file")


if __name__ == "__main__":
    leave(main())
