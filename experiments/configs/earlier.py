"""Fields by the names that earlier versions gave them, in files and in flags."""

from collections.abc import Mapping, Sequence
from typing import Any

_FIELDS: dict[str, tuple[str, ...]] = {
    "validation_share": ("validation_fraction",),
    "least_area": ("min_area",),
    "ohem_least": ("ohem_min_pixels",),
    "model.survival_probability": ("model.stochastic_depth.survival_probability",),
    "model.active_blocks": ("model.stochastic_depth.active_blocks",),
    "model.shortcut_scaling": ("model.shortcut_variant.shortcut", "model.shortcut_variant.branch"),
    "model.gating": ("model.shortcut_variant.exclusive",),
    "model.gate_bias": ("model.shortcut_variant.bias_init",),
    "model.shortcut_dropout": ("model.shortcut_variant.rate",),
}
_SWITCHES = {"tensorboard": ["--tracker", "tensorboard"]}
_VALUES = {"exclusive": True, "shortcut_only": False}  # of model.gating


def fields_of_today(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Flat fields of a config by their names of today; a field of earlier versions that was not set is left out."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        if key not in _FIELDS:
            found[key] = value
        elif value is not None:
            values = value if isinstance(value, (list, tuple)) else [value]
            found |= {name: _value(each) for name, each in zip(_FIELDS[key], values, strict=False)}
    return found


def flags_of_today(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line with the flags of today, and a line for each flag of an earlier version."""
    rest, found, notes = list(arguments), [], []
    while rest:
        if rest[0].startswith("--") and (today := _SWITCHES.get(rest[0][2:])):
            notes.append(f"{rest.pop(0)} is now {' '.join(today)}")
            found += today
            continue
        flag, equals, value = rest.pop(0).partition("=")
        names = _FIELDS.get(flag.removeprefix("--").replace("-", "_")) if flag.startswith("--") else None
        if names is None:
            found.append(flag + equals + value)
            continue
        notes.append(f"{flag} is now {' and '.join(f'--{name}' for name in names)}")
        values = [value] if equals else []
        while len(values) < len(names) and rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        for name, each in zip(names, values, strict=False):
            found += [f"--{name}", str(_value(each))]
        found += [f"--{name}" for name in names[len(values) :]]  # a value is missing, as the parser will say
    return found, notes


def _value(value: Any) -> Any:
    return _VALUES.get(value, value) if isinstance(value, str) else value
