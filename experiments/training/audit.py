"""Trains parts of a run again and compares them with what the run saved."""

import dataclasses
import math
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.configs.base import flatten
from experiments.runtime.exit_codes import TrainingError
from experiments.training.workdir import Workdir, read_saved_run
from resjax import train
from resjax.errors import InputError

TOLERANCE = 0.1
"""On another machine: the largest distance from the saved parameters, as a fraction of the way that they moved."""
_MEASURED = "_seconds", "_per_second"  # ends of the names of metrics that are times


@dataclasses.dataclass(frozen=True)
class Span:
    """A part of a run between two checkpoints that it kept, of which the first is step 0 or a kept one.

    Attributes:
      first, last: their steps.
      epochs: the completed epochs at `last`.
    """

    first: int
    last: int
    epochs: int


@dataclasses.dataclass(frozen=True)
class Finding:
    """How a span that was trained again differs from the run.

    Attributes:
      distance: distance of the parameters at its end from those that the run saved, as a fraction of the way that these
        moved in the span (from step 0 on: of their norm).
      arrays: names of the arrays that differ in at least one bit.
      metrics: differences of the epochs' lines in metrics.jsonl, in words.
      machine: how this machine differs from the one that saved the end of the span, in words; None if it does not.
    """

    distance: float
    arrays: tuple[str, ...]
    metrics: tuple[str, ...]
    machine: str | None

    @property
    def is_same(self) -> bool:
        """Whether every bit is the same."""
        return not self.arrays and not self.metrics


class Audit:
    """A run to be audited.

    Args:
      path: its workdir.
      data_dir: where the data is now; None is where it was.

    Raises:
      InputError: if there is no run, or it kept no checkpoint at the end of an epoch.
    """

    def __init__(self, path: str | pathlib.Path, data_dir: str | None = None):
        self.saved = read_saved_run(path)
        self.workdir = Workdir(path)
        self._data_dir = data_dir
        epochs = {record["step"]: record["epoch"] for record in self.workdir.records() if "epoch" in record}
        kept = [step for step in self.workdir.saved_steps() if step in epochs]
        if not kept:
            raise InputError(
                f"{path}: holds no checkpoint of the end of an epoch, from which or up to which to train again; train"
                " with --keep_every 1"
            )
        self.spans = [Span(first, last, epochs[last]) for first, last in zip([0, *kept], kept, strict=False)]

    def check_files(self) -> str | None:
        """Says which kept checkpoint is damaged, or of another run than config.json; None if none is.

        Of a tampered one this finds what is not consistent; training again finds the rest.
        """
        for span in self.spans:
            try:
                self._read(self.workdir, span.last)
            except (train.CheckpointError, InputError) as error:
                return str(error)
        return None

    def train_again(self, span: Span, scratch: pathlib.Path) -> Finding:
        """Trains a span in the empty folder `scratch` by the run's own command, and compares its end.

        Raises:
          TrainingError: if the command fails; the message is its own.
          InputError: if this version cannot read the run's config.
        """
        copy = Workdir(scratch)
        shutil.copy(self.workdir.path / "config.json", scratch)
        if span.first:
            latest = copy.checkpoints / "latest"
            latest.mkdir(parents=True)
            shutil.copytree(self.workdir.checkpoints / "latest" / str(span.first), latest / str(span.first))
            for record in self.workdir.records():
                if record["step"] <= span.first:
                    copy.append_metrics(record)
        options = {"workdir": str(scratch), "resume": "auto", "keep_every": 1}
        if self._data_dir is not None:
            options["data_dir"] = self._data_dir
        if "seeds" in self.saved.config.run_options():
            options["seeds"] = 1
        _, *words = shlex.split(self.saved.command(**options))
        _run_until([sys.executable, *words], copy, span.last)
        (there, machine), (here, own_machine) = (self._read(each, span.last) for each in (self.workdir, copy))
        before = self._read(self.workdir, span.first)[0] if span.first else None
        return Finding(
            distance=_distance(there, here, before),
            arrays=tuple(name for name in {**there, **here} if not _same(there.get(name), here.get(name))),
            metrics=tuple(_differences(self.workdir, copy, span)),
            machine=_machine_differences(machine, own_machine),
        )

    def _read(self, workdir: Workdir, step: int) -> tuple[dict[str, np.ndarray], Mapping[str, Any] | None]:
        """The arrays of a checkpoint, and the machine that it says to be of."""
        saved = {}

        def check_run(run):
            self.workdir.check_checkpoint(run)
            saved.update(run)

        return train.read_arrays(workdir.checkpoints, step, check_run), saved.get("machine")


def choose(spans: Sequence[Span], count: int, seed: int) -> list[Span]:
    """`count` of the spans, or all if there are fewer, drawn at random, in their order."""
    chosen = np.random.default_rng(seed).choice(len(spans), min(count, len(spans)), replace=False)
    return [spans[i] for i in sorted(chosen)]


def _run_until(words: Sequence[str], workdir: Workdir, step: int) -> None:
    """Runs a command in a new process until the epoch that ends at `step` is saved and in metrics.jsonl."""
    log = workdir.path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None and not _is_saved(workdir, step):
                time.sleep(0.1)
        finally:
            process.terminate()
            process.wait()
    if not _is_saved(workdir, step):
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise TrainingError(f"training again stopped before step {step}: {' '.join(last) or 'it said nothing'}")


def _is_saved(workdir: Workdir, step: int) -> bool:
    return step in workdir.saved_steps() and any(record["step"] == step for record in workdir.records())


def _machine_differences(there: Mapping[str, Any] | None, here: Mapping[str, Any] | None) -> str | None:
    if there is None or here is None:
        return "the run does not say on which it was trained"
    there, here = flatten(dict(there)), flatten(dict(here))
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    told = [f"{name.split('.')[-1]} {there.get(name)} there, {here.get(name)} here" for name in names]
    return "; ".join(told) or None


def _same(there: np.ndarray | None, here: np.ndarray | None) -> bool:
    if there is None or here is None:
        return False
    return there.dtype == here.dtype and there.shape == here.shape and there.tobytes() == here.tobytes()


def _distance(there: Mapping[str, np.ndarray], here: Mapping[str, np.ndarray], before: Mapping | None) -> float:
    """`Finding.distance`; infinite if the parameters are not of the same shapes."""
    names = [name for name in there if name.startswith("params/")]
    if any(name not in here or here[name].shape != there[name].shape for name in names):
        return math.inf
    off = _norm(here[name].astype(np.float64) - there[name] for name in names)
    way = _norm(there[name].astype(np.float64) - (0 if before is None else before[name]) for name in names)
    return off / way if way else float(off and math.inf)


def _norm(arrays: Iterable[np.ndarray]) -> float:
    return math.sqrt(math.fsum(np.square(array).sum() for array in arrays))


def _differences(workdir: Workdir, again: Workdir, span: Span) -> list[str]:
    """How the lines of metrics.jsonl of the span's epochs differ, apart from times, in words."""
    there, here = (
        {record["step"]: record for record in each.records() if span.first < record["step"] <= span.last}
        for each in (workdir, again)
    )
    told = []
    for step, record in there.items():
        again_record = here.get(step, {})
        for key, value in record.items():
            if not key.endswith(_MEASURED) and again_record.get(key) != value:
                told.append(f"epoch {record['epoch']}: {key} {value} there, {again_record.get(key)} here")
    return told
