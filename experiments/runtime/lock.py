"""One owner a folder: a lock that the system releases when its process ends, however that happens."""

import contextlib
import errno
import json
import os
import pathlib
import socket
import stat
from collections.abc import Callable

from resjax.errors import InputError, printable

NAME = "lock"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class FolderLock:
    """The lock of a folder, taken when this is made.

    Args:
      folder: the folder, which must exist.
      report: told in one line if the file system has no locks; the folder is then not protected.

    Raises:
      InputError: if another process has it; it names the host and the process. Also if the file of the lock cannot be
        made.
    """

    def __init__(self, folder: pathlib.Path, report: Callable[[str], None]):
        self._file = folder / NAME
        while True:
            try:
                # Its contents are replaced: a link could lead to another's file, and a pipe has none.
                self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
                if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                    os.close(self._descriptor)
                    raise OSError(errno.EINVAL, "no regular file", str(self._file))
            except OSError as error:
                raise InputError(f"workdir {folder} cannot be written: {error}; choose another --workdir") from None
            if not self._take(report):
                return
            # Whoever had the lock may have removed the file in the meantime: then this lock protects nothing.
            if self._is_in_place():
                break
            os.close(self._descriptor)
        owner = json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode()
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, owner, 0)

    def check(self) -> None:
        """Raises OSError if the folder was removed or moved since; what is there now belongs to somebody else."""
        if not self._is_in_place():
            raise OSError(f"{self._file.parent} was removed, or moved, while this run wrote to it")

    def release(self) -> None:
        """Gives the lock back."""
        if self._is_in_place():
            # In a folder that cannot be written the file stays; the lock ends with its handle.
            with contextlib.suppress(OSError):
                self._file.unlink()
        os.close(self._descriptor)

    def _take(self, report: Callable[[str], None]) -> bool:
        """Takes the lock; returns whether the file system has locks."""
        folder = self._file.parent
        try:
            import fcntl

            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (ImportError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _TAKEN:
                owner = _owner(os.pread(self._descriptor, 1000, 0))
                os.close(self._descriptor)
                raise InputError(
                    f"workdir {folder} is in use by {owner}. Wait until that run ends, end it, or choose another"
                    " --workdir"
                ) from None
            report(f"the file system of {folder} has no locks ({error}): start no second run in this workdir")
            return False
        return True

    def _is_in_place(self) -> bool:
        """Whether the file that is locked is the one in the folder."""
        try:
            return os.path.samestat(os.stat(self._file), os.fstat(self._descriptor))
        except OSError:
            return False


def _owner(contents: bytes) -> str:
    """The process that wrote its name into the file of a lock, in words."""
    try:
        owner = json.loads(contents)
        return f"process {int(owner['process'])} on {printable(owner['host'])}"
    except (ValueError, KeyError, TypeError):  # it has the lock, and is about to write its name
        return "another process"
