"""Runs that are disturbed until they are done, and then compared with one that was not."""

import gc
import json
import pathlib
import random
import shutil
import signal
import time
from collections.abc import Callable

# Imported once, here: the processes of the runs are forked from this one. JAX starts in each of them.
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import numpy as np
import orbax.checkpoint  # noqa: F401

import experiments.programs.cifar  # noqa: F401
from experiments.training import seed_run
from experiments.training.engine import Engine
from tests.faults import child
from tests.faults.child import Child

NETWORK = ("--config", "quickstart", "--model.name", "resnet_8", "--model.stage_sizes", "1", "--model.widths", "4")
FLAGS = (
    *(*NETWORK, "--dataset", "arrays", "--epochs", "4"),
    *("--batch_size", "16", "--eval_batch_size", "16", "--checkpoint_minutes", "0.001"),
)
_MOST_FAULTS = 8
"""Of one run; the next start is left alone."""
Act = Callable[[], None]


class Harness:
    """Disturbs runs in folders below `folder`; all random choices follow from `seed`."""

    COMMAND, FLAGS = "experiments.cifar", FLAGS
    _duration = 0.0  # of an undisturbed run; 0 before there was one

    def __init__(self, folder: pathlib.Path, seed: int):
        self._folder, self._seed = folder, seed
        folder.mkdir(exist_ok=True)
        self._data = self._write_data(folder / "data")
        self._faults = self._possible()
        # A collection of garbage in a forked process would visit, and so copy, all that was imported before.
        gc.collect()
        gc.freeze()

    def _write_data(self, path: pathlib.Path) -> pathlib.Path:
        child.write_images(path.with_suffix(".npz"))
        return path.with_suffix(".npz")

    def _possible(self) -> dict[str, tuple[Act, int]]:
        """Each fault by its name, and how often it has its turn."""
        return {
            "kill -9": (lambda: self._signal(signal.SIGKILL), 6),
            "SIGTERM": (lambda: self._signal(signal.SIGTERM), 4),
            "SIGINT": (lambda: self._signal(signal.SIGINT), 3),
            "SIGINT twice": (self._two_interrupts, 2),
            "kill -9 in a save": (lambda: self._at_a_place("save"), 3),
            "kill -9 in an evaluation": (lambda: self._at_a_place("evaluate"), 2),
            "kill -9 while drawing": (lambda: self._at_a_place("draw"), 2),
            "full disk": (self._full_disk, 3),
            "damaged newest checkpoint": (self._damaged_checkpoint, 5),
            "newest checkpoint under a larger number": (self._larger_number, 1),
            "removed workdir": (self._removed_workdir, 1),
            "read-only workdir": (self._read_only_workdir, 1),
            "second run": (self._second_run, 2),
            "NaN by a huge rate": (self._huge_rate, 1),
        }

    def _train_undisturbed(self) -> None:
        """Trains the run that the others are compared with; also fills the cache of compiled programs."""
        self._start_run("undisturbed")
        for _ in range(2):  # the second one is timed
            shutil.rmtree(self._workdir, ignore_errors=True)
            began = time.monotonic()
            self._finish("the undisturbed run failed")
        self._duration = time.monotonic() - began
        self._expected = child.lasting(self._workdir), self._final_state()

    def run(self, number: int, most: int) -> tuple[list[str], str | None]:
        """Disturbs one run until it is done, at most `most` times.

        Returns:
          The faults, and what went wrong, or None.
        """
        if not self._duration:
            self._train_undisturbed()
        self._start_run(f"run{number}")
        self._draw = random.Random(f"{self._seed}/{number}")
        names, weights = list(self._faults), [weight for _, weight in self._faults.values()]
        done: list[str] = []
        try:
            while len(done) < min(most, _MOST_FAULTS) and not (self._workdir / "summary.json").exists():
                (name,) = self._draw.choices(names, weights)
                if not self._can(name):
                    continue
                done.append(name)
                self._faults[name][0]()
            self._finish("the last start failed")
            self._check_whole()
        except AssertionError as error:
            return done, str(error)
        shutil.rmtree(self._workdir, ignore_errors=True)
        return done, None

    def _start_run(self, name: str) -> None:
        self._workdir = self._folder / name
        self._log = self._folder / f"{name}.log"
        self._state = self._folder / f"{name}.json"

    def _finish(self, what: str) -> None:
        """Trains to the end."""
        one = self._start()
        self._check(one.wait() == 0, what, one)

    def _start(self, prepare: Act = lambda: None, flags=(), name: str = "") -> Child:
        own = ("--workdir", str(self._workdir), "--data_dir", str(self._data))
        cache = ("--compilation_cache", str(self._folder / "compiled"))
        log = self._log.with_suffix(f"{name}.log")
        state = self._state.with_suffix(f"{name}.json")
        state.unlink(missing_ok=True)

        def prepare_all():
            child.keep_state(Engine, state)
            prepare()

        return Child([*self.FLAGS, *own, *cache, *flags], log, prepare_all, self.COMMAND)

    @staticmethod
    def _check(holds: bool, what: str, *children: Child) -> None:
        if not holds:
            raise AssertionError("\n".join([what, *(one.text for one in children)]))

    def _ended(self, one: Child, *codes: int) -> int:
        """Waits; checks the exit code, and that there is no stack trace and at most one line of error."""
        code = one.wait()
        self._check(code in codes, f"exit code {code}, expected one of {codes}", one)
        self._check("Traceback" not in one.text and "Exception ignored" not in one.text, "a stack trace", one)
        self._check(one.text.count("error: ") <= 1, "more than one line of error", one)
        if code in (1, 2):
            self._check("error: " in one.text, "no line of error", one)
        return code

    def _steps(self) -> list[int]:
        latest = self._workdir / "checkpoints" / "latest"
        return sorted(int(path.name) for path in latest.glob("*") if path.name.isdigit()) if latest.exists() else []

    def _can(self, name: str) -> bool:
        """Whether a fault makes sense now."""
        needed = {"damaged newest checkpoint": 2, "newest checkpoint under a larger number": 1, "read-only workdir": 1}
        return len(self._steps()) >= needed.get(name, 0)

    def _final_state(self) -> dict[str, str]:
        """A digest of each array that the last start ended with, see `child.keep_state`."""
        return json.loads(self._state.read_text())

    def _check_whole(self) -> None:
        records, state = self._expected
        self._check(child.lasting(self._workdir) == records, "metrics.jsonl differs from that of the undisturbed run")
        self._check(self._final_state() == state, "the final state differs from that of the undisturbed run")
        kept = {path.name for path in self._workdir.iterdir()}
        self._check({"summary.json", "config.json", "curves.png"} <= kept, f"files are missing: {sorted(kept)}")
        self._check("lock" not in kept, "the lock was left behind")
        left = [str(path) for path in self._workdir.rglob("*tmp*")]
        self._check(not left, f"temporary files are left: {left}")

    # Faults.

    def _signal(self, signum: int) -> None:
        one = self._start()
        time.sleep(self._draw.uniform(0, self._duration))
        one.send(signum)
        self._ended(one, 0, -signum if signum == signal.SIGKILL else 128 + signum, -signal.SIGTERM)

    def _two_interrupts(self) -> None:
        one = self._start()
        time.sleep(self._draw.uniform(0, self._duration))
        one.send(signal.SIGINT)
        time.sleep(self._draw.uniform(0, 0.2))
        one.send(signal.SIGINT)
        self._ended(one, 0, 130)

    def _at_a_place(self, place: str) -> None:
        from experiments.training import curves
        from resjax.train.digest_handler import DigestHandler

        owner, name = {
            "save": (DigestHandler, "finalize"),
            "evaluate": (Engine, "_record_epoch"),
            "draw": (curves, "draw_curves"),
        }[place]
        number, kill = self._draw.randint(1, 3), child.signal_itself(signal.SIGKILL)
        self._ended(self._start(lambda: child.at_call(owner, name, number, kill)), 0, -signal.SIGKILL)

    def _full_disk(self) -> None:
        """From a random save on, no file can grow beyond a random size."""
        number, size = self._draw.randint(1, 4), self._draw.choice([0, 100, 1000, 10_000, 50_000, 100_000])

        def prepare():
            child.at_call(seed_run.SeedRun, "save", number, lambda: child.only_files_up_to(size))

        one = self._start(prepare)
        # The log, too, can no longer grow: what is said last may be missing.
        code = one.wait()
        self._check(code in (0, 1, 2), f"exit code {code} on a full disk", one)
        self._check("Traceback" not in one.text, "a stack trace", one)

    def _damaged_checkpoint(self) -> None:
        newest = self._steps()[-1]
        folder = self._workdir / "checkpoints" / "latest" / str(newest)
        items = [path for name in ("train", "run", "digests") for path in (folder / name).rglob("*")]
        files = sorted(path for path in items if path.is_file() and path.stat().st_size)
        file, contents = (chosen := self._draw.choice(files)), bytearray(chosen.read_bytes())
        kind = self._draw.choice(["flip", "cut", "remove"])
        if kind == "flip":
            bit = self._draw.randrange(8 * len(contents))
            contents[bit // 8] ^= 1 << bit % 8
        elif kind == "cut":
            del contents[self._draw.randrange(len(contents)) :]
        file.unlink() if kind == "remove" else file.write_bytes(contents)
        # Orbax writes this file after the digests, and nothing is read from it.
        if file.parent.name == "digests" and file.name == "commit_success.txt":
            return
        self._told(f"latest/{newest} is damaged (", f"{kind} of {file}")

    def _larger_number(self) -> None:
        latest = self._workdir / "checkpoints" / "latest"
        shutil.copytree(latest / str(self._steps()[-1]), latest / "9999")
        self._told("latest/9999 is damaged (it is of step", "a wrong number")

    def _told(self, text: str, what: str) -> None:
        """Starts the run, waits until it has said `text`, and kills it."""
        one = self._start()
        deadline = time.monotonic() + child.SECONDS
        while one.is_alive() and text not in one.text and time.monotonic() < deadline:
            time.sleep(0.02)
        one.send(signal.SIGKILL)
        self._ended(one, 0, -signal.SIGKILL)
        self._check(text in one.text, f"{what} was not told", one)

    def _removed_workdir(self) -> None:
        one = self._start()
        time.sleep(self._draw.uniform(0, self._duration))
        shutil.rmtree(self._workdir, ignore_errors=True)
        self._ended(one, 0, 1, 2)
        shutil.rmtree(self._workdir, ignore_errors=True)  # what it was writing just then

    def _read_only_workdir(self) -> None:
        folders = [self._workdir, *(path for path in self._workdir.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        try:
            one = self._start(child.obey_permissions)
            self._ended(one, 1, 2)
            self._check("ermission denied" in one.text, "the reason is not said", one)
        finally:
            for path in folders:
                path.chmod(0o755)

    def _owner(self) -> int | None:
        """The process that the workdir's lock names, if any."""
        try:
            return json.loads((self._workdir / "lock").read_text())["process"]
        except (OSError, ValueError):  # not there, or being written
            return None

    def _second_run(self) -> None:
        one = self._start()
        deadline = time.monotonic() + child.SECONDS
        # A killed run leaves the file, but not the lock: it is the first one's when it names it.
        while one.is_alive() and self._owner() != one.pid and time.monotonic() < deadline:
            time.sleep(0.01)
        other = self._start(name=".second")
        code = self._ended(other, 0, 2)
        one.send(signal.SIGTERM)
        self._ended(one, 0, 143, -signal.SIGTERM)
        if code == 2:
            self._check("is in use by " in other.text, "the second run is not told why it cannot start", other)

    def _huge_rate(self) -> None:
        """In a workdir of its own: it may not look like a finished or a good run."""
        own = self._workdir.with_name(f"{self._workdir.name}-diverges")
        shutil.rmtree(own, ignore_errors=True)
        rate = 10 ** self._draw.uniform(4, 6)
        # Given twice, the last workdir counts.
        one = self._start(flags=("--workdir", str(own), "--optimizer.learning_rate", str(rate)), name=".diverges")
        code = self._ended(one, 0, 1)
        records = child.lasting(own) if (own / "metrics.jsonl").exists() else []
        numbers = [value for record in records for value in record.values() if isinstance(value, float)]
        self._check(bool(np.isfinite(numbers).all()), "a line is not finite", one)
        if code == 1:
            self._check("not finite" in one.text and not (own / "summary.json").exists(), "divergence is not said", one)
        best = [int(path.name) for path in (own / "checkpoints" / "best").glob("*")]
        self._check(not best or bool(records), "a best checkpoint without a finite evaluation", one)
        shutil.rmtree(own)
