"""The flags of a config: those of its network as `tyro` reads them, and the nearest ones to a wrong flag."""

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Annotated, Any, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, StructConstructorSpec, StructFieldSpec

from experiments.configs.base import RunConfig
from experiments.configs.model import ModelConfig
from experiments.runtime.arguments import documented, shown_as
from resjax.errors import InputError, did_you_mean

REGISTRY = ConstructorRegistry()
"""For `read_options`: of a config whose `model` is the default's, every field is a flag."""
REGISTRY.struct_rule(documented)  # the rule below goes first


@REGISTRY.struct_rule
def _model_rule(info: tyro.constructors.StructTypeInfo) -> StructConstructorSpec | None:
    model = info.default
    if not isinstance(model, ModelConfig):
        return None
    flags = [StructFieldSpec("name", str, model.name, "Name as `resjax.create_model` takes it.")]
    for name, field in model.network_fields().items():
        value = model.get(name)
        flags.append(
            StructFieldSpec(
                name, shown_as(name, _with_items(field.type), value, field.help), value, _sentence(field.help)
            )
        )
    return StructConstructorSpec(functools.partial(_made, type(model)), tuple(flags))


class FieldsError(Exception):
    """What `ModelConfig` says of its fields. Of its InputError, a ValueError, tyro would make a box of its own."""


def _made(kind: type[ModelConfig], **fields: Any) -> ModelConfig:
    try:
        return kind(**fields).checked()
    except InputError as error:
        raise FieldsError(str(error)) from None


# What other libraries call them.
_ALIASES = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "bs": "batch_size",
    "batch": "batch_size",
    "model": "model.name",
    "arch": "model.name",
    "optimizer": "optimizer.kind",
    "opt": "optimizer.kind",
    "schedule": "schedule.kind",
    "scheduler": "schedule.kind",
    "precision": "dtype",
    "data": "data_dir",
    "root": "data_dir",
    "output": "workdir",
    "output_dir": "workdir",
    "checkpoint": "workdir",
    "warmup": "schedule.warmup_epochs",
}


def flags_of(config: RunConfig) -> dict[str, type | None]:
    """The flags of a config, {name without dashes: bool for a switch, else None}; a network has its own fields."""
    found: dict[str, type | None] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, ModelConfig):
            found[f"{field.name}.name"] = None
            for name, own in value.network_fields().items():
                found[f"{field.name}.{name}"] = bool if own.type is bool else None
        elif dataclasses.is_dataclass(value):
            for inner in dataclasses.fields(value):
                is_switch = isinstance(getattr(value, inner.name), bool)
                found[f"{field.name}.{inner.name}"] = bool if is_switch else None
        else:
            found[field.name] = bool if isinstance(value, bool) else None
    return found


def given_flags(arguments: Sequence[str]) -> frozenset[str]:
    """The fields of a config that a command line sets, by their flat names."""
    names = (argument.partition("=")[0][2:].replace("-", "_") for argument in arguments if argument.startswith("--"))
    positive = (name.rpartition(".") for name in names)
    return frozenset(group + dot + last.removeprefix("no_") for group, dot, last in positive)


def check_flags(arguments: Sequence[str], config: RunConfig) -> None:
    """Raises InputError for a flag that the config does not have, with the nearest ones that it has."""
    known = flags_of(config)
    for argument in arguments:
        name = argument.partition("=")[0]
        if not name.startswith("--") or name == "--":
            continue
        *group, last = name[2:].replace("-", "_").split(".")
        positive = ".".join([*group, last.removeprefix("no_")])
        field = ".".join([*group, last])
        if field not in known and known.get(positive) is not bool:
            raise InputError(f"{name}: {_without(field, known, config)}")


def _without(field: str, known: Collection[str], config: RunConfig) -> str:
    """Says that a flag does not exist, and what does."""
    group, dot, last = field.rpartition(".")
    siblings = [name for name in known if name.startswith(group + dot)] if dot else []
    if alias := _ALIASES.get(field):
        near = f"; did you mean --{alias}?" if alias in known else ""
    elif same := [name for name in known if name.rpartition(".")[2] == last]:
        near = f"; did you mean {' or '.join(f'--{name}' for name in same)}?"
    else:
        near = did_you_mean(f"--{field}", [f"--{name}" for name in siblings or known])
    if group == "model" and siblings:
        taken = ", ".join(sorted(name.removeprefix("model.") for name in siblings))
        return f"{config.model.name} takes no {last!r}{near} (it takes {taken})"
    where = group if siblings else "all"
    return f"no such flag{near} (--help {where} lists them)"


def _with_items(kind: Any) -> Any:
    """The type, with each tuple in a tuple as one word of a command line: 3,4."""
    if get_origin(kind) is tuple and any(get_origin(item) is tuple for item in get_args(kind)):
        word = PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT,INT..",
            instance_from_str=lambda words: tuple(map(int, words[0].split(","))),
            is_instance=lambda value: isinstance(value, tuple) and all(isinstance(item, int) for item in value),
            str_from_instance=lambda value: [",".join(map(str, value))],
        )
        return tuple[Annotated[tuple[int, ...], word], ...]
    return kind


def _sentence(text: str) -> str:
    """The text with a capital letter, unless it begins with the paper's symbol: "k, channels that ..."."""
    return text if text[1:2] == "," else text[:1].upper() + text[1:]
