"""Workdirs: checkpoints, records and summaries, locks, and the ledger of runs."""

import contextlib
import json
import random
from pathlib import Path
from typing import Any

from resjax.errors import InputError
from tests.fuzz import mutators
from tests.fuzz.formats.format import Format


def _checkpoint(folder: Path) -> None:
    import resjax
    from resjax import train

    model = resjax.create_model("highway_10_2", num_classes=3)
    state = train.create_state(model, train.sgd(0.1), 0, (28, 28, 1))
    with train.Checkpoints(folder) as checkpoints:
        checkpoints.save(state, train.Totals.zero(), {})


def _read_checkpoint(folder: Path, rng: random.Random) -> Any:
    from resjax import train

    try:
        return list(train.read_variables(folder))
    except train.CheckpointError as error:
        raise InputError(str(error)) from error


def _run_of_cifar(folder: Path) -> None:
    from tests.helpers.finished_run import write_run

    write_run(folder, "resnet_20")


def _read_run(folder: Path, rng: random.Random) -> Any:
    from experiments.reports.runs import read_run
    from experiments.training.workdir import Workdir, read_saved_run
    from tests.fuzz.worker import run_command

    if rng.random() < 0.3:
        return run_command("experiments.report", [str(folder), "--output", str(folder / "ledger")])
    run = read_run(folder)
    return [repr(run), repr(read_saved_run(folder)), Workdir(folder, writes=False).records()]


def _matching_digests(rng: random.Random, folder: Path) -> None:
    """Other contents, and the digests of these: Orbax reads what is damaged."""
    from resjax.train import digests

    checkpoint = folder / "latest" / "0"
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.parent.name != digests.ITEM]
    path = rng.choice(sorted(files))
    data = path.read_bytes()
    is_json = data.startswith(b"{") and rng.random() < 0.7
    path.write_bytes(mutators.edited_json_text(rng, data) if is_json else mutators.torn(rng, data))
    (checkpoint / digests.ITEM / digests.FILE).write_bytes(digests.digests(checkpoint, 0))


def _ledger(folder: Path) -> None:
    _run_of_cifar(folder / "runs" / "one")
    _read_ledger(folder, random.Random(0))
    for path in (folder / "ledger").iterdir():
        if path.suffix != ".json":
            path.unlink()


def _read_ledger(folder: Path, rng: random.Random) -> Any:
    from tests.fuzz.worker import run_command

    return run_command("experiments.report", [str(folder / "runs"), "--ledger", "--output", str(folder / "ledger")])


def _lock(folder: Path) -> None:
    (folder / "lock").write_text(json.dumps({"host": "machine", "process": 7}))


def _read_lock(folder: Path, rng: random.Random) -> Any:
    """Takes the lock that a killed run has left, while another has it, and after that."""
    import fcntl

    from experiments.runtime.lock import FolderLock

    with contextlib.suppress(InputError):
        path = folder / "lock"
        if path.is_file():
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                FolderLock(folder, lambda line: None)
    FolderLock(folder, lambda line: None).release()
    return 0


FORMATS = {
    "checkpoints": Format(
        _checkpoint,
        _read_checkpoint,
        (_matching_digests,),
        checked=("latest/0/*",),
        # Those of earlier versions have no digests.
        may_not_differ=lambda folder: any(folder.glob("latest/*/digests")),
        weight=1.5,
    ),
    "runs": Format(_run_of_cifar, _read_run, weight=2),
    "ledger": Format(_ledger, _read_ledger),
    "locks": Format(_lock, _read_lock),
}
