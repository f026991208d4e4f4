"""The commands, for example `python -m experiments.cifar --config wrn_28_10`."""

import os
import signal
import sys

from experiments.runtime.interrupt import end_quietly

# Python sets this name while it looks for the module of `python -m`. Until the command itself runs, there is nothing
# that Ctrl-C could have to save; see `experiments.runtime.exit_codes`.
if sys.argv[:1] == ["-m"]:
    signal.signal(signal.SIGINT, end_quietly)

# For each compiled program that XLA takes from a CPU's cache, it logs several lines of error: it was compiled
# with an option ("prefer-no-gather") that is missing among the machine's features. The program is right all the same.
# The level is read when jaxlib is loaded; JAX's own is 1. Failures raise exceptions and do not depend on this log.
if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
