"""Why residual networks work, shown on a network: `python -m experiments.analyse lesion --run WORKDIR`."""

import pathlib
import sys
import time
from collections.abc import Sequence

import jax
import tyro
from rich.console import Console
from rich.table import Table

from experiments.analysis_page import Section, page
from experiments.backend import prepare_backend
from experiments.environment import describe_devices, git_commit
from experiments.exit_codes import exit_code
from experiments.figures import render, to_json, write
from experiments.studies import STUDIES, Bench, Options
from experiments.subject import Subject, load_run, load_weights
from resjax.errors import InputError, did_you_mean

PROGRAM = "python -m experiments.analyse"
ALL = "all"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, 2 (bad input), 128 + signal (stopped)."""
    console = Console(soft_wrap=True)

    def command():
        name, options = parse(sys.argv[1:] if arguments is None else arguments)
        run(name, options, console)

    return exit_code(command, kept="what was drawn before is kept")


def parse(arguments: Sequence[str]) -> tuple[str, Options]:
    """The study, or "all", and the options.

    Raises:
      InputError: for a missing or unknown study.
      SystemExit: as `experiments.command_line.parse`.
    """
    name, rest = (arguments[0], arguments[1:]) if arguments and not arguments[0].startswith("-") else (None, arguments)
    names = [*STUDIES, ALL]
    if any(argument in ("-h", "--help") for argument in rest):
        _print_studies()
    elif name is None:
        raise InputError(f"the name of a study comes first: {', '.join(names)} (see --help)")
    if name is not None and name not in names:
        raise InputError(f"unknown study {name!r}{did_you_mean(name, names)} (all: {', '.join(names)})")
    options = tyro.cli(Options, prog=f"{PROGRAM} {name or 'NAME'}", args=list(rest), use_underscores=True)
    return name or ALL, options


def run(name: str, options: Options, console: Console) -> None:
    """Measures, draws and writes one study, or all of them and the page.

    Raises:
      InputError: for a value that cannot be used, and what one study lacks; of all, those that lack something are named
        on the page.
    """
    check_values(options)
    prepare_backend((options.batch_size, options.path_images), options.compilation_cache)
    for field in ("batch_size", "path_images"):
        if getattr(options, field) % jax.device_count():
            raise InputError(f"--{field}: expected a multiple of {jax.device_count()}, the number of devices")
    output = _output(options)
    subject, plain = _load(options)
    if subject is not None and len(subject.images) < options.path_images:
        raise InputError(f"--path_images: expected at most --images, {len(subject.images)}, got {options.path_images}")
    bench = Bench(options, subject, plain)
    if subject is not None:
        console.print(f"{subject.name}, {len(subject.images):,} test images, on {describe_devices()}", highlight=False)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be made: {error}") from None
    sections = []
    for each in STUDIES if name == ALL else (name,):
        try:
            sections.append(_study(each, bench, output, console))
        except InputError as error:
            if name != ALL:
                raise
            console.print(f"{each}: not drawn: {error}", highlight=False)
            sections.append(Section(STUDIES[each], missing=str(error)))
    if name == ALL:
        facts = {
            "network": subject.name if subject is not None else "none",
            "beside it": plain.name if plain is not None else "no plain network (--plain)",
            "devices": describe_devices(),
            "commit": git_commit() or "unknown",
        }
        write(output / "analysis.html", page("Why this residual network works", facts, sections))
        console.print(f"report: {output / 'analysis.html'}", highlight=False)


def check_values(options: Options) -> None:
    """Raises InputError for numbers and combinations that mean nothing."""
    for field in ("draws", "path_images", "path_draws", "networks", "points", "batch_size"):
        if getattr(options, field) < 1:
            raise InputError(f"--{field}: expected a positive integer, got {getattr(options, field)}")
    for field in ("images", "seed"):
        if getattr(options, field) < 0:
            raise InputError(f"--{field}: expected an integer >= 0, got {getattr(options, field)}")
    if options.points < 32:
        raise InputError(f"--points: expected at least 32, got {options.points}")
    if options.networks < 2:
        raise InputError(f"--networks: expected at least 2 for a covariance, got {options.networks}")
    given = [f"--{field}" for field in ("model", "dataset", "mean", "std") if getattr(options, field) is not None]
    if options.run is not None and (given or options.weights is not None):
        raise InputError("--run and --weights, --model, --dataset, --mean, --std: choose one")
    if given and options.weights is None:
        raise InputError(f"{', '.join(given)}: give the --weights, too")


def _output(options: Options) -> pathlib.Path:
    if options.output is not None:
        return pathlib.Path(options.output).absolute()
    if options.run is not None:
        return pathlib.Path(options.run).absolute() / "analysis"
    return pathlib.Path("analysis").absolute()


def _load(options: Options) -> tuple[Subject | None, Subject | None]:
    subject = plain = None
    sizes = (options.images, options.data_dir)
    if options.run is not None:
        subject = load_run(options.run, options.checkpoint, *sizes)
    elif options.weights is not None:
        constants = (options.mean, options.std)
        subject = load_weights(options.model, options.weights, options.dataset, *sizes, *constants)
    if options.plain is not None:
        plain = load_run(options.plain, options.checkpoint, *sizes)
        if plain.model.num_blocks:
            raise InputError(f"--plain {options.plain}: {plain.name} has residual blocks; it belongs in --run")
    return subject, plain


def _study(name: str, bench: Bench, output: pathlib.Path, console: Console) -> Section:
    study, start = STUDIES[name], time.monotonic()
    result = to_json(study.measure(bench))
    seconds = time.monotonic() - start
    png, shows = render(study, result), tuple(study.shows(result))
    about = {"study": name, "source": study.source, "published": study.published, "shows": list(shows)}
    write(output / f"{name}.json", {**about, "measure_seconds": round(seconds, 1), "result": result})
    write(output / f"{name}.png", png)
    console.print(f"\n[bold]{name}[/bold] ({seconds:.0f} s): {output / name}.png", highlight=False)
    for sentence in shows:
        console.print(f"  {sentence}", highlight=False, markup=False)
    return Section(study, png, shows)


def _print_studies() -> None:
    table = Table(title=f"{PROGRAM} NAME [--field value ...]\n", title_justify="left", box=None, pad_edge=False)
    table.add_column("study", no_wrap=True)
    table.add_column("what it draws")
    table.add_column("source")
    for name, study in STUDIES.items():
        table.add_row(name, study.title, study.source)
    table.add_row(ALL, "each of these, and analysis.html with all of them", "")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    sys.exit(main())
