"""How Orbax writes the digests of a checkpoint."""

import dataclasses
import pathlib
from typing import Any

import orbax.checkpoint as ocp

from resjax.train.digests import FILE, digests


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
        (path / FILE).write_bytes(digests(path.parent, self._step))


# Orbax takes no handler without an argument to restore with.
@ocp.args.register_with_handler(DigestHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class SaveDigests(ocp.args.CheckpointArgs):
    """The argument of `DigestHandler.save`: the step of the checkpoint."""

    step: int
