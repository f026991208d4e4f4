"""`--config NAME [--field value ...]`: a named config, any field of it changed by a flag."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

import tyro
from rich.console import Console
from rich.table import Table

from experiments.configs.base import RunConfig
from experiments.configs.named import NamedConfig, NamedRun
from experiments.image_splits import training_size
from resjax.errors import InputError, did_you_mean


def parse(
    program: str,
    configs: Mapping[str, NamedRun],
    arguments: Sequence[str],
    print_table: Callable[[str, Mapping[str, NamedRun]], None] | None = None,
) -> tuple[str, NamedRun, RunConfig]:
    """Reads a command line.

    Args:
      program: as it is called, e.g. "python -m experiments.cifar".
      configs: the named configs.
      arguments: without the program's name.
      print_table: prints the configs for `--help`; None takes `print_configs`.

    Returns:
      The name, the named config, and its config with the flags applied.

    Raises:
      InputError: for a missing or unknown name.
      SystemExit: 0 after `--help`; 2 after a flag or a value that tyro does not accept, which it explains.
    """
    names, rest = _take_option(list(arguments), "--config")
    asks_help = any(argument in ("-h", "--help") for argument in rest)
    if not names and not asks_help:
        raise InputError(
            f"--config NAME is missing, for example {next(iter(configs))} (--help lists all {len(configs)})"
        )
    for name in names:
        if name not in configs:
            raise InputError(f"unknown config {name!r}{did_you_mean(name, configs)} (--help lists all {len(configs)})")
    if len(set(names)) > 1:
        raise InputError(f"--config is given as {' and as '.join(names)}: choose one")
    name = names[0] if names else next(iter(configs))
    if asks_help:
        (print_table or print_configs)(program, configs)
    description = f"Flags, with the values of --config {name}. Underscores and hyphens are alike."
    config = tyro.cli(
        type(configs[name].config),
        prog=f"{program} --config {name}",
        description=description,
        default=configs[name].config,
        args=rest,
        use_underscores=True,
    )
    return name, configs[name], config


def changed_fields(named: NamedRun, config: RunConfig) -> dict[str, object]:
    """The fields of `config` that decide the result and differ from the named config."""
    original = named.config.identity()
    return {key: value for key, value in config.identity().items() if original.get(key) != value}


def command(program: str, name: str, changed: Mapping[str, object]) -> str:
    """The command line that `parse` reads as the config `name` with the `changed` fields."""
    words = [program, "--config", name]
    for field, value in changed.items():
        if isinstance(value, bool):
            *groups, last = field.split(".")
            words.append("--" + ".".join([*groups, last if value else f"no_{last}"]))
        else:
            values = value if isinstance(value, (list, tuple)) else [value]
            words += [f"--{field}", *(shlex.quote(str(item)) for item in values)]
    return " ".join(words)


def print_configs(program: str, configs: Mapping[str, NamedConfig]) -> None:
    """Prints each config with paper, parameters, published error and cost."""
    table = Table(
        title=f"{program} --config NAME [--field value ...]\n", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("config", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("published error %\nCIFAR-10 / -100 / SVHN", no_wrap=True)
    table.add_column("epochs", justify="right", no_wrap=True)
    table.add_column("training\nPFLOP", justify="right", no_wrap=True)
    table.add_column("recipe")
    for name, named in configs.items():
        errors = [named.published_for(dataset) for dataset in ("cifar10", "cifar100", "svhn_cropped")]
        errors = errors[:2] if errors[2] is None else errors
        printed = " / ".join(f"{error.test_error:.2f}" if error else "-" for error in errors)
        if not any(errors) and (other := named.published_for(named.config.dataset)):
            printed = f"{other.test_error:.2f} ({other.dataset})"
        table.add_row(
            name,
            f"{named.facts.parameters:,}",
            printed,
            str(named.config.epochs),
            f"{training_work(named) / 1e15:.3g}",
            named.source,
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def training_work(named: NamedConfig) -> float:
    """FLOPs of the whole of training: forward, and twice as much backward, in convolutions and linear layers."""
    return 3 * 2 * named.facts.multiply_adds * training_size(named.config) * named.config.epochs


def _take_option(arguments: list[str], option: str) -> tuple[list[str], list[str]]:
    """The values of `option`, and the arguments without it."""
    values, rest, position = [], [], 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == option:
            if position + 1 == len(arguments):
                raise InputError(f"{option} needs a name behind it")
            values.append(arguments[position + 1])
            position += 1
        elif argument.startswith(option + "="):
            values.append(argument.removeprefix(option + "="))
        else:
            rest.append(argument)
        position += 1
    return values, rest
