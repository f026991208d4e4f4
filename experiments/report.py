"""Collects runs into the ledger, beside what was published: `python -m experiments.report runs --readme README.md`."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import tyro
from rich.console import Console

from experiments.exit_codes import exit_code
from experiments.figures import write
from experiments.ledger import as_json, merged, rows
from experiments.ledger_runs import read_ledger, read_run, run_folders
from experiments.ledger_tables import markdown, page, progress, readme_section
from resjax.errors import InputError

PROGRAM = "python -m experiments.report"
BEGIN, END = "<!-- ledger -->", "<!-- end of ledger -->"


@dataclasses.dataclass(frozen=True)
class Options:
    """Reads finished runs into the ledger, and writes it as ledger.md, ledger.html and ledger.json."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Workdirs, or folders that they lie in. Runs that the ledger already has stay in it."""
    output: pathlib.Path = pathlib.Path("experiments/ledger")
    """Folder of the ledger."""
    readme: pathlib.Path | None = None
    """A Markdown file that gets the table of runs, between its lines <!-- ledger --> and <!-- end of ledger -->."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for bad input."""
    console = Console(soft_wrap=True)

    def command():
        options = tyro.cli(Options, prog=PROGRAM, args=arguments, use_underscores=True)
        report(options, console)

    return exit_code(command)


def report(options: Options, console: Console) -> None:
    """Reads, merges and writes; a run that cannot be taken is named and left out.

    Raises:
      InputError: for folders without any run, a damaged ledger, a README without its two lines.
    """
    new = []
    for path in run_folders(options.runs):
        try:
            new.append(read_run(path))
        except InputError as error:
            console.print(f"left out: {error}", highlight=False, markup=False)
    runs = merged(read_ledger(options.output / "ledger.json"), new)
    table = rows(runs)
    readme = None if options.readme is None else _between_lines(options.readme, options, table)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        write(options.output / "ledger.json", as_json(runs, table))
        write(options.output / "ledger.md", markdown(table))
        write(options.output / "ledger.html", page(table))
        if readme is not None:
            write(options.readme, readme)
    except OSError as error:
        raise InputError(f"--output {options.output}: cannot be written: {error}") from None
    console.print(
        f"{len(new)} runs read, {len(runs)} in the ledger; {progress(table)}: {options.output / 'ledger.md'}",
        highlight=False,
    )


def _between_lines(file: pathlib.Path, options: Options, table) -> str:
    try:
        text = file.read_text()
    except OSError as error:
        raise InputError(f"--readme {file}: cannot be read: {error}") from None
    before, begin, rest = text.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"--readme {file}: has no lines {BEGIN} and {END}, between which the table goes")
    section = readme_section(table, (options.output / "ledger.md").as_posix())
    return f"{before}{BEGIN}\n\n{section}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
