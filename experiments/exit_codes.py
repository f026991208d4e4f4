"""How a command leaves: errors in one line, and what the shell is told."""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from experiments.engine import TrainingError
from experiments.interrupt import Interrupted
from experiments.processes import leave_processes, process_prefix
from resjax.errors import InputError


def exit_code(command: Callable[[], Any], kept: str = "nothing was saved since the last checkpoint") -> int:
    """Runs a command; returns its exit code: 0, 1 (training failed), 2 (bad input), 128 + signal (stopped).

    Args:
      command: called once.
      kept: what Ctrl-C leaves, for those commands that do not handle it themselves.
    """
    # Orbax logs a failed save with several stack traces, and asyncio those of its parts that nobody waits for any more;
    # the error below says it in one line.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        command()
    except (InputError, TrainingError) as error:
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
        if process_prefix():  # the others must not wait for this one
            traceback.print_exc()
            leave_processes(repr(error), 1)
        raise
    leave_processes()
    return 0
