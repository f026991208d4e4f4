"""Shows runs together, and collects them into the ledger of published results: `python -m experiments.report runs`."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.console import Console

from experiments.reports.figure import figure
from experiments.reports.ledger import as_json, merged, rows
from experiments.reports.own_runs import page as own_page
from experiments.reports.own_runs import read_own_run, table
from experiments.reports.runs import read_ledger, run_folders
from experiments.reports.tables import markdown, page, progress, readme_section
from experiments.runtime.arguments import read_options
from experiments.runtime.console import plain_console
from experiments.runtime.exit_codes import exit_code, leave
from experiments.runtime.files import write
from experiments.training.workdir import Workdir
from resjax.errors import InputError

PROGRAM = "python -m experiments.report"
LEDGER = pathlib.Path("results")
BEGIN, END = "<!-- ledger -->", "<!-- end of ledger -->"


@dataclasses.dataclass(frozen=True)
class Options:
    """Prints a table of runs, and writes report.html: their results, curves and differences."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ..")] = ()
    """Workdirs, or folders that contain workdirs."""
    output: pathlib.Path | None = None
    """Folder to write to; default: beside the runs, and results for the ledger of --readme."""
    ledger: bool = False
    """Also write ledger.md, ledger.svg, ledger.html and ledger.json: every recipe beside its published result, and all
    finished runs so far. A ledger that is already in the folder is always brought up to date."""
    readme: pathlib.Path | None = None
    """A Markdown file that receives the ledger's table of runs, between <!-- ledger --> and <!-- end of ledger -->."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for bad input."""
    console = plain_console()

    def command():
        options = read_options(Options, PROGRAM, arguments)
        report(options, console)

    return exit_code(command)


def report(options: Options, console: Console) -> None:
    """Reads the runs, prints their table, and writes the page and the ledger. A run that cannot be read is left out.

    Raises:
      InputError: if a folder holds no run, the ledger is damaged, or the README lacks its two lines.
    """
    own = []
    for path in run_folders(options.runs):
        try:
            own.append(read_own_run(path))
        except InputError as error:
            console.print(f"left out: {error}", highlight=False, markup=False)
    beside = options.output or (_beside(options.runs) if options.runs else LEDGER)
    folder = options.output or (LEDGER if options.readme else beside)
    written = {}
    if own:
        Console().print(table(own))
        written[beside / "report.html"] = own_page(own)
    finished = [run.finished for run in own if run.finished is not None]
    said = ""
    if options.ledger or options.readme or not options.runs or (folder / "ledger.json").exists():
        for run in own:
            if run.finished is None:
                line = f"not in the ledger: {run.path}: not finished ({run.epochs()} epochs)"
                console.print(line, highlight=False, markup=False)
        runs = merged(read_ledger(folder / "ledger.json"), finished)
        lines = rows(runs)
        written |= {
            folder / "ledger.json": as_json(runs, lines),
            folder / "ledger.md": markdown(lines),
            folder / "ledger.html": page(lines),
            folder / "ledger.svg": figure(lines),
        }
        if options.readme is not None:
            written[options.readme] = _between_lines(options.readme, folder, lines)
        said = f"; {len(runs)} in the ledger, {progress(lines)}: {folder / 'ledger.md'}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, contents in written.items():
            write(file, contents)
    except OSError as error:
        raise InputError(f"--output {folder}: cannot be written: {error}") from None
    curves = f": {beside / 'report.html'}" if own else ""
    console.print(f"{len(own)} runs read{curves}{said}", highlight=False, markup=False)


def _beside(runs: Sequence[str]) -> pathlib.Path:
    """The folder of the first runs: the one given, or the parent of a workdir."""
    folder = pathlib.Path(runs[0]).expanduser()
    return folder.parent if Workdir(folder).holds_run() else folder


def _between_lines(file: pathlib.Path, folder: pathlib.Path, lines) -> str:
    try:
        text = file.read_text()
    except OSError as error:
        raise InputError(f"--readme {file}: cannot be read: {error}") from None
    before, begin, rest = text.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"--readme {file}: has no lines {BEGIN} and {END}, between which the table goes")
    section = readme_section(lines, (folder / "ledger.md").as_posix())
    return f"{before}{BEGIN}\n\n{section}\n{END}{after}"


if __name__ == "__main__":
    leave(main())
