"""Runs the studies on a trained network: `python -m experiments.analyse lesion RUN`."""

import io
import pathlib
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.evaluation.trained import TrainedModel, load_run, load_weights
from experiments.runtime.arguments import read_options, subject_first, width
from experiments.runtime.backend import prepare_backend
from experiments.runtime.console import plain_console
from experiments.runtime.exit_codes import exit_code, leave
from experiments.runtime.files import to_json, write
from experiments.runtime.machine import describe_devices, git_commit
from experiments.studies import STUDIES, Measurements, Options
from experiments.studies.figures import render
from experiments.studies.page import Section, page
from experiments.training.workdir import is_run
from resjax import list_pretrained
from resjax.errors import InputError, did_you_mean

PROGRAM = "python -m experiments.analyse"
# Weights and images that need no training and no download.
QUICKEST = f"{PROGRAM} all resnet_20-cifar10 --plain plain_20-cifar10 --dataset cifar10_mini"
ALL = "all"
_LIST = "--list"
_MOST_USED = ("images", "draws", "dataset", "data_dir", "plain", "output", "checkpoint", "model")
_COMPARING = [name for name, study in STUDIES.items() if study.compares_runs]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, 2 (bad input), 128 + signal (stopped)."""
    console = plain_console()

    def command():
        name, options = parse(sys.argv[1:] if arguments is None else arguments)
        run(name, options, console)

    return exit_code(command, kept="what was drawn before is kept")


def parse(arguments: Sequence[str]) -> tuple[str, Options]:
    """Parses the name of the study, or "all", and the options. A network without a study is for all of them.

    Raises:
      InputError: for a missing or unknown study.
      SystemExit: see `experiments.launch.command_line.parse`.
    """
    arguments = list(arguments)
    names = [*STUDIES, ALL]
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if any(argument in ("-h", "--help") for argument in arguments):
        name = name if name in names else None
    elif _LIST in [name, *arguments]:
        _print_studies()
        raise SystemExit(0)
    elif name is None:
        raise InputError(f"the name of a study comes first: {', '.join(names)} (see {_LIST})")
    if name is not None and name not in names:
        if not (pathlib.Path(name).exists() or name in list_pretrained()):
            raise InputError(f"unknown study {name!r}{did_you_mean(name, names)} (all: {', '.join(names)})")
        name, arguments = ALL, [name, *arguments]
    arguments = subject_first(f"{PROGRAM} {name or 'STUDY'}", arguments, ("--run", "--weights", "--workdir"))
    options = read_options(
        Options,
        f"{PROGRAM} {name or 'STUDY'}",
        arguments,
        description=f"Repeats studies of why residual networks work. First: {QUICKEST}",
        most_used=_MOST_USED,
        topics={
            "STUDY": f"{', '.join(names[:4])}, ..; all of them: {ALL}",
            _LIST: f"the {len(STUDIES)} studies, what each draws, and its paper",
        },
    )
    return name or ALL, options


def run(name: str, options: Options, console: Console) -> None:
    """Measures, draws and writes one study, or all of them and the page.

    Raises:
      InputError: for a value that cannot be used, or if a study lacks an input. Of "all" studies, the page lists those
        that lack one.
    """
    check_values(name, options)
    prepare_backend((options.batch_size, options.path_images), options.compilation_cache)
    for field in ("batch_size", "path_images"):
        if getattr(options, field) % jax.device_count():
            raise InputError(f"--{field}: expected a multiple of {jax.device_count()}, the number of devices")
    output = _output(name, options)
    network, plain = _load(name, options)
    if network is not None and len(network.images) < options.path_images:
        raise InputError(f"--path_images: expected at most --images, {len(network.images)}, got {options.path_images}")
    measurements = Measurements(options, network, plain)
    if network is not None:
        console.print(f"{network.name}, {len(network.images):,} test images, on {describe_devices()}", highlight=False)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be made: {error}") from None
    sections = []
    for each in STUDIES if name == ALL else (name,):
        try:
            sections.append(_study(each, measurements, output, console))
        except InputError as error:
            if name != ALL:
                raise
            console.print(f"{each}: not drawn: {error}", highlight=False)
            sections.append(Section(each, STUDIES[each], missing=str(error)))
    if name == ALL:
        facts = {
            "network": network.name if network is not None else "none",
            "beside it": plain.name if plain is not None else "no plain network (--plain)",
            "devices": describe_devices(),
            "commit": git_commit() or "unknown",
        }
        write(output / "analysis.html", page("Why this residual network works", facts, sections))
        console.print(f"report: {output / 'analysis.html'}", highlight=False)


def check_values(name: str, options: Options) -> None:
    """Raises InputError for impossible numbers and combinations."""
    for field in ("draws", "path_images", "path_draws", "networks", "points", "batch_size"):
        if getattr(options, field) < 1:
            raise InputError(f"--{field}: expected a positive integer, got {getattr(options, field)}")
    if options.points < 32:
        raise InputError(f"--points: expected at least 32, got {options.points}")
    if options.networks < 2:
        raise InputError(f"--networks: expected at least 2 for a covariance, got {options.networks}")
    given = [f"--{field}" for field in ("model", "dataset", "mean", "std") if getattr(options, field) is not None]
    if given and not options.of:
        raise InputError(f"{', '.join(given)}: name the file of weights, too: {PROGRAM} {name} FILE ..")
    if given and _is_run(options.of[0]):
        raise InputError(f"{', '.join(given)}: {options.of[0]} is a run, which has its own")
    if len(options.of) > 1 and name not in (*_COMPARING, ALL):
        raise InputError(f"{name}: takes one network, got {len(options.of)} ({', '.join(options.of)})")


def _is_run(path: str) -> bool:
    """Whether the subject is a run. A folder that holds nothing to read is taken for one, and refused as such."""
    folder = pathlib.Path(path).expanduser()
    return is_run(folder) or (folder.is_dir() and not (folder / "config.json").exists())


def _output(name: str, options: Options) -> pathlib.Path:
    if options.output is not None:
        return pathlib.Path(options.output).absolute()
    several = name in _COMPARING and len(options.of) > 1
    if options.of and not several and _is_run(options.of[0]):
        return pathlib.Path(options.of[0]).expanduser().absolute() / "analysis"
    return pathlib.Path("analysis").absolute()


def _load(name: str, options: Options) -> tuple[TrainedModel | None, TrainedModel | None]:
    network = plain = None
    sizes = (options.images, options.data_dir)
    if options.of and name not in _COMPARING:
        subject = options.of[0]
        if _is_run(subject):
            network = load_run(subject, options.checkpoint, *sizes)
        else:
            more = (options.mean, options.std, options.weights_key)
            network = load_weights(options.model, subject, options.dataset, *sizes, *more)
    if options.plain is not None:
        if _is_run(options.plain):
            plain = load_run(options.plain, options.checkpoint, *sizes, options.dataset)
        else:
            plain = load_weights(None, options.plain, options.dataset, *sizes)
        if plain.model.num_blocks:
            raise InputError(
                f"--plain {options.plain}: {plain.name} has residual blocks; name it first, without --plain"
            )
        if plain.model.has_skips:
            raise InputError(
                f"--plain {options.plain}: {plain.name} has skips; give a network without (vgg_15, plain_20)"
            )
        if network is not None and not np.array_equal(network.test.images, plain.test.images):
            raise InputError(
                f"--plain {options.plain}: {plain.name} is tested on other images than {network.name}; give networks of"
                " the same data"
            )
    return network, plain


def _study(name: str, measurements: Measurements, output: pathlib.Path, console: Console) -> Section:
    study, start = STUDIES[name], time.monotonic()
    result = to_json(study.measure(measurements))
    seconds = time.monotonic() - start
    (png, numbers), verdict = render(study, result, study.about(measurements)), study.judge(result)
    about = {"study": name, "source": study.source, "published": study.published, "shows": study.sentences(result)}
    about |= {"verdict": verdict.says, "rule": study.rule}
    write(output / f"{name}.json", {**about, "measure_seconds": round(seconds, 1), "result": result})
    write(output / f"{name}.png", png)
    console.print(f"\n{name} ({seconds:.0f} s): {output / name}.png", style="bold")
    for sentence in study.sentences(result):
        console.print(f"  {sentence}", highlight=False, markup=False)
    return Section(name, study, png, numbers, tuple(study.shows(result)), verdict, "plain" in result)


def _print_studies() -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("study", no_wrap=True)
    table.add_column("what it draws")
    table.add_column("source")
    for name, study in STUDIES.items():
        table.add_row(name, study.title, study.source)
    table.add_row(ALL, "each of these, and analysis.html with all of them", "")
    text = io.StringIO()
    Console(width=width(), file=text).print(table)
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines()), f"\n\nwithout training:\n{QUICKEST}")


if __name__ == "__main__":
    leave(main())
