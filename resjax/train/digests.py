"""Digests of a checkpoint's files: written with them, and compared before they are read."""

import hashlib
import json
import pathlib

ITEM = "digests"
"""The item of a checkpoint that holds the digests of its other items."""
FILE = "sha256.json"
"""The file with the digests in it."""
_LARGEST = 1 << 28  # bytes of it


def has_digests(checkpoint: pathlib.Path) -> bool:
    """Whether a checkpoint was written with digests. Those of earlier versions were not."""
    return (checkpoint / ITEM).is_dir()


def find_damage(checkpoint: pathlib.Path, step: int) -> str | None:
    """Says in words how the files of a checkpoint differ from those that were written; None if they do not.

    Args:
      checkpoint: the folder of the checkpoint, which has digests.
      step: the step that it is believed to be of.

    Raises:
      OSError: if a file cannot be read.
    """
    file = checkpoint / ITEM / FILE
    try:
        written = file.read_bytes() if file.is_file() and file.stat().st_size <= _LARGEST else b""
        there = json.loads(written)
        found = digests(checkpoint, step, {name: entry[1] for name, entry in there["files"].items()})
        if written == found:
            return None
        here = json.loads(found)
        if there["step"] != step:
            return f"it is of step {there['step']}"
        changed = [name for name, digest in here["files"].items() if there["files"].get(name, digest) != digest]
        missing, new = sorted(there["files"].keys() - here["files"]), sorted(here["files"].keys() - there["files"])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return f"{ITEM}/{FILE} is damaged"
    for names, said in (missing, "is missing"), (changed, "is not as it was written"), (new, "was not written with it"):
        if names:
            return f"{names[0]} {said}"
    return f"{ITEM}/{FILE} is damaged"


def digests(checkpoint: pathlib.Path, step: int, sizes: dict[str, int] | None = None) -> bytes:
    """The contents of the file of digests: of every item but this one, [SHA-256, bytes] of each file.

    Where `sizes` are given, a file of another size is not read, which may take forever, and has no digest.
    """
    files = {}
    for path in sorted(checkpoint.glob("*/**/*")):
        name = path.relative_to(checkpoint)
        # While it is written, the folder of an item has a suffix.
        if path.is_file() and name.parts[0].partition(".")[0] != ITEM:
            size, digest = path.stat().st_size, ""
            if sizes is None or sizes.get(name.as_posix()) == size:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[name.as_posix()] = [digest, size]
    return json.dumps({"step": step, "files": files}).encode()
