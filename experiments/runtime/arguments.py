"""The flags of a command from a dataclass, its help in the width of the terminal, and the order of a command line."""

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

_PIPE_WIDTH = 80  # columns where there is no terminal
DOCUMENTED = ConstructorRegistry()
"""For `read_options`: the text of a flag is that below its field."""


def width() -> int:
    """Columns to print: those of the terminal, 80 in a pipe; COLUMNS overrides both."""
    return shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns


def read_options(
    kind: Any,
    program: str,
    arguments: Sequence[str] | None,
    *,
    default: Any = None,
    description: str | None = None,
    registry: ConstructorRegistry = DOCUMENTED,
) -> Any:
    """The options of a command line, an object of the dataclass `kind`. Prints help in the width of the terminal.

    Args:
      kind: its docstring describes the command, the text below each field the flag.
      program: the command, for its help.
      arguments: the command line after the program's name; None takes that of the process.
      default: the values that the command line changes; default: those of `kind`.
      description: in the place of the docstring of `kind`.
      registry: how types become flags; it has `documented` among its rules.

    Raises:
      SystemExit: after help, and for a command line that cannot be read.
    """
    given = {} if default is None else {"default": default}
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            return tyro.cli(
                kind,
                prog=program,
                args=arguments,
                description=description,
                use_underscores=True,
                registry=registry,
                **given,
            )
    except SystemExit:
        print(_filled(printed.getvalue()), end="")
        raise


def _filled(text: str) -> str:
    """The text, its long lines wrapped: tyro wraps only what is in boxes."""
    lines = []
    for line in text.splitlines():
        indent = "       " if line.startswith("usage: ") else ""
        lines += textwrap.wrap(line, width(), subsequent_indent=indent, break_on_hyphens=False) or [""]
    return "".join(f"{line}\n" for line in lines)


@DOCUMENTED.struct_rule
def documented(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Rule of tyro: fields of dataclasses, with the texts below them. tyro's own keeps the breaks of source lines."""
    if not (isinstance(info.type, type) and dataclasses.is_dataclass(info.type)):
        return None
    texts, has_default = field_docs(info.type), isinstance(info.default, info.type)
    fields = []
    for field in dataclasses.fields(info.type):
        value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        value = tyro.MISSING_NONPROP if value is dataclasses.MISSING else value
        value = getattr(info.default, field.name) if has_default else value
        kind: Any = field.type
        if value == ():  # of which tyro would print nothing
            kind = Annotated[kind, tyro.conf.arg(help_behavior_hint="(default: none)")]
        fields.append(StructFieldSpec(field.name, kind, value, texts.get(field.name)))
    return StructConstructorSpec(info.type, tuple(fields))


def field_docs(kind: type) -> dict[str, str]:
    """The text below each field of a dataclass, or of one that it is derived from: {name: text on one line}."""
    found = {}
    for base in reversed(kind.__mro__[:-1]):  # without object
        try:
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # made by make_dataclass
            continue
        assert isinstance(node, ast.ClassDef)
        for field, below in itertools.pairwise(node.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def subject_first(
    program: str, arguments: Sequence[str], subject: Collection[str] = (), renamed: Mapping[str, str] | None = None
) -> list[str]:
    """A command line with its subject in front, and the flags of today. Each earlier form gets a line on stderr.

    Args:
      program: the command, for the line.
      arguments: the command line after the program's name.
      subject: flags by which earlier versions named the subject; the word after one moves to the front.
      renamed: today's name of each flag of earlier versions, both with their dashes.
    """
    rest, front, found = list(arguments), [], []
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        name = "--" + flag[2:].replace("-", "_") if flag.startswith("--") else flag
        if name in subject and (equals or rest):
            front.append(value if equals else rest.pop(0))
            print(f"{flag} is not needed any more: {program} {front[-1]} ..", file=sys.stderr)
            continue
        if renamed and name in renamed:
            print(f"{flag} is now {renamed[name]}", file=sys.stderr)
            flag = renamed[name]
        found.append(flag + equals + value)
    return front + found
