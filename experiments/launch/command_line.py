"""Parses `--config NAME [--field value ...]`: a named config, with any field changed by a flag."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence

from experiments.configs.base import OPTIMIZER_KINDS, RunConfig
from experiments.configs.earlier import flags_of_today
from experiments.configs.named import NamedRun, plain_name, with_optimizer_kind
from experiments.configs.programs import PROGRAMS
from experiments.launch.flags import REGISTRY, FieldsError, check_flags, given_flags
from experiments.launch.help import print_configs, print_group, print_help
from experiments.runtime.arguments import read_options
from resjax.errors import InputError, did_you_mean

FINE_TUNING = "finetune"
"""The config that `--pretrained` takes without `--config`."""


def parse(
    program: str,
    configs: Mapping[str, NamedRun],
    arguments: Sequence[str],
    subcommand: str = "",
) -> tuple[str, NamedRun, RunConfig]:
    """Reads a command line.

    Args:
      program: the command, e.g. "python -m experiments.cifar".
      configs: the named configs.
      arguments: the command line after the program's name.
      subcommand: how another use of the program is called, for `--help`.

    Returns:
      The name; the named config, for the network and input of `--pretrained` and without the augmentation that
      `--freeze trunk` leaves out; and its config with the flags applied.

    Raises:
      InputError: for a missing or unknown name, flag or value.
      SystemExit: after `--help` and `--list`.
    """
    arguments, notes = flags_of_today(arguments)
    for note in notes:
        print(note, file=sys.stderr)
    names, rest = _take_option(arguments, "--config")
    weights, freezes = (_take_option(rest, option)[0][-1:] for option in ("--pretrained", "--freeze"))
    if weights and not names and FINE_TUNING in configs:
        names = [FINE_TUNING]
    wanted, rest = _take_request(rest, "-h", "--help")
    listed, rest = _take_request(rest, "--list")
    if listed is not None:
        print_configs(configs, listed or "*")
        raise SystemExit(0)
    if not names and wanted is None:
        raise InputError(
            f"--config NAME is missing, for example {next(iter(configs))} (--list shows all {len(configs)})"
        )
    for name in names:
        if name not in configs:
            raise InputError(_unknown_config(name, program))
    if len(set(names)) > 1:
        raise InputError(f"--config is given as {' and as '.join(names)}: choose one")
    name = names[0] if names else next(iter(configs))
    named = configs[name]
    if weights and wanted is None:
        from experiments.training.pretrained import on_weights

        named = dataclasses.replace(named, config=on_weights(named.config, *weights))
    if freezes == ["trunk"]:
        named = dataclasses.replace(named, config=named.config.without_augmentation())
    default, (models, rest) = named.config, _take_option(rest, "--model.name")
    if models:
        default = dataclasses.replace(default, model=default.model.replace(name=models[-1]).checked())
    for kind in _take_option(rest, "--optimizer.kind")[0]:
        if kind in OPTIMIZER_KINDS:  # `read_options` lists the kinds for others
            default = with_optimizer_kind(default, kind)
    if wanted is not None:
        if wanted:
            print_group(program, name, default, wanted)
        print_help(program, name, default, len(configs), subcommand)
        raise SystemExit(0)
    check_flags(rest, default)
    try:
        config = read_options(type(default), f"{program} --config {name}", rest, default=default, registry=REGISTRY)
    except FieldsError as error:
        raise InputError(str(error)) from None
    config, note = config.following(default, given_flags(rest))
    if note:
        print(note, file=sys.stderr)
    return name, named, config


def _unknown_config(name: str, program: str) -> str:
    """The message for a config that a program does not have, with the nearest ones of all programs."""
    configs = PROGRAMS[program]
    alike = {other: [c for c in PROGRAMS[other] if plain_name(c) == plain_name(name)] for other in PROGRAMS}
    text = f"unknown config {name!r}"
    if not alike[program]:
        for other, found in alike.items():
            if found:
                return f"{text}: it is a recipe of {other} --config {found[0]}"
        return f"{text}{did_you_mean(name, configs)} (--list shows all {len(configs)})"
    return f"{text}; did you mean {' or '.join(map(repr, alike[program]))}?"


def _take_request(arguments: list[str], *options: str) -> tuple[str | None, list[str]]:
    """The word after one of `options`, "" if none follows, None without the option; and the other arguments."""
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in options:
            if not equals and position + 1 < len(arguments) and not arguments[position + 1].startswith("-"):
                return arguments[position + 1], arguments[:position] + arguments[position + 2 :]
            return value, arguments[:position] + arguments[position + 1 :]
    return None, arguments


def _take_option(arguments: list[str], option: str) -> tuple[list[str], list[str]]:
    """The values of `option`, and the arguments without it."""
    values, rest, position = [], [], 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == option:
            if position + 1 == len(arguments):
                raise InputError(f"{option} needs a name after it")
            values.append(arguments[position + 1])
            position += 1
        elif argument.startswith(option + "="):
            values.append(argument.removeprefix(option + "="))
        else:
            rest.append(argument)
        position += 1
    return values, rest
