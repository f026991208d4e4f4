"""Every flag that a message names is one that a program has."""

import ast
import dataclasses
import importlib
import pathlib
import re
from collections.abc import Iterator

import pytest

import experiments
import resjax
from experiments.configs.base import flatten

ROOT = pathlib.Path(experiments.__file__).parents[1]
FOLDERS = [pathlib.Path(package.__file__).parent for package in (experiments, resjax)]
FILES = sorted(path for folder in FOLDERS for path in folder.rglob("*.py"))
# Those of `parse` and of tyro.
EVERYWHERE = {"config", "help", "list"}
# "--field" stands for any; others are flags of git, of XLA and of the authors of a recipe, and colours of a picture's
# style.
OTHERS = {"field", "always", "dirty", "abbrev", "exclude", "test_steps", "ink", "paper", "line", "conv", "other"}
OTHERS |= {"xla_cpu_collective_call_terminate_timeout_seconds"}
_FLAG = re.compile(r"(?<![\w-])--([a-z][\w.-]*)")


def _module(path: pathlib.Path):
    return importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def _options() -> Iterator[type]:
    """The classes that programs hand to `read_options`."""
    for path in FILES:
        tree = ast.parse(path.read_text())
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "read_options" and call.args:
                if isinstance(call.args[0], ast.Name):
                    yield getattr(_module(path), call.args[0].id)


def _fields(cls: type, prefix: str = "") -> set[str]:
    found = set()
    for field in dataclasses.fields(cls):
        found.add(prefix + field.name)
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            found |= _fields(field.type, f"{prefix}{field.name}.")
    return found


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """The flags of all programs, with underscores, and without "no_"."""
    found = EVERYWHERE | OTHERS
    for options in _options():
        found |= _fields(options)
    for name in ("cifar", "imagenet", "segmentation"):
        configs = importlib.import_module(f"experiments.configs.{name}").CONFIGS
        for named in configs.values():
            plain = {field: value for field, value in vars(named.config).items() if field != "model"}
            found |= {"model.name", *(f"model.{field}" for field in named.config.model.network_fields())}
            found |= set(
                flatten({k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for k, v in plain.items()})
            )
    return found


def _strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Strings with their lines, without docstrings and the texts of fields; those of an f-string each alone."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def _is_flag(name: str, flags: set[str]) -> bool:
    name = name.rstrip(".-").replace("-", "_")
    *groups, last = name.split(".")
    plain = ".".join([*groups, last.removeprefix("no_")])
    # "--model.{field}" names the group, "--eval_{field}" the beginning.
    begins = name if name.endswith("_") else f"{name}."
    return bool({name, plain} & flags) or any(flag.startswith(begins) for flag in flags)


def test_messages_name_no_flag_that_no_program_has(flags):
    unknown = [
        f"{path.relative_to(ROOT)}:{line}: --{name}"
        for path in FILES
        for line, text in _strings(ast.parse(path.read_text()))
        for name in _FLAG.findall(text)
        if not _is_flag(name, flags)
    ]
    assert not unknown, "\n".join(unknown)


def test_the_flags_of_every_program_are_known_here(flags):
    assert {"data_dir", "mask_values", "optimizer.momentum", "model.shortcut", "workdir", "tta"} <= flags
    assert _is_flag("no_frozen_statistics", flags) and not _is_flag("num_blocks", flags)
