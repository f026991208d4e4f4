"""Help texts of the training commands: the first screen, the flags of a group, the table of configs."""

import dataclasses
import fnmatch
import itertools
import textwrap
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from experiments.configs.base import RunConfig
from experiments.configs.model import ModelConfig
from experiments.configs.named import NamedRun
from experiments.launch.flags import REGISTRY
from experiments.runtime.arguments import field_docs, first_clause, first_screen, metavar, read_options, width
from resjax.errors import InputError, unknown_name

MOST_USED = (
    "pretrained", "dataset", "data_dir", "workdir", "epochs", "batch_size", "seed", "seeds", "dtype", "resume",
    "dry_run",
)  # fmt: skip
# These columns of the table of configs are left out below this width.
_PLANNING, _WIDE = ("statistic", "training\nPFLOP"), 100


def groups(config: RunConfig) -> dict[str, tuple[str, ...]]:
    """The fields of each group of flags.

    training: flat fields that decide the result; run: flat fields that only say how to run; then each nested part.
    """
    nested = [field for field in dataclasses.fields(config) if _is_nested(getattr(config, field.name))]
    flat = [field for field in dataclasses.fields(config) if field not in nested]
    return {
        "training": tuple(field.name for field in flat if not field.metadata.get("run_only")),
        "run": tuple(field.name for field in flat if field.metadata.get("run_only")),
        **{field.name: (field.name,) for field in nested},
    }


def _is_nested(value: Any) -> bool:
    """Whether a field of a config has flags of its own."""
    return isinstance(value, ModelConfig) or dataclasses.is_dataclass(value)


def print_help(program: str, name: str, config: RunConfig, count: int, subcommand: str = "") -> None:
    """Prints the first screen: usage, where the rest is, and the most used flags with the values of a config."""
    hints, documented = get_type_hints(type(config)), field_docs(type(config))
    most_used = []
    own = {field.name for field in dataclasses.fields(config)}
    for field in [field for field in MOST_USED if field in own]:
        value = getattr(config, field)
        choices = ", ".join(map(str, get_args(hints[field]))) if get_origin(hints[field]) is Literal else ""
        text = choices or first_clause(documented[field])
        shown = "" if value is None or isinstance(value, bool) else f" ({value})"
        most_used.append(
            (f"--{field} {'NAME' if choices else metavar(field, hints[field], documented[field])}", text + shown)
        )
    named = ", ".join([*groups(config), "all"])
    rows = [
        ("NAME", "a recipe, also --config NAME; every flag changes a value of it"),
        ("--list [PATTERN]", f"the {count} recipes, with parameters and published results"),
        ("--help GROUP", f"the flags of {named}"),
    ]
    usage = [f"usage: {program} NAME [--FLAG VALUE ...]", *([f"       {program} {subcommand}"] if subcommand else [])]
    print(first_screen(usage, rows, f"Most used flags, with the values of {name}:", most_used), end="")


def print_group(program: str, name: str, config: RunConfig, group: str) -> None:
    """Prints every flag of a group, or of all, with the values of a config.

    Raises:
      InputError: for an unknown group.
    """
    known = groups(config)
    if group != "all" and group not in known:
        raise unknown_name("group of flags", group, [*known, "all"])
    shown = set(itertools.chain(*known.values())) if group == "all" else known[group]
    part = _only(config, shown)
    read_options(
        type(part),
        f"{program} --config {name}",
        ["--help", "all"],
        description=f"Flags of {group}, with the values of --config {name}. Underscores and hyphens are"
        " interchangeable.",
        default=part,
        registry=REGISTRY,
    )


def _only(config: Any, shown: Collection[str]) -> Any:
    """The config as an object of a class of which tyro shows only these fields."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    suppress: Any = tyro.conf.Suppress
    hidden = [
        (field.name, suppress[field.type], dataclasses.field(default=values[field.name]))
        for field in dataclasses.fields(config)
        if field.name not in shown
    ]
    kind: Any = dataclasses.make_dataclass(type(config).__name__, hidden, bases=(type(config),), frozen=True)
    return kind(**values)


def print_configs(configs: Mapping[str, NamedRun], pattern: str = "*") -> None:
    """Prints the named configs that match a shell pattern, under the source of their recipe.

    Raises:
      InputError: if none matches.
    """
    names = [name for name in configs if fnmatch.fnmatchcase(name, pattern)]
    names = names or [name for name in configs if pattern in name]
    if not names:
        raise InputError(f"--list {pattern}: none of the {len(configs)} configs has such a name; * stands for any text")
    rows = {name: {"config": name, **configs[name].table_row()} for name in names}
    columns = [column for column in rows[names[0]] if width() >= _WIDE or column not in _PLANNING]
    heads = {column: column.split("\n") for column in columns}
    sizes = {
        column: max(len(text) for text in [*heads[column], *(row[column] for row in rows.values())])
        for column in columns
    }

    def line(cells: Mapping[str, str]) -> str:
        padded = (
            cells[column].rjust(sizes[column]) if _is_number(column) else cells[column].ljust(sizes[column])
            for column in columns
        )
        return "  ".join(padded).rstrip()

    for lines in (2, 1):  # heads of one line stand beside the last line of the others
        if any(len(head) >= lines for head in heads.values()):
            print(line({column: head[-lines] if len(head) >= lines else "" for column, head in heads.items()}))
    for source, several in itertools.groupby(names, key=lambda name: configs[name].source):
        print("\n" + textwrap.fill(source, width()))
        for name in several:
            print(line(rows[name]))


def _is_number(column: str) -> bool:
    return column in ("parameters", "epochs") or "PFLOP" in column
