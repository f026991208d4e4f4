"""Ctrl-C and SIGTERM: a run is asked to stop between dispatches, every other command ends at once."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

_GRACE_SECONDS = 3.0
"""How long a first Ctrl-C may take to end a command that keeps no state."""


class Interrupted(Exception):
    """The run was asked to stop. `exit_code` is the shell's convention: 128 + the signal's number."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class _Watch:
    """Calls `came(signum)` in a thread as soon as a signal comes, even while the main thread waits for a device.

    Python runs its own handlers only between the main thread's instructions. A context manager for the main thread.
    """

    def __init__(self, came: Callable[[int], None]):
        self._came = came

    def __enter__(self) -> "_Watch":
        self._reads, writes = os.pipe()
        os.set_blocking(writes, False)
        self._before, self._writes = signal.set_wakeup_fd(writes, warn_on_full_buffer=False), writes
        threading.Thread(target=self._wait, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._writes)  # which ends the thread

    def _wait(self) -> None:
        while signums := os.read(self._reads, 1):
            self._came(signums[0])
        os.close(self._reads)


class InterruptRequest:
    """Context manager that keeps the first SIGINT or SIGTERM in `signum` and acknowledges it on standard error.

    A second Ctrl-C ends the process at once, like a kill: what is on disk stays as good as it is.
    """

    def __init__(self):
        self.signum: int | None = None
        self._seen = 0
        self._previous = {}
        self._watch = _Watch(self._acknowledge)

    def __enter__(self) -> "InterruptRequest":
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._request)
        self._watch.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._watch.__exit__(*error)
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _request(self, signum, frame) -> None:
        if self.signum is None:
            self.signum = signum

    def _acknowledge(self, signum: int) -> None:
        if signum not in (signal.SIGINT, signal.SIGTERM):
            return
        self._seen += 1
        if self._seen == 1:
            _say("stopping after this step; Ctrl-C again: stop now")
        elif signum == signal.SIGINT:
            leave_now("the newest checkpoint on disk stays good")

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.signum is not None:
            raise Interrupted(self.signum)


class PromptInterrupt:
    """Context manager of a command: Ctrl-C raises KeyboardInterrupt, and ends the process if that does not.

    Libraries may swallow the exception, and compiled code may delay it.

    Args:
      kept: what Ctrl-C leaves on disk, in words.
    """

    def __init__(self, kept: str):
        self._kept = kept
        self._done = threading.Event()
        self._watch = _Watch(self._end)

    def __enter__(self) -> "PromptInterrupt":
        self._in_main = threading.current_thread() is threading.main_thread()
        if self._in_main:
            if signal.getsignal(signal.SIGINT) is end_quietly:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                self._then = end_quietly
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
            self._watch.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._done.set()
        if self._in_main:
            self._watch.__exit__(*error)
            sys.unraisablehook = self._hook
            if hasattr(self, "_then"):  # the interpreter only has to shut down
                signal.signal(signal.SIGINT, self._then)

    def _unraisable(self, raised: Any) -> None:
        """Says nothing of a KeyboardInterrupt in a callback of the garbage collector, such as JAX's, which drops it."""
        if not issubclass(raised.exc_type, KeyboardInterrupt):
            self._hook(raised)

    def _end(self, signum: int) -> None:
        if signum == signal.SIGINT and not self._done.wait(_GRACE_SECONDS):
            leave_now(self._kept)


def end_quietly(signum, frame) -> None:
    """Handler of Ctrl-C while a command is being imported or shut down: it ends without a stack trace."""
    leave_now("nothing was running")


def leave_now(kept: str) -> None:
    """Ends the process as Ctrl-C does, without waiting for anything; `kept` says what is on disk."""
    _say(f"stopped by Ctrl-C; {kept}")
    os._exit(128 + signal.SIGINT)


def _say(line: str) -> None:
    """Writes to standard error past Python's buffers, whose locks the main thread may hold."""
    try:
        os.write(2, f"{line}\n".encode())
    except OSError:  # nobody listens any more
        pass
