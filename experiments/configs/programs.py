"""The training commands, their named configs, and the command of a saved run."""

import builtins
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Self

from experiments.configs import cifar, imagenet, segmentation
from experiments.configs.base import Config, RunConfig, flatten, is_number
from experiments.configs.imagenet.fields import ImagenetConfig
from experiments.configs.model import canonical
from experiments.configs.named import changes_to_repeat, command
from experiments.configs.segmentation import SegmentationConfig
from resjax.errors import InputError, printable

CIFAR, IMAGENET, SEGMENTATION = (kind.PROGRAM for kind in (Config, ImagenetConfig, SegmentationConfig))

PROGRAMS = {CIFAR: cifar.CONFIGS, IMAGENET: imagenet.CONFIGS, SEGMENTATION: segmentation.CONFIGS}

TAKERS = {
    CIFAR: ("python -m experiments.evaluate {}", "python -m experiments.analyse all {}"),
    IMAGENET: ("python -m experiments.evaluate {}",),
    SEGMENTATION: ("python -m experiments.evaluate {}", "python -m experiments.segmentation predict {}"),
}
"""The commands that take a trained run of a program; {} stands for its folder."""


def _default(program: str) -> RunConfig:
    """A config of a program with every field at its default, and an unnamed network."""
    config = next(iter(PROGRAMS[program].values())).config
    return type(config)(type(config.model)(""))


_DEFAULTS = {program: _default(program) for program in PROGRAMS}


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """The contents of a run's config.json.

    Attributes:
      program: the command that trains such runs, a key of `PROGRAMS`.
      name: name of the named config.
      fields: the fields that decide the result, flat, as written.
      options: the run-only fields, flat.
      file: the file that was read.
      data: the training data, see `experiments.training.workdir.data_differences`; None if not recorded.
    """

    program: str
    name: str
    fields: Mapping[str, Any]
    options: Mapping[str, Any]
    file: str
    data: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any], file: str) -> Self:
        """Reads what `RunConfig.resolved` wrote. In files of earlier versions, the program follows from the fields.

        Raises:
          ValueError: if it is not the config of a run.
        """
        fields, options = content.get("config"), content.get("run_options", {})
        if not isinstance(fields, dict) or not isinstance(options, dict):
            raise ValueError("no config of a run in it")
        fields = flatten(fields)
        data = content.get("data")
        if data is not None and not isinstance(data, dict):
            raise ValueError("its data are no JSON object")
        program = content["program"] if "program" in content else program_of_fields(fields)
        if program not in list(PROGRAMS):  # it may have any type of JSON
            raise ValueError(f"of the command {program!r}, which this version does not have")
        check_kinds(program, fields | flatten(options))
        return cls(program, str(content.get("name", "")), fields, flatten(options), file, data)

    def command(self, **options: Any) -> str:
        """The command that trains this run on one machine.

        Args:
          **options: run-only fields that are to have another value.

        Raises:
          InputError: if this version has no config of the run's name, or cannot read its fields.
        """
        named = PROGRAMS[self.program].get(self.name)
        if named is None:
            raise InputError(f"{self.file}: of the config {self.name!r}, which this version does not have")
        default = named.config.run_options()
        of_processes = {name: default[name] for name in ("coordinator", "num_processes", "process_id")}
        config = dataclasses.replace(self.config, **of_processes, **options)
        changed = {name: value for name, value in config.run_options().items() if value != default[name]}
        return command(self.program, self.name, changes_to_repeat(named, config.identity(), config) | changed)

    @property
    def config(self) -> RunConfig:
        """The config. Missing fields are at their default, as earlier versions had them.

        Raises:
          InputError: for a field or a value that this version does not have.
        """
        default = _DEFAULTS[self.program]
        known = default.run_options()
        options = {key: value for key, value in self.options.items() if key in known}
        try:
            return type(default).from_identity({**self.fields, **options})
        except InputError as error:
            raise InputError(f"{self.file}: {error}; another version wrote it, and can read it") from None


def check_kinds(program: str, fields: Mapping[str, Any]) -> None:
    """Raises ValueError for a field of a run, as JSON has it, that is not of its kind.

    Fields of a network are checked where it is made, and those of earlier versions where they are translated.
    """
    kinds = _kinds(type(_DEFAULTS[program]))
    for name, value in fields.items():
        if name in kinds and not _is_of(value, kinds[name]):
            kind = kinds[name]
            expected = kind.__name__ if kind in (bool, int, float, str) else str(kind).replace("typing.", "")
            raise ValueError(f"{name}: expected {expected}, got {printable(value)}")


def _kinds(config: type, prefix: str = "") -> dict[str, Any]:
    """The types of a config's fields, flat, without those of its network."""
    hints, found = typing.get_type_hints(config), dict[str, Any]()
    for field in dataclasses.fields(config):
        kind = hints[field.name]
        if not dataclasses.is_dataclass(kind):
            found[f"{prefix}{field.name}"] = kind
        elif field.name != "model":
            found |= _kinds(kind, f"{prefix}{field.name}.")  # type: ignore[arg-type]
    return found


def _is_of(value: Any, kind: Any) -> bool:
    arguments = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Union | types.UnionType:
            return any(_is_of(value, each) for each in arguments)
        case typing.Literal:
            return isinstance(value, tuple(map(type, arguments)))
        case builtins.tuple:
            return isinstance(value, list | tuple) and all(_is_of(each, arguments[0]) for each in value)
    if kind in (int, float):
        return is_number(value) and (kind is float or isinstance(value, int))
    return isinstance(value, kind)


def whole_fields(program: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a run of a program; missing ones are at their default."""
    default = _DEFAULTS[program]
    return {**default.identity(), **canonical(fields, type(default.model))}


def program_of_fields(fields: Mapping[str, Any]) -> str:
    """The program that has more of these fields than any other; raises ValueError if several have as many."""
    counts = {program: len(fields.keys() & default.identity().keys()) for program, default in _DEFAULTS.items()}
    most = max(counts.values())
    found = [program for program, count in counts.items() if count == most]
    if len(found) > 1:
        raise ValueError("its fields do not say which command trained it")
    return found[0]
