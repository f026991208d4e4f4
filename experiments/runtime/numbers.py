"""The range of every number that a flag can have."""

from collections.abc import Mapping
from typing import Any

from resjax.errors import InputError

LARGEST = 1e6
"""The largest number of a flag that is not in `RANGES`. The smallest is 0; a network's fields may be negative."""
RANGES: dict[str, tuple[float, float]] = {
    "epochs": (0, 1e5),
    "seeds": (0, 1e4),
    "seed": (0, 2**31 - 1),
    "split_seed": (0, 2**31 - 1),
    "validation_images": (0, 1e9),
    "ohem_least": (0, 1e9),
    "images": (0, 1e9),
    "schedule.power": (0, 1e3),
    "label_smoothing": (0, 1),
    "average_decay": (0, 1),
}


_ELSEWHERE = ("mean", "std")  # checked with the weights that they belong to


def check_numbers(fields: Mapping[str, Any]) -> None:
    """Raises InputError for a number that is not finite, or far from any that makes sense.

    Narrower ranges, of one kind of run, are checked where they are known.

    Args:
      fields: flags with their values, flat; texts are passed over, of lists each number is checked.
    """
    for name, value in fields.items():
        if name in _ELSEWHERE:
            continue
        low, high = RANGES.get(name, (-LARGEST if name.startswith("model.") else 0, LARGEST))
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(number, (int, float)) or isinstance(number, bool):
                continue
            if not number >= low:  # which holds for NaN, too
                raise InputError(f"--{name}: expected a number >= {low:,.0f}, got {number}")
            if number > high:
                got = number if isinstance(number, float) else float(min(number, 10**300))
                raise InputError(f"--{name}: expected a number of at most {high:,.0f}, got {got:g}")
