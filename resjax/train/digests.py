"""Digests of a checkpoint's files: written with them, and compared before they are read."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import orbax.checkpoint as ocp

ITEM = "digests"
"""The item of a checkpoint that holds the digests of its other items."""
_FILE = "sha256.json"
_LARGEST = 1 << 28  # bytes of it


class DigestHandler(ocp.AsyncCheckpointHandler):
    """Writes the SHA-256 of every file of a checkpoint, and its step, before Orbax makes it visible.

    Orbax completes items in the order of registration: registered last, this one finds the files of all the others.
    """

    async def async_save(self, directory: Any, args: "SaveDigests") -> None:
        self._step = args.step

    def save(self, directory: Any, args: "SaveDigests") -> None:
        raise NotImplementedError  # Orbax saves in the background

    def restore(self, directory: Any, args: Any = None) -> None:
        raise NotImplementedError  # find_damage compares them, before anything is restored

    def finalize(self, directory: Any) -> None:
        path = pathlib.Path(directory)
        (path / _FILE).write_bytes(_digests(path.parent, self._step))


# Orbax takes no handler without an argument to restore with.
@ocp.args.register_with_handler(DigestHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class SaveDigests(ocp.args.CheckpointArgs):
    """The argument of `DigestHandler.save`: the step of the checkpoint."""

    step: int


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
    file = checkpoint / ITEM / _FILE
    try:
        written = file.read_bytes() if file.is_file() and file.stat().st_size <= _LARGEST else b""
        there = json.loads(written)
        found = _digests(checkpoint, step, {name: entry[1] for name, entry in there["files"].items()})
        if written == found:
            return None
        here = json.loads(found)
        if there["step"] != step:
            return f"it is of step {there['step']}"
        changed = [name for name, digest in here["files"].items() if there["files"].get(name, digest) != digest]
        missing, new = sorted(there["files"].keys() - here["files"]), sorted(here["files"].keys() - there["files"])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return f"{ITEM}/{_FILE} is damaged"
    for names, said in (missing, "is missing"), (changed, "is not as it was written"), (new, "was not written with it"):
        if names:
            return f"{names[0]} {said}"
    return f"{ITEM}/{_FILE} is damaged"


def _digests(checkpoint: pathlib.Path, step: int, sizes: dict[str, int] | None = None) -> bytes:
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
