"""Errors for what a caller got wrong: each names the input, what was expected and the way out."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A value, name, shape or file from outside that cannot be used; the message is meant for a person.

    Command lines print the message alone, without a stack trace, and exit with 2.
    """


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Returns `"; did you mean 'a', 'b'?"` for the valid names nearest to `name`, else `""`."""
    near = difflib.get_close_matches(name, list(valid), n=3, cutoff=0.5)
    return "; did you mean " + ", ".join(map(repr, near)) + "?" if near else ""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """An `InputError` for an unknown `name` of a `kind`, with the nearest names and all valid ones."""
    valid = sorted(valid)
    return InputError(f"unknown {kind} {name!r}{did_you_mean(name, valid)} (known: {', '.join(valid)})")
