"""Errors for wrong input: each names the input, what was expected and the way out."""

import difflib
from collections.abc import Iterable

_LONGEST = 3000


class InputError(ValueError):
    """A value, name, shape or file that cannot be used. The message is written for the user.

    Commands print only the message, without a stack trace, and exit with 2. It is one line of a few thousand
    characters at most, whatever names of files and values are in it.
    """

    def __str__(self) -> str:
        line = _escaped(super().__str__())
        # Of a longer one the beginning, which says where, and the end, which says the way out.
        return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} [..] {line[-_LONGEST // 3 :]}"


class StreamError(RuntimeError):
    """The workers of a stream of images cannot go on; the message says why."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Returns `"; did you mean 'a', 'b'?"` for the valid names nearest to `name`, else `""`.

    Example:
      >>> did_you_mean("resnet_2O", ["resnet_20", "wrn_28_10"])
      "; did you mean 'resnet_20'?"
      >>> did_you_mean("mlp", ["resnet_20", "wrn_28_10"])
      ''
    """
    near = difflib.get_close_matches(name, list(valid), n=3, cutoff=0.5)
    return "; did you mean " + ", ".join(map(repr, near)) + "?" if near else ""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """An `InputError` for an unknown `name` of a `kind`, with the nearest names and all valid ones."""
    valid = sorted(valid)
    return InputError(f"unknown {kind} {name!r}{did_you_mean(name, valid)} (known: {', '.join(valid)})")


def printable(text: object, limit: int = 120) -> str:
    """Foreign `text` for an error message: one line of at most `limit` characters, without control characters."""
    line = _escaped(str(text))
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _escaped(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
