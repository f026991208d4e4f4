"""The public names of resjax with their parameters: `python -m tests.helpers.public_api > tests/public_api.txt`.

Names, parameters and defaults stand there, annotations do not: they print differently on other versions of Python and
JAX, and a type checker reads them.
"""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import linen as nn

import resjax

_LONG = 100


def public_modules() -> list[types.ModuleType]:
    """Every module of resjax that has an `__all__`, sorted by name."""
    found = [resjax]
    for each in pkgutil.walk_packages(resjax.__path__, "resjax."):
        module = importlib.import_module(each.name)
        if hasattr(module, "__all__"):
            found.append(module)
    return sorted(found, key=lambda module: module.__name__)


def lines() -> Iterator[str]:
    """A line for each name; a class is followed by its public methods and properties.

    What several packages offer is described where it is at home, the innermost of them; the others name that.
    """
    modules = public_modules()
    for module in modules:
        yield module.__name__
        for name in sorted(module.__all__):
            value = getattr(module, name)
            home = _home(value, name, modules) or module.__name__
            if home != module.__name__:
                yield f"  {name} = {home}.{name}"
            else:
                yield from (f"  {line}" for line in _described(name, value))


def is_alias(value: Any) -> bool:
    """Whether it names a type, as `Callable[..., Any]` does."""
    return typing.get_origin(value) is not None


def _home(value: Any, name: str, modules: list[types.ModuleType]) -> str | None:
    own = getattr(value, "__module__", None)
    if not isinstance(own, str):
        owners = [module.__name__ for module in modules if name in module.__all__ and getattr(module, name) is value]
        return max(owners, key=len)
    owners = [
        module.__name__
        for module in modules
        if name in module.__all__ and f"{own}.".startswith(f"{module.__name__}.") and getattr(module, name) is value
    ]
    return max(owners, key=len, default=None)


def _described(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, type):
        yield f"class {name}{_fields(value)}"
        for member, attribute in sorted(_members(value)):
            if isinstance(attribute, property | functools.cached_property):
                yield f"  {member}"
            else:
                function = attribute.__func__ if isinstance(attribute, classmethod | staticmethod) else attribute
                yield f"  {member}{_parameters(inspect.signature(function).parameters.values())}"
    elif is_alias(value):
        yield f"{name}: a type alias"  # whose class differs between versions of Python
    elif callable(value) and hasattr(value, "__name__"):
        yield f"{name}{_parameters(inspect.signature(value).parameters.values())}"
    else:
        yield f"{name}: {type(value).__name__}"


def _fields(cls: type) -> str:
    """What a class is made of: the fields of a dataclass or a named tuple, the parameters of another class."""
    if dataclasses.is_dataclass(cls):
        fields = [field for field in dataclasses.fields(cls) if field.init and not _is_of_flax(cls, field.name)]
        named = [field for field in fields if field.kw_only]
        told = [_field(field) for field in fields if not field.kw_only]
        return _listed(told + (["*"] if named else []) + [_field(field) for field in named])
    if issubclass(cls, BaseException) or "__init__" not in vars(cls) and not hasattr(cls, "_fields"):
        bases = [base.__name__ for base in cls.__bases__ if base is not object]
        return _listed(bases) if bases else ""
    return _parameters(inspect.signature(cls).parameters.values())


def _field(field: dataclasses.Field) -> str:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return field.name if default is dataclasses.MISSING else f"{field.name}={_text(default)}"


def _is_of_flax(cls: type, field: str) -> bool:
    return issubclass(cls, nn.Module) and field in ("parent", "name")


def _listed(words: list[str]) -> str:
    """In brackets; long ones with a word a line, so that a change of one is a change of one line."""
    line = f"({', '.join(words)})"
    return line if len(line) <= _LONG else "(\n" + "".join(f"        {word},\n" for word in words) + "      )"


def _members(cls: type) -> list[tuple[str, Any]]:
    """Public methods and properties that resjax wrote, also those of base classes."""
    found = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] == "resjax":
            found |= vars(base)
    fields = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    kinds = (types.FunctionType, classmethod, staticmethod, property, functools.cached_property)
    return [
        (name, value)
        for name, value in found.items()
        if (name == "__call__" or not name.startswith("_")) and name not in fields and _is_ours(value, kinds)
    ]


def _is_ours(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether it was written here: Flax and dataclasses put methods of their own on a class."""
    inner = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
    module = getattr(inspect.unwrap(inner), "__module__", None)
    return isinstance(value, kinds) and isinstance(module, str) and module.partition(".")[0] == "resjax"


def _parameters(parameters) -> str:
    told, starred = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            told, starred = [*told, "*"], True
        starred = starred or parameter.kind is parameter.VAR_POSITIONAL
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f"={_text(parameter.default)}"
        told.append(f"{prefix}{parameter.name}{default}")
    return _listed(told)


def _text(value: Any) -> str:
    """A default as source would write it, the same on every version."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_text(key)}: {_text(item)}' for key, item in value.items())}}}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = [
            f"{field.name}={_text(getattr(value, field.name))}"
            for field in dataclasses.fields(value)
            if not _is_of_flax(type(value), field.name) and not _same(getattr(value, field.name), field.default)
        ]
        return f"{type(value).__name__}({', '.join(changed)})"
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, functools.partial):
        return f"partial({_text(value.func)})"
    try:
        return np.dtype(value).name  # jnp.float32 is no class of its own on every JAX
    except TypeError:
        return getattr(value, "__qualname__", None) or f"<{type(value).__name__}>"


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and _text(value) == _text(default)


if __name__ == "__main__":
    print("\n".join(lines()))
