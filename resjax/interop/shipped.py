"""Weights that come with the library, by name."""

import os
import pathlib

from resjax.errors import did_you_mean

# Beside the experiments that trained them, which are installed with the library.
SHIPPED = pathlib.Path(__file__).parents[2] / "experiments" / "weights"


def list_pretrained() -> list[str]:
    """Sorted names of the networks whose weights come with the library, for `from_pretrained`."""
    return sorted(path.name for path in SHIPPED.iterdir() if path.is_dir()) if SHIPPED.is_dir() else []


def locate(name: str | os.PathLike[str]) -> pathlib.Path:
    """The directory of a shipped network, or of the path itself where there is one, or no such name."""
    path, shipped = pathlib.Path(name), SHIPPED / name
    return shipped if not path.exists() and os.fspath(name) in list_pretrained() else path


def nearest(name: str | os.PathLike[str]) -> str:
    """What else `name` may have meant, for an error."""
    names = list_pretrained()
    return (
        f", or a name of resjax.list_pretrained(): {', '.join(names)}{did_you_mean(str(name), names)}" if names else ""
    )
