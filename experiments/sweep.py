"""Searches for the best values of a recipe's flags: `python -m experiments.sweep STUDY --vary .. cifar quickstart`."""

import dataclasses
import importlib.util
import json
import math
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Annotated, Any

import tyro

from experiments.configs.programs import PROGRAMS, SEGMENTATION
from experiments.launch.command_line import parse
from experiments.launch.flags import given_flags
from experiments.runtime.arguments import read_options
from experiments.runtime.exit_codes import TrainingError, exit_code
from experiments.runtime.lock import FolderLock
from experiments.training.metric import MEAN_IOU, TEST_ERROR
from experiments.training.workdir import Workdir
from resjax.errors import InputError, printable

optuna: Any = importlib.import_module("optuna") if importlib.util.find_spec("optuna") else None
PROGRAM = "python -m experiments.sweep"
_PROGRAMS = {program.rpartition(".")[2]: program for program in PROGRAMS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Trains a recipe with many values of its flags, and says which are best: these flags, then the training command.

    Optuna chooses by TPE, prunes by the median. Repeat it to resume. `optuna-dashboard STUDY/study.journal` shows it.
    """

    study: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")]
    """Folder of the study, of its runs and their logs."""
    vary: tuple[str, ...]
    """FIELD=LOW..HIGH, logarithmic from a factor of ten on, or FIELD=VALUE,VALUE, for example batch_size=64,128."""
    trials: int = 20
    """Runs of the study, those of earlier calls included."""
    json: bool = False
    """Print one JSON object and nothing else on standard output."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, 1 where no run came to its end, or 2 for bad input."""

    def command():
        words = list(sys.argv[1:] if arguments is None else arguments)
        at = next((i for i, word in enumerate(words) if i and word in _PROGRAMS), len(words))
        options = read_options(Options, PROGRAM, words[:at])
        best = run(options, words[at:])
        print(json.dumps(best) if options.json else f"best: {best['value']:.2f} %, {best['flags']}: {best['run']}")

    return exit_code(command, kept="the same command goes on with the study")


def run(options: Options, training: Sequence[str]) -> dict[str, Any]:
    """Trains until the study has its runs; returns the best's value, flags and folder. Raises InputError for flags that
    the training command does not take, or the study of another command; TrainingError where no run came to its end."""
    if optuna is None:
        raise InputError("a sweep needs Optuna: pip install 'resjax[sweep]'")
    if not training:
        raise InputError(f"expected a training command behind the flags of the sweep: {' or '.join(_PROGRAMS)} NAME ..")
    program, rest, states = _PROGRAMS[training[0]], list(training[1:]), optuna.trial.TrialState
    rest = ["--config", *rest] if rest and rest[0] in PROGRAMS[program] else rest
    space = dict(map(_distribution, options.vary))
    if fixed := [f"--{name}" for name in sorted(given_flags(rest)) if name in (*space, "workdir", "seeds")]:
        raise InputError(f"{', '.join(fixed)}: every run of a sweep has its own; leave it out")
    first = {name: values.choices[0] if hasattr(values, "choices") else values.low for name, values in space.items()}
    parse(program, PROGRAMS[program], [*rest, *_flags(first)])
    options.study.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.callback(FolderLock(options.study, print).release)
        study = _open_study(options.study, [*training, "--vary", *sorted(options.vary)])

        while study.get_trials(states=[states.WAITING]) or len({_folder(t) for t in study.trials}) < options.trials:
            trial = study.ask(space)
            trial.set_user_attr("folder", _folder(trial))
            folder, flags = options.study / _folder(trial), _flags(trial.params)
            words = [sys.executable, *program.split()[1:], *rest, *flags, "--workdir", str(folder)]
            value, said = _train(trial, words, folder, MEAN_IOU if program == SEGMENTATION else TEST_ERROR)
            study.tell(trial, value, None if said is None else states[said.partition(":")[0]])
            print(f"{folder} {' '.join(flags)}: {said or f'{value:.2f} %'}", file=sys.stderr)
        if not study.get_trials(states=[states.COMPLETE]):
            raise TrainingError(f"no run came to its end; their logs are in {options.study}")
    place = options.study / _folder(study.best_trial)
    return {"value": study.best_value, "flags": " ".join(_flags(study.best_params)), "run": str(place)}


def _folder(trial: Any) -> str:
    return trial.user_attrs.get("folder", f"{trial.number:04d}")


def _open_study(folder: pathlib.Path, command: list[str]) -> Any:
    """The study of a folder. A run that was under way when its process ended is asked for again, in its workdir."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "study.journal")))
    parts = {"sampler": optuna.samplers.TPESampler(), "pruner": optuna.pruners.MedianPruner()}
    study = optuna.create_study(storage=storage, study_name="resjax", load_if_exists=True, **parts)
    if (earlier := study.user_attrs.get("command", command)) != command:
        raise InputError(f"{folder}: is the study of `{' '.join(earlier)}`; repeat that, or choose another folder")
    study.set_user_attr("command", command)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.enqueue_trial(trial.params, user_attrs={"folder": _folder(trial)})
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _train(trial, command, folder, metric) -> tuple[float | None, str | None]:
    """Runs a command; returns the value of its last epoch, or None and why: PRUNED, or FAIL: the last line."""
    told, code, log = 0, None, pathlib.Path(f"{folder}.log")
    with open(log, "ab") as out, subprocess.Popen(command, stdout=out, stderr=out) as process, ExitStack() as stack:
        stack.callback(process.terminate)
        while code is None:
            code = process.poll()  # before the epochs are read, so that none is missed
            for record in (records := Workdir(folder).records())[told:]:
                trial.report(metric.value_to_minimise(record), record["epoch"])
            told = len(records)
            if code is None and trial.should_prune():
                return None, "PRUNED"
            time.sleep(0.5 if code is None else 0)
    if code or not records:
        return None, f"FAIL: {printable((log.read_text(errors='replace').splitlines() or [''])[-1], 300)}"
    return metric.value_to_minimise(records[-1]), None


def _flags(values: Mapping[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", *str(value).split())]


def _distribution(text: str) -> tuple[str, Any]:
    name, _, values = text.partition("=")
    low, dots, high = values.partition("..")
    with suppress(ValueError):
        if not dots and "," in values:
            return name, optuna.distributions.CategoricalDistribution(values.split(","))
        kind, of_kind = (int, "Int") if (low + high).isdigit() else (float, "Float")
        ends = kind(low), kind(high)
        if math.isfinite(ends[0] - ends[1]) and ends[0] < ends[1]:
            return name, getattr(optuna.distributions, f"{of_kind}Distribution")(*ends, log=0 < 10 * ends[0] <= ends[1])
    raise InputError(f"--vary {text}: expected FIELD=LOW..HIGH or FIELD=VALUE,VALUE, for example batch_size=64,128")


if __name__ == "__main__":
    sys.exit(main())
