"""Maps exceptions to one-line messages and exit codes."""

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from experiments.runtime.interrupt import Interrupted, PromptInterrupt
from experiments.runtime.processes import leave_processes, process_prefix
from resjax.errors import InputError, StreamError

_GRACE_SECONDS = 1.0


class TrainingError(RuntimeError):
    """Training had to stop. The message says where, why, what is saved, and how to go on."""


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code.

    After a save that failed, threads of Orbax wait for each other for minutes, and Python would wait for them.
    """
    deadline = time.monotonic() + _GRACE_SECONDS
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            while thread.is_alive() and time.monotonic() < deadline:  # its `join` may raise
                time.sleep(0.02)
            if thread.is_alive():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
    sys.exit(code)


def exit_code(command: Callable[[], Any], kept: str = "nothing was saved since the last checkpoint") -> int:
    """Runs a command; returns its exit code: 0, 1 (training failed), 2 (bad input), 128 + signal (stopped).

    Args:
      command: called once.
      kept: what Ctrl-C leaves on disk, for commands that do not handle it themselves.
    """
    # Orbax logs a failed save with several stack traces, and asyncio logs the tasks that nobody awaits any more. The
    # error line below says the same.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with PromptInterrupt(kept):
            command()
    except (InputError, TrainingError, StreamError) as error:
        print(f"error: {process_prefix()}{error}", file=sys.stderr)
        code = 2 if isinstance(error, InputError) else 1
        leave_processes(str(error), code)
        return code
    except Interrupted as stop:
        leave_processes()
        return stop.exit_code
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print(f"stopped by Ctrl-C; {kept}", file=sys.stderr)
        leave_processes("stopped by Ctrl-C", 130)
        return 130
    except Exception as error:
        if process_prefix():  # the other processes must not wait for this one
            traceback.print_exc()
            leave_processes(repr(error), 1)
        raise
    leave_processes()
    return 0
