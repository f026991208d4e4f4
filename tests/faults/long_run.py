"""A long run, compressed: python -m tests.faults.long_run --minutes 60. Memory, files and threads must not grow.

A day of steps in an hour, and of saves: as many epochs, and between them checkpoints, as a day has. More of them would
show what TensorStore keeps of each save, some 200 bytes of each array, see findings/tensorstore_json_is_never_freed.sh.
"""

import argparse
import os
import pathlib
import signal
import sys
import tempfile
import time

import tests.faults.devices  # noqa: F401 before JAX
from tests.faults import child, harness

MOST_GROWTH = 1.05
_IMAGES = 8000  # an epoch of 500 steps
_CHECKPOINT_MINUTES = 10 / 24


def _usage(pid: int) -> dict[str, int]:
    """Memory in bytes, open files and threads of a process."""
    status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return {"memory": 1024 * int(status["VmRSS"].split()[0]), "files": files, "threads": int(status["Threads"])}


def _epochs(workdir: pathlib.Path) -> int:
    file = workdir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def main() -> int:
    """Returns 0 if the run ended as it began."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.long_run", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to train (default: 60)")
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "run"
        child.write_images(pathlib.Path(folder) / "images.npz", _IMAGES)
        places = ("--workdir", str(workdir), "--data_dir", f"{folder}/images.npz", "--compilation_cache", f"{folder}/c")
        # The last of a repeated flag counts.
        long = ("--epochs", "100000", "--checkpoint_minutes", f"{_CHECKPOINT_MINUTES:.3f}")
        one = child.Child([*harness.FLAGS, *places, *long], pathlib.Path(folder) / "log")
        while one.is_alive() and not _epochs(workdir):
            time.sleep(0.1)
        time.sleep(5)  # the first curves are drawn, the first checkpoints written
        first, begin, most = _usage(one.pid), time.monotonic(), {}
        while one.is_alive() and time.monotonic() - begin < 60 * minutes:
            time.sleep(1)
            now = _usage(one.pid)
            most = {name: max(most.get(name, 0), value) for name, value in now.items()}
        last, epochs = _usage(one.pid), _epochs(workdir)
        one.send(signal.SIGTERM)
        code, records = one.wait(), child.lasting(workdir)
        steps = records[-1]["step"]
        kept = {name: len(list((workdir / "checkpoints" / name).iterdir())) for name in ("latest", "best")}
        growth = last["memory"] / first["memory"]
        print(f"{len(records):,} epochs, {steps:,} steps in {minutes:g} minutes; exit code {code}")
        print(f"memory {first['memory'] / 2**20:.1f} MiB, at the end {last['memory'] / 2**20:.1f} ({growth:.3f})")
        for name in "files", "threads":
            print(f"{name} {first[name]}, at the end {last[name]}, at most {most[name]}")
        whole = [record["epoch"] for record in records] == list(range(1, len(records) + 1)) and len(records) >= epochs
        print(f"metrics.jsonl has {'every epoch once' if whole else 'missing or repeated epochs'}; checkpoints {kept}")
        # While a checkpoint is written, it has files and threads of its own.
        steady = last["files"] <= first["files"] + 8 and last["threads"] <= first["threads"] + 8
        good = growth <= MOST_GROWTH and steady and whole and kept == {"latest": 2, "best": 1} and code == 143
        print("nothing grows" if good else "NOT as it should be")
        return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
