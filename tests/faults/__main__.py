"""Injects faults into training runs and resumes them: python -m tests.faults --faults 1000 [--seed S] [--first N]."""

import argparse
import collections
import pathlib
import random
import resource
import sys
import tempfile
import time

import tests.faults.devices  # noqa: F401 before JAX
from tests.faults.harness import Harness
from tests.faults.kinds import Photographs, TwoProcesses

_KINDS = {Harness: 20, Photographs: 1, TwoProcesses: 1}
"""The kinds of runs, and how often each has its turn."""


def main() -> int:
    """Returns 0 if nothing was lost and nothing differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=50, help="how many to inject (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices (default: 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first run, to repeat a failure")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no new run after so many seconds")
    parser.add_argument("--kind", choices=[kind.__name__ for kind in _KINDS], help="runs of this kind alone")
    options = parser.parse_args()
    chosen = [kind for kind in _KINDS if options.kind in (None, kind.__name__)]
    began, faults, failures, kinds = time.monotonic(), 0, 0, collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        harnesses = [kind(pathlib.Path(folder) / kind.__name__, options.seed) for kind in chosen]
        weights = [_KINDS[kind] for kind in chosen]
        number = options.first
        while faults < options.faults and time.monotonic() - began < options.seconds:
            (harness,) = random.Random(f"{options.seed}/{number}/kind").choices(harnesses, weights)
            done, failure = harness.run(number, options.faults - faults)
            faults, number = faults + len(done), number + 1
            kinds.update(done)
            print(f"{faults:5} faults, {time.monotonic() - began:5.0f} s", end="\r", flush=True)
            if failure is not None:
                failures += 1
                kind = f"--kind {options.kind} " if options.kind else ""
                command = (
                    f"python -m tests.faults {kind}--seed {options.seed} --first {number - 1} --faults {len(done)}"
                )
                print(f"run {number - 1} after {', '.join(done)}: {failure}\n  again: {command}", flush=True)
    for kind, count in sorted(kinds.items()):
        print(f"{count:5}  {kind}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{faults} faults in {number - options.first} runs, {failures} lost or differing;"
        f" {time.monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of a CPU"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
