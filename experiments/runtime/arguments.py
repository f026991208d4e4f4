"""The order of a command line: what a command is about comes first, by position. Earlier forms keep working."""

import sys
from collections.abc import Collection, Mapping, Sequence


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
