"""What is asked of a classifier beyond its error, and the folder that a report of it is written to."""

import contextlib
import csv
import dataclasses
import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress

from experiments.evaluation.figures import draw_confusion, draw_reliability, draw_sheet
from experiments.evaluation.outputs import Outputs, Subject
from experiments.evaluation.robustness import (
    Attack,
    corruption_errors,
    epsilon_of,
    error_under_attack,
    unknown_images,
)
from experiments.evaluation.scores import class_table, confusion_matrix, temperature_scaling
from experiments.runtime.files import markdown_text, write
from resjax.errors import InputError, printable

MISTAKES = 36


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """Flags of a command that evaluates: what is asked beyond the error."""

    report: bool = False
    """Also write calibration, classes and mistakes to a folder; RUN/evaluation, or runs/evaluation/NAME for weights. It
    has temperature scaling, tables and figures of the classes, the 36 surest mistakes, and what else is asked for."""
    corruptions: bool = False
    """Also measure the error under 15 corruptions at 5 severities; that is 75 passes, computed here after Hendrycks &
    Dietterich 2019. CIFAR-10-C's own files: experiments.evaluate with --dataset arrays --data_dir CIFAR-10-C."""
    attack: Attack | None = None
    """Also measure the error under an attack on the pixels: one step, or 20 projected ones."""
    epsilon: Annotated[str | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Largest change of a pixel by --attack, as a fraction of the range of pixels; default: 8/255."""
    ood: str | None = None
    """Also measure how well images of other things are told from the test images, by the largest probability and by
    the energy. A data set's name, a folder of image files, or a file or folder of arrays."""

    def asked(self) -> dict[str, Any]:
        """These flags."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(QuestionOptions)}

    def questions(self, of: str, data_dir: str | None) -> "Questions":
        """What they ask of the network `of`.

        Raises:
          InputError: for an epsilon that is none, or that no attack takes.
        """
        if self.epsilon is not None and self.attack is None:
            raise InputError(f"--epsilon {self.epsilon}: is of an attack; give --attack fgsm or pgd, too")
        folder = report_folder(pathlib.Path(of)) if self.report else None
        return Questions(folder, self.corruptions, self.attack, epsilon_of(self.epsilon or "8/255"), self.ood, data_dir)


def report_folder(path: pathlib.Path) -> pathlib.Path:
    """Where the report of a run, or of weights of this name, is written."""
    if path.is_dir():
        return path / "evaluation"
    return pathlib.Path("runs", "evaluation", *(part for part in path.parts[-2:] if part not in ("/", "..")))


@dataclasses.dataclass(frozen=True)
class Questions:
    """What is asked beyond the error.

    Attributes:
      report: folder to write the report to; None writes none.
      corruptions: whether to damage the images.
      attack, epsilon: the attack, if any, and the largest change of a value, on the scale of [0, 1].
      ood: where images of other things are, if anywhere; see `unknown_images`.
      data_dir: folder of data sets that are given by name.
    """

    report: pathlib.Path | None = None
    corruptions: bool = False
    attack: Attack | None = None
    epsilon: float = 8 / 255
    ood: str | None = None
    data_dir: str | None = None

    @property
    def keep(self) -> int:
        """How many mistakes the pass is to keep."""
        return MISTAKES if self.report else 0


def answer(
    questions: Questions, subject: Subject, found: Outputs, result: dict[str, Any], batch_size: int, console: Console
) -> dict[str, Any]:
    """Answers them on the console, in files, and as `result` with what was found.

    Args:
      found: the outputs for the test images, with `questions.keep` mistakes.
      result: what is known of them.
      batch_size: images in a step.

    Raises:
      InputError: where the network, the images or the folder do not allow it.
    """
    if questions.corruptions:
        errors = corruption_errors(subject, _tracker("corruptions"))
        mean = float(np.mean(list(errors.values())))
        for name, values in errors.items():
            listed = ", ".join(f"{value:.2f}%" for value in values)
            console.print(f"  {name}: severity 1 to 5: {listed}", highlight=False)
        console.print(
            f"mean error under resjax's {len(errors)} corruptions {mean:.2f}% (computed here: not CIFAR-10-C's or"
            " ImageNet-C's)",
            highlight=False,
        )
        result = result | {"resjax_corruptions": errors, "resjax_corruptions_mean": mean}
    if questions.attack:
        attacked = error_under_attack(subject, questions.attack, questions.epsilon, _tracker(questions.attack))
        steps = {"attack": questions.attack, "epsilon": questions.epsilon, "attacked_error": attacked}
        console.print(f"error under {_attack_text(steps)} {attacked:.2f}%", highlight=False)
        result = result | steps
    if questions.ood:
        unknown = unknown_images(
            *(subject, found, questions.ood, questions.data_dir, batch_size),
            lambda path, reason: console.print(f"broken: {printable(path, 300)} ({reason}), left out"),
            _tracker("unknown images"),
        )
        console.print(f"told from {unknown['images']:,} images of {unknown['of']}: {_unknown_text(unknown)}")
        result = result | {"unknown_images": unknown}
    if questions.report:
        result = _report(questions.report, subject, found, result)
        console.print(f"report: {questions.report / 'README.md'}", highlight=False)
    return result


def write_tables(
    folder: pathlib.Path, confusion: np.ndarray, class_names: Sequence[str], unit: str, about: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Writes classes.csv and confusion.png; returns the table and its lines of Markdown.

    Raises:
      OSError: if the folder cannot be written to.
    """
    table = class_table(confusion, class_names, unit)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    write(folder / "classes.csv", text.getvalue())
    write(folder / "confusion.png", draw_confusion(confusion, class_names, about))
    cells = [[_cell(value) for value in row.values()] for row in table]
    heads = [name.replace("_", " ") for name in table[0]]
    lines = ["## Classes", "", *_table(heads, cells), "", "![Confusion of the classes](confusion.png)", ""]
    return table, lines


def print_scores(result: dict[str, Any], console: Console) -> None:
    """A line with what `scores` knows beyond error and loss."""
    low, high = result["test_error_interval"]
    top = f"; top-5 error {result['test_top5_error']:.2f}%" if "test_top5_error_interval" in result else ""
    console.print(
        f"  95% interval of the error {low:.2f}% to {high:.2f}%{top}; expected calibration error"
        f" {result['test_calibration_error']:.2f}%",
        highlight=False,
    )


def write_masks_report(folder: pathlib.Path, result: dict[str, Any], console: Console) -> dict[str, Any]:
    """Writes the tables of a run on masks; returns the result of `mean_iou_of_run` with its "class_table".

    Raises:
      InputError: where the folder cannot be written to.
    """
    with writable(folder):
        table, rows = write_tables(
            *(folder, result["confusion"], list(result["class_iou"]), "pixels"),
            f"{result['name']}; pixels of {result['test_images']:,} test images",
        )
        lines = [
            f"# Evaluation of {markdown_text(result['name'])}",
            "",
            f"{result['test_images']:,} test images: mean IoU {result['test_mean_iou']:.2f} %,"
            f" {100 * result['test_accuracy']:.2f} % of the pixels, loss {result['test_loss']:.4f}.",
            "",
            *rows,
        ]
        result = result | {"class_table": table}
        write(folder / "evaluation.json", result)
        write(folder / "README.md", "\n".join(lines).rstrip() + "\n")
    console.print(f"report: {folder / 'README.md'}", highlight=False)
    return result


@contextlib.contextmanager
def writable(folder: pathlib.Path):
    """Makes the folder; what cannot be written to it is an InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(f"--report: {folder} cannot be written: {error.strerror or error}") from None


def _report(folder: pathlib.Path, subject: Subject, found: Outputs, result: dict[str, Any]) -> dict[str, Any]:
    logits, labels = found.logits, found.labels
    classes = logits.shape[-1]
    names = [str(name) for name in subject.class_names]
    names = names if len(names) == classes else list(map(str, range(classes)))
    lines = [f"# Evaluation of {markdown_text(subject.name)}", "", *_error_lines(result)]
    about = f"{subject.name}; {len(labels):,} test images"
    with writable(folder):
        if len(labels) > 1:
            scaling, before, after = temperature_scaling(logits, labels)
            write(folder / "reliability.png", draw_reliability(before, after, scaling["temperature"], about))
            lines += _calibration_lines(scaling)
            result = result | {"temperature_scaling": scaling}
        table, rows = write_tables(folder, confusion_matrix(logits.argmax(-1), labels, classes), names, "images", about)
        lines += rows
        if found.mistakes:
            shown = []
            for mistake in found.mistakes:
                true, said = labels[mistake.position], logits[mistake.position].argmax()
                shown.append((mistake.picture, f"{names[said]}\n{100 * mistake.confidence:.1f} %, is {names[true]}"))
            write(folder / "mistakes.png", draw_sheet(f"{about}: the {len(shown)} surest mistakes", shown))
            lines += [f"## The {len(shown)} surest mistakes", "", "![Surest mistakes](mistakes.png)", ""]
        lines += _further_lines(result)
        result = result | {"class_table": table}
        write(folder / "evaluation.json", result)
        write(folder / "README.md", "\n".join(lines).rstrip() + "\n")
    return result


def _error_lines(result: dict[str, Any]) -> list[str]:
    rows = []
    for key, name, unit in (
        ("test_error", "error", " %"),
        ("test_top5_error", "top-5 error", " %"),
        ("test_loss", "negative log-likelihood", ""),
        ("test_calibration_error", "expected calibration error", " %"),
    ):
        if key in result:
            digits = 4 if key == "test_loss" else 2
            interval = result.get(f"{key}_interval")
            between = "" if interval is None else " to ".join(f"{value:.{digits}f}{unit}" for value in interval)
            rows.append([name, f"{result[key]:.{digits}f}{unit}", between])
    return [
        f"{result['test_images']:,} test images. The intervals are of 95 %, by bootstrap over the images.",
        "",
        *_table(["", "value", "interval"], rows),
        "",
    ]


def _calibration_lines(scaling: dict[str, Any]) -> list[str]:
    rows = [
        ["as it is", f"{scaling['loss']:.4f}", f"{scaling['calibration_error']:.2f} %"],
        [
            f"temperature {scaling['temperature']:.3f}",
            f"{scaling['scaled_loss']:.4f}",
            f"{scaling['scaled_calibration_error']:.2f} %",
        ],
    ]
    return [
        "## Calibration",
        "",
        "The temperature (Guo et al. 2017) is fitted to a random half of the test images. What follows is of the other"
        f" {scaling['images']:,}.",
        "",
        *_table(["", "negative log-likelihood", "expected calibration error"], rows),
        "",
        "![Reliability](reliability.png)",
        "",
    ]


def _further_lines(result: dict[str, Any]) -> list[str]:
    lines = []
    if "resjax_corruptions" in result:
        rows = [[name, *(f"{value:.2f} %" for value in each)] for name, each in result["resjax_corruptions"].items()]
        lines += [
            "## Corruptions",
            "",
            f"Mean error {result['resjax_corruptions_mean']:.2f} % under resjax's own fifteen corruptions, after"
            " Hendrycks & Dietterich 2019. They are not those of CIFAR-10-C or ImageNet-C.",
            "",
            *_table(["severity", *"12345"], rows),
            "",
        ]
    if "attack" in result:
        lines += ["## Attack", "", f"Error under {_attack_text(result)}: {result['attacked_error']:.2f} %.", ""]
    if "unknown_images" in result:
        unknown = result["unknown_images"]
        said = f"{unknown['images']:,} images of {markdown_text(unknown['of'])}: {_unknown_text(unknown)}."
        lines += ["## Images of other things", "", said, ""]
    return lines


def _attack_text(result: dict[str, Any]) -> str:
    name = {"fgsm": "FGSM", "pgd": "PGD (20 steps)"}[result["attack"]]
    return f"{name} of epsilon {255 * result['epsilon']:.3g}/255"


def _unknown_text(unknown: dict[str, Any]) -> str:
    return "; ".join(
        f"by {name} AUROC {unknown[key]['auroc']:.2f}%, FPR at 95% TPR {unknown[key]['fpr95']:.2f}%"
        for key, name in (("max_softmax", "largest probability"), ("energy", "energy"))
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f} %"
    return f"{value:,}" if isinstance(value, int) else markdown_text(value)


def _tracker(what: str):
    console = Console(stderr=True)

    def track(batches: Iterable, total: int) -> Iterable:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            yield from progress.track(batches, total=total, description=what)

    return track
