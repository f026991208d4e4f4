"""The flags of a command from a dataclass, its help in the width of the terminal, and the order of a command line."""

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import pathlib
import re
import shutil
import sys
import textwrap
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from experiments.runtime.numbers import check_numbers
from resjax.errors import InputError, did_you_mean

_PIPE_WIDTH = 80  # columns where there is no terminal
_SCREEN = 24  # lines
_MOST_USED = 10  # flags
_SHOWN = 2  # items of a default
_HELP = ("-h", "--help")
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
    most_used: Sequence[str] = (),
    topics: Mapping[str, str] | None = None,
) -> Any:
    """The options of a command line, an object of the dataclass `kind`. Prints help in the width of the terminal.

    `--help` prints one screen: usage and the most used flags; `--help all`, or help that fits on it, every flag.

    Args:
      kind: its docstring describes the command, the text below each field the flag.
      program: the command, for its help.
      arguments: the command line after the program's name; None takes that of the process.
      default: the values that the command line changes; default: those of `kind`.
      description: in the place of the docstring of `kind`.
      registry: how types become flags; it has `documented` among its rules.
      most_used: fields of the first screen; default: the first of `kind`.
      topics: what else the first screen names, with its text: flags that the caller answers.

    Raises:
      InputError: for a command line that cannot be read, or a number out of the range of `check_numbers`.
      SystemExit: after help.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = {} if default is None else {"default": default}
    printed, complaint = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complaint):
            options = tyro.cli(
                kind,
                prog=program,
                args=words,
                description=description,
                use_underscores=True,
                registry=registry,
                **given,
            )
    except SystemExit as stop:
        if stop.code:
            raise InputError(_problem(complaint.getvalue(), words, _flags(kind))) from None
        text = _filled(printed.getvalue())
        everything = ("all",) in [tuple(words[at + 1 : at + 2]) for at, word in enumerate(words) if word in _HELP]
        if not everything and (topics or text.count("\n") > _SCREEN):
            text = _own_screen(kind, program, description, most_used, topics or {})
        print(text, end="")
        raise
    print(complaint.getvalue(), end="", file=sys.stderr)  # warnings
    check_numbers(_values(options))
    return options


def _values(options: Any, prefix: str = "") -> dict[str, Any]:
    """The value of every flag. The keys of a mapping are flags: fields of a network, which its name decides."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            found |= _values(value, f"{prefix}{field.name}.")
        elif isinstance(value, Mapping):
            found |= {f"{prefix}{key}": each for key, each in value.items()}
        else:
            found[f"{prefix}{field.name}"] = value
    return found


class _Flag(NamedTuple):
    name: str
    metavar: str
    text: str
    default: Any
    positional: bool


def _flags(kind: type, prefix: str = "") -> dict[str, _Flag]:
    """The flags of a dataclass and of those in it, by the name of the field."""
    texts, found = field_docs(kind), {}
    for field in dataclasses.fields(kind):
        value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if dataclasses.is_dataclass(value):
            found |= _flags(type(value), f"{prefix}{field.name}.")
            continue
        rules = get_args(field.type)[1:] if get_origin(field.type) is Annotated else ()
        positional = tyro.conf.Positional in rules
        own = [rule.metavar for rule in rules if getattr(rule, "metavar", None)]
        name = f"{prefix}{field.name}"
        text = texts.get(field.name, "")
        found[name] = _Flag(name, own[0] if own else metavar(field.name, field.type, text), text, value, positional)
    return found


def _own_screen(
    kind: type, program: str, description: str | None, most_used: Sequence[str], topics: Mapping[str, str]
) -> str:
    flags = _flags(kind)
    subjects = [flag for flag in flags.values() if flag.positional]
    named = [flag for flag in flags.values() if not flag.positional]
    shown = [flags[name] for name in most_used] or named[:_MOST_USED]
    about = " ".join((description or inspect.getdoc(kind) or "").split("\n\n")[0].split())
    rows = [(flag.metavar, first_clause(flag.text)) for flag in subjects]
    more = [("--help all", f"all {len(named)} flags, and all of their texts")]
    return first_screen(
        [f"usage: {' '.join([program, *(flag.metavar for flag in subjects)])} [--FLAG VALUE ...]"],
        [*topics.items(), *rows, *more],
        "Most used flags:",
        [(f"--{flag.name} {flag.metavar}", first_clause(flag.text) + _shown(flag.default)) for flag in shown],
        about,
    )


def _shown(value: Any) -> str:
    """The default behind the text of a flag."""
    if value is None or value is dataclasses.MISSING or value == () or isinstance(value, bool):
        return ""
    if not isinstance(value, tuple):
        return f" ({value})"
    return f" ({' '.join(map(str, value[:_SHOWN]))}{' ..' if len(value) > _SHOWN else ''})"


def first_screen(
    usage: Sequence[str],
    rows: Sequence[tuple[str, str]],
    heading: str,
    flags: Sequence[tuple[str, str]],
    about: str = "",
) -> str:
    """The first screen of a command's help.

    Args:
      usage: its first lines.
      rows: what a command line names, and where the rest of the help is, with their texts.
      heading: above the flags.
      flags: the most used ones, with their texts.
      about: what the command does.
    """
    described = ["", *textwrap.wrap(about, width())] if about else []
    return "\n".join([*usage, *described, "", *_columns(rows), "", heading, *_columns(flags), ""])


def first_clause(text: str) -> str:
    """The beginning of a flag's text, up to a semicolon, a colon or the end of the sentence."""
    return re.split(r"[;:](?: |$)|(?<!e\.g)(?<!\.)\.(?: |$)", text)[0]


def metavar(name: str, kind: Any, text: str) -> str:
    """What stands for the value of a field with this text in help, "" for a switch: INT, DIR, {one,other}, FLOAT .."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [metavar(name, one, text) or "{True,False}" for one in get_args(kind) if one is not type(None)]
        return "|".join(kinds)
    if get_origin(kind) is Literal:
        return "{" + ",".join(str(choice) for choice in get_args(kind) if choice is not None) + "}"
    if get_origin(kind) is tuple:
        items = [metavar(name, item, text) for item in get_args(kind) if item is not ...]
        return f"{items[0]} .." if ... in get_args(kind) else " ".join(items)
    if kind in (str, pathlib.Path) and (name.endswith("dir") or text.startswith("Folder ")):
        return "DIR"
    return {bool: "", int: "INT", float: "FLOAT", pathlib.Path: "FILE"}.get(kind, "NAME")


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Two columns, the right one wrapped; a left one that is too long has a line of its own."""
    lines, left = [], 22
    for flag, text in rows:
        wrapped = textwrap.wrap(text, width() - left) or [""]
        if len(flag) > left - 4:
            lines += textwrap.wrap(flag, width() - 4, initial_indent="  ", subsequent_indent="    ")
            lines += [" " * left + line for line in wrapped]
        else:
            first, *more = wrapped
            lines += [f"  {flag:{left - 2}}{first}", *(" " * left + line for line in more)]
    return [line.rstrip() for line in lines]


def _problem(text: str, words: Sequence[str], flags: Mapping[str, _Flag]) -> str:
    """What is wrong with a command line, in one line, from the box that tyro prints."""
    lines = [line.strip(" \u2500\u2502\u256d\u256e\u2570\u256f") for line in text.splitlines()]
    lines = [line for line in lines if line.strip("-")]
    said, _, about = " ".join(lines[1:]).partition("Argument helptext: ")  # without the title
    said = re.split("For full helptext,", said)[0].strip()
    for word in words:
        flag = word.partition("=")[0]
        name = flag[2:].replace("-", "_")
        if flag.startswith("--") and "." not in name and not {name, name.removeprefix("no_")} & flags.keys():
            near = did_you_mean(flag, [f"--{name}" for name in flags])
            return f"{flag}: no such flag{near} (--help all lists them)"
    if found := re.match(r"Missing from .*?: ", said):
        needed = [flag for flag in flags.values() if flag.default is dataclasses.MISSING]
        names = [flag.metavar if flag.positional else f"--{flag.name} {flag.metavar}" for flag in needed]
        missing = [name for name in names if re.search(rf"(^| ){re.escape(name)} ", said[found.end() :])]
        return f"{' and '.join(missing) or said} {'are' if len(missing) > 1 else 'is'} missing (see --help)"
    if found := re.match("Unrecognized options:? (.*)", said):
        return f"{found[1]}: more than the command takes (see --help)"
    if found := re.match(r"Missing value for argument '([^']*)'", said):
        named = flags[found[1]].metavar + " is missing" if found[1] in flags else f"{found[1]} needs a value after it"
        return f"{named} (see --help)"
    if found := re.match(r"invalid choice '(.*)' for argument '([^']*)'. Expected one of \((.*)\)", said):
        choices = [choice for choice in re.findall("'([^']*)'", found[3]) if choice != "None"]
        near = did_you_mean(found[1], choices)
        one_of = " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
        return f"{found[2]}: expected {one_of}, got {found[1]!r}{near}"
    if (found := re.match(r"Error parsing (\S+): ", said)) and found[1].startswith("-"):
        flag = re.split("[/,]", found[1])[0]
        name = flag[2:].replace("-", "_")
        shown = flags[name].metavar if name in flags else " ".join(about.split()[1:2])
        return f"{flag}: expected {shown}, got {' '.join(_after(flag, words))!r}"
    return re.sub(r"^Error parsing \S+: ", "", said)


def _after(flag: str, words: Sequence[str]) -> list[str]:
    """The words that a command line gives to a flag."""
    plain = [word.replace("-", "_") if word.startswith("--") else word for word in words]
    for at, word in enumerate(plain):
        if word.startswith(flag.replace("-", "_") + "="):
            return [words[at].partition("=")[2]]
        if word == flag.replace("-", "_"):
            return list(itertools.takewhile(lambda word: not word.startswith("--"), words[at + 1 :]))
    return []


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
        text = texts.get(field.name)
        fields.append(StructFieldSpec(field.name, shown_as(field.name, field.type, value, text or ""), value, text))
    return StructConstructorSpec(info.type, tuple(fields))


def shown_as(name: str, kind: Any, value: Any, text: str) -> Any:
    """The type of a flag, with the metavar of help; a default of None is not told, an empty one as "none"."""
    told: dict[str, str] = {}
    if get_origin(kind) is not Annotated and (shown := metavar(name, kind, text)):
        told["metavar"] = shown
    if value is None or value == ():
        told["help_behavior_hint"] = "" if value is None else "(default: none)"
    return Annotated[kind, tyro.conf.arg(**told)] if told else kind


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
