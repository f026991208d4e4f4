"""The network of a run: a name, and the fields in which it differs from the network of that name.

Types, defaults and descriptions of the fields are those of the network's own class.
"""

import dataclasses
import functools
import inspect
import operator
import re
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from experiments.configs.earlier import fields_of_today
from resjax.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from flax import linen as nn

# What other flags of a run decide.
_ELSEWHERE = {"num_classes", "dtype", "scan", "remat", "features_only"}
_PLAIN = (bool, int, float, str, type(None))


@dataclasses.dataclass(frozen=True)
class NetworkField:
    """A field of a network that a flag can change.

    Attributes:
      type: of its values, of numbers, strings, Literals, tuples of them and None.
      default: the value in the network of the name.
      help: the description in the docstring of the network's class.
    """

    type: Any
    default: Any
    help: str


class ModelConfig:
    """The network: its name, and the fields that differ from those of that name.

    The network's class, and with it JAX, is imported when its fields are first asked for: hundreds of recipes are made
    before one of them is chosen.

    Args:
      name: as `resjax.create_model` takes it.
      **fields: of the network, see `network_fields`; of a field that holds an object, such as `stochastic_depth`, the
        object, or its fields, "stochastic_depth.decay".

    Raises:
      InputError: for an unknown name, or a field that the network does not have, or fields that exclude each other, by
        `checked` and whatever else reads the fields.
    """

    def __init__(self, name: str, **fields: Any):
        self.name = name
        self._given = fields

    def checked(self) -> Self:
        """The same config, whose name and fields are right."""
        _ = self.fields
        return self

    # A value that the network has anyway is dropped, as is None where the network takes no None, so that equal networks
    # are equal configs.
    @functools.cached_property
    def fields(self) -> dict[str, Any]:
        """The fields that differ from those of the network of the name, flat."""
        name, fields, known, objects = self.name, dict(self._given), self.network_fields(), self._objects
        for field, value in [(field, fields.pop(field)) for field in objects if field in fields]:
            fields = {key: kept for key, kept in fields.items() if not key.startswith(f"{field}.")}
            if value is not None:
                fields |= {f"{field}.{key}": each for key, each in vars(value).items()}
        for field in fields.keys() - known.keys():
            if fields[field] is not None:
                raise InputError(
                    f"{name} takes no {field!r}{did_you_mean(field, known)} (it takes {', '.join(sorted(known))})"
                )
        given = {field: as_tuples(fields[field]) for field in known if field in fields}
        for field, held in objects.items():
            made = held.made_of(field, given)
            own = {} if made is None else held.differing(made)
            given = {key: value for key, value in given.items() if not key.startswith(f"{field}.")}
            given |= {f"{field}.{key}": value for key, value in own.items()}
        return {
            field: given[field]
            for field in known
            if field in given
            and given[field] != known[field].default
            and not (given[field] is None and not _takes_none(known[field].type))
        }

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and (self.name, self.fields) == (other.name, other.fields)

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted(self.fields))))

    def __repr__(self) -> str:
        given = "".join(f", {field}={value!r}" for field, value in self.fields.items())
        return f"{type(self).__name__}({self.name!r}{given})"

    def replace(self, **changes: Any) -> Self:
        """A config with another `name` or other fields."""
        plain = all(isinstance(value, (*_PLAIN, tuple)) for value in self._given.values())
        own = self._given if plain and "name" not in changes else self.fields
        return type(self)(**({"name": self.name} | own | changes))

    def identity(self) -> dict[str, Any]:
        """The name and the fields that differ."""
        return {"name": self.name, **self.fields}

    def get(self, field: str) -> Any:
        """The value of a field of the network, changed or not; None where it has no such field."""
        known = self.network_fields()
        return self.fields.get(field, known[field].default if field in known else None)

    def network_fields(self) -> dict[str, NetworkField]:
        """The fields of the network of this name that flags can change; last those of the objects that it may hold."""
        return self._network_fields

    @functools.cached_property
    def _network_fields(self) -> dict[str, NetworkField]:
        found: dict[str, NetworkField] = {}
        for cls, values in self._networks:
            types_of, help_of = _types(cls), described_fields(cls)
            for name, default in values.items():
                kind = plain_type(types_of[name])
                if name not in _ELSEWHERE and kind is not None and not callable(default):
                    found.setdefault(name, NetworkField(kind, default, help_of.get(name, "")))
        return found | {
            f"{name}.{key}": field for name, held in self._objects.items() for key, field in held.fields().items()
        }

    @functools.cached_property
    def _objects(self) -> dict[str, "_Held"]:
        """The fields of the network whose values are objects of dataclasses."""
        found = {
            name: _Held(_dataclasses(_types(cls)[name]), default)
            for cls, values in self._networks
            for name, default in values.items()
        }
        return {name: held for name, held in found.items() if held.kinds}

    @functools.cached_property
    def _networks(self) -> "list[tuple[type[nn.Module], dict[str, Any]]]":
        return self.networks()

    def networks(self) -> "list[tuple[type[nn.Module], dict[str, Any]]]":
        """The classes whose fields are flags, and the values that the name stands for."""
        if not self.name:  # a default of configs, whose network is not named yet
            return []
        from resjax.models.registry import create_model, field_names

        model = create_model(self.name)
        return [(type(model), {field: getattr(model, field) for field in field_names(type(model))})]

    def overrides(self) -> dict[str, Any]:
        """The fields that differ, as arguments of `resjax.create_model`."""
        made = {name: held.made_of(name, self.fields) for name, held in self._objects.items()}
        plain = {field: value for field, value in self.fields.items() if "." not in field}
        return plain | {name: value for name, value in made.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class _Held:
    """A field of a network that holds an object.

    Attributes:
      kinds: the dataclasses of which it may be one.
      default: the object in the network of the name, or None.
    """

    kinds: tuple[type, ...]
    default: Any

    def fields(self) -> dict[str, NetworkField]:
        """The fields of all kinds; None where the network has another object, or none."""
        found = {}
        for cls in self.kinds:
            for field in dataclasses.fields(cls):
                usual = "" if field.default is dataclasses.MISSING else f" ({field.default} if only others are given)"
                text = described_fields(cls).get(field.name, "") + usual
                default = getattr(self.default, field.name, None)
                found[field.name] = NetworkField(plain_type(_types(cls)[field.name]) | None, default, text)
        return found

    def made_of(self, name: str, fields: Mapping[str, Any]) -> Any:
        """The object of those of the flat `fields` that are of the field `name`; None where none of them is set.

        Raises:
          InputError: where no kind has all of them, or it lacks one.
        """
        given = {key.removeprefix(f"{name}."): value for key, value in fields.items() if key.startswith(f"{name}.")}
        given = {key: value for key, value in given.items() if value is not None}
        if not given:
            return None
        fitting = [kind for kind in self.kinds if given.keys() <= _types(kind).keys()]
        if not fitting:
            raise InputError(f"{' and '.join(f'--model.{name}.{key}' for key in given)}: choose one")
        if type(self.default) in fitting:
            return dataclasses.replace(self.default, **given)
        return fitting[0](**given)

    def differing(self, made: Any) -> dict[str, Any]:
        """The fields of an object that tell it from others: its first one, and those with another value than usual."""
        usual = vars(self.default) if type(made) is type(self.default) else {}
        usual = usual or {field.name: field.default for field in dataclasses.fields(made)[1:]}
        return {key: value for key, value in vars(made).items() if key not in usual or value != usual[key]}


@functools.cache
def _dataclasses(kind: Any) -> tuple[type, ...]:
    """The dataclasses in a type or a union; modules, which have variables of their own, are none."""
    from flax import linen as nn

    members = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    return tuple(each for each in members if dataclasses.is_dataclass(each) and not issubclass(each, nn.Module))


@functools.cache
def described_fields(cls: type) -> dict[str, str]:
    """The descriptions of a class's fields, from "Attributes:" in its docstring and in those of its bases."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        section = re.split(r"^Attributes\b.*:$", inspect.cleandoc(each.__dict__.get("__doc__") or ""), flags=re.M)
        # Entries are indented by two, their further lines by four.
        for entry in re.split(r"^  (?=\S)", section[1] if len(section) > 1 else "", flags=re.M):
            names, colon, text = entry.split("\n\n")[0].partition(": ")
            if colon:
                found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


@functools.cache
def _types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@functools.cache
def plain_type(kind: Any) -> Any:
    """The part of a type that a flag can read: numbers, strings, Literals, None, and tuples; None where there is none.

    Of a union it is the members that a flag can read.
    """
    if kind in _PLAIN or typing.get_origin(kind) is Literal:
        return kind
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [plain for plain in map(plain_type, typing.get_args(kind)) if plain is not None]
        useful = [member for member in members if member is not type(None)]
        return functools.reduce(operator.or_, members) if useful else None
    if typing.get_origin(kind) is tuple:
        return kind if all(item is ... or plain_type(item) is not None for item in typing.get_args(kind)) else None
    return None


def as_tuples(value: Any) -> Any:
    """Lists, as JSON has them, as tuples."""
    return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value


def canonical(fields: Mapping[str, Any], kind: type[ModelConfig]) -> dict[str, Any]:
    """The flat fields of a saved config with those of its network as `kind` writes them today; others as they are.

    Older files hold every field that any network had, as None or with the network's own value, and earlier names.
    """
    fields = fields_of_today(fields)
    model = {key.removeprefix("model."): value for key, value in fields.items() if key.startswith("model.")}
    try:
        today = kind(**model).identity()
    except (InputError, TypeError):  # of another version: compared as it is
        return dict(fields)
    others = {key: value for key, value in fields.items() if not key.startswith("model.")}
    return {f"model.{key}": as_lists(value) for key, value in today.items()} | others


def as_lists(value: Any) -> Any:
    """Tuples as lists, as JSON keeps them."""
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def differing(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """The keys of the flat configs whose values differ; a field of a network that is left out has its own value."""
    only_there = [key for key in there if key.startswith("model.") and key not in here]
    keys = sorted([*here, *only_there], key=lambda key: not key.startswith("model."))
    return [key for key in keys if key not in here or key not in there or here[key] != there[key]]


def _takes_none(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)
