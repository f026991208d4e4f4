"""The start of a training command: its flags are read, and help and mistakes answered, before JAX is imported."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from experiments.configs.programs import PROGRAMS
from experiments.launch.command_line import parse
from experiments.launch.flags import given_flags
from experiments.runtime.console import plain_console
from experiments.runtime.exit_codes import exit_code
from resjax.errors import InputError, did_you_mean


def start(
    program: str,
    train: Callable[..., Any],
    subcommands: Mapping[str, tuple[str, Callable[[Sequence[str], Console], Any]]],
    arguments: Sequence[str] | None,
) -> int:
    """Runs a command; returns its exit code, see `exit_code`.

    Args:
      program: the training command, a key of `PROGRAMS`.
      train: takes what `experiments.launch.run.run` takes after its program.
      subcommands: by the word that comes first: the usage of its flags, and what it runs.
      arguments: the command line after the program's name; None takes sys.argv.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    configs, console = PROGRAMS[program], plain_console()
    usage = " ".join(f"{name} {flags}" for name, (flags, _) in subcommands.items())

    def command():
        if arguments and arguments[0] in subcommands:
            subcommands[arguments[0]][1](arguments[1:], console)
            return
        if arguments and arguments[0] in configs:
            arguments.insert(0, "--config")
        if arguments and not arguments[0].startswith("-"):
            known = "".join(f", or {word}" for word in subcommands)
            options = [*subcommands, *(f"--config {name}" for name in configs)]
            near = did_you_mean(arguments[0], subcommands) or did_you_mean(f"--config {arguments[0]}", options)
            raise InputError(f"{arguments[0]!r}: expected --config NAME{known}{near} (see --help)")
        train(*parse(program, configs, arguments, usage), console, given_flags(arguments))

    return exit_code(command)
