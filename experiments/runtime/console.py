"""Where commands print."""

import sys

from rich.console import Console


def plain_console(width: int | None = None, soft_wrap: bool = True) -> Console:
    """A console that prints paths and names as they are: "[/a]" and ":b:" in them are no markup of rich.

    Args:
      width: characters in a line; None takes the terminal's.
      soft_wrap: leave long lines whole.
    """
    if hasattr(sys.stdout, "reconfigure"):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(width=width, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)
