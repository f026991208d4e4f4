"""The error of a trained network on its test images: `python -m experiments.evaluate preresnet_20-cifar10`."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments.backend import prepare_backend
from experiments.environment import hardware
from experiments.exit_codes import exit_code
from experiments.figures import write
from experiments.ledger_runs import read_run
from experiments.model_card import card, facts_of_run
from experiments.subject import Subject, load_run, load_weights, read_config
from experiments.workdir import Workdir
from resjax import save_pretrained, train
from resjax.data import dataset_info
from resjax.data.augment import Normalization, mirrored_and_shifted
from resjax.errors import InputError

PROGRAM = "python -m experiments.evaluate"


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluates a network on all test images of its data set, each exactly once."""

    of: tyro.conf.Positional[str]
    """A workdir of experiments.cifar; a name of resjax.list_pretrained(); a directory of resjax.save_pretrained; or
    with --model a file of PyTorch's weights."""
    model: str | None = None
    """Name of the network that a file of weights is of."""
    dataset: str | None = None
    """Of weights: what to test on; default: what they say themselves, or cifar10. A run has its own."""
    mean: tuple[float, float, float] | None = None
    """Of a file of PyTorch's weights: what is taken off the images, RGB from 0 to 255; default: the mean of the data
    set. Some repositories train on CIFAR-10 with ImageNet's, 123.675 116.28 103.53."""
    std: tuple[float, float, float] | None = None
    """And what they are divided by, likewise; ImageNet's: 58.395 57.12 57.375."""
    data_dir: str | None = None
    """Folder of a prepared TFDS directory or of the official archives; default: that of the run, or else TFDS's own."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which of a run's checkpoints."""
    save: pathlib.Path | None = None
    """Of a finished run: write its weights there, with a model card, for resjax.from_pretrained."""
    tta: bool = False
    """Also with test-time augmentation, told apart: the mean of the logits of six views of each image, mirrored and
    shifted by a pixel."""
    batch_size: int = 512
    """Images in a step, over all devices."""
    compilation_cache: str = "auto"
    """Folder of compiled programs; auto: in the user's cache folder; off: none."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for bad input."""
    console = Console(soft_wrap=True)

    def command():
        run(tyro.cli(Options, prog=PROGRAM, args=arguments, use_underscores=True), console)

    return exit_code(command, kept="nothing was written")


def run(options: Options, console: Console) -> dict[str, Any]:
    """Evaluates, and saves where that is asked for; returns what `error_of` does.

    With `tta` also "tta_errors", "tta_error" and "tta_loss".

    Raises:
      InputError: for a run, weights or data that cannot be read, or do not fit.
    """
    if options.batch_size <= 0:
        raise InputError(f"--batch_size: expected a positive integer, got {options.batch_size}")
    is_run = Workdir(options.of).checkpoints.is_dir()
    if is_run and not all(getattr(options, field) is None for field in ("model", "dataset", "mean", "std")):
        raise InputError(f"--model, --dataset, --mean, --std: {options.of} is a run, which has its own")
    if options.save is not None:
        facts = _facts_to_save(options, is_run)
    prepare_backend((options.batch_size,), options.compilation_cache)
    if is_run:
        subject = load_run(options.of, options.checkpoint, 0, options.data_dir)
    else:
        constants = (options.mean, options.std)
        subject = load_weights(options.model, options.of, options.dataset, 0, options.data_dir, *constants)
    console.print(f"{subject.name}, {len(subject.labels):,} test images, on {hardware()}", highlight=False)
    constants = None if options.save is None else _constants(subject)
    result = error_of(subject, options.batch_size)
    _print_error("test error", result, console)
    if options.tta:
        averaged = error_of(subject, options.batch_size, mirrored_and_shifted)
        _print_error("with test-time augmentation", averaged, console)
        result |= {f"tta_{key.removeprefix('test_')}": value for key, value in averaged.items() if key != "test_images"}
    if options.save is not None:
        about = facts | result | constants
        try:
            save_pretrained(options.save, subject.model, subject.variables, about)
            write(options.save / "README.md", card(options.save.name, about))
        except OSError as error:
            raise InputError(f"--save {options.save}: cannot be written: {error}") from None
        console.print(f"saved: {options.save}", highlight=False)
    return result


def _print_error(what: str, result: dict[str, Any], console: Console) -> None:
    console.print(
        f"{what} {result['test_error']:.2f}% ({result['errors']:,} of {result['test_images']:,} images), test loss"
        f" {result['test_loss']:.4f}",
        highlight=False,
    )


def error_of(subject: Subject, batch_size: int, views: Callable | None = None) -> dict[str, Any]:
    """Evaluates as the training did: the same compiled step, normalisation in it, the last batch padded and masked.

    Returns {"errors", "test_images", "test_error", "test_loss"}. `views` is that of `resjax.train.make_eval_step`.
    """
    mesh = train.data_mesh()
    train.check_batch_size(batch_size, mesh)
    evaluate = train.make_run_evaluation(
        train.make_eval_step(subject.model, subject.normalize, views), batch_size, mesh
    )
    data = train.put_resident(subject.test, mesh, batch_size)
    images = len(subject.labels)
    variables, zero = (train.put_whole(tree, mesh) for tree in (subject.variables, train.Totals.zero()))
    totals = jax.device_get(evaluate(variables, zero, data, images, 0, -(-images // batch_size)))
    errors = int(totals.images - totals.correct)
    return {
        "errors": errors,
        "test_images": int(totals.images),
        "test_error": 100 * errors / int(totals.images),
        "test_loss": totals.mean_loss(),
    }


def _facts_to_save(options: Options, is_run: bool) -> dict[str, Any]:
    if not is_run:
        raise InputError(f"--save: {options.of} is no run of experiments.cifar; only those are saved with a card")
    if options.save.exists() and not options.save.is_dir():
        raise InputError(f"--save {options.save}: a file is there; give a directory")
    config, run = read_config(options.of), read_run(pathlib.Path(options.of))
    summary = json.loads((pathlib.Path(options.of) / "summary.json").read_text())
    return facts_of_run(config, run, summary, options.checkpoint)


def _constants(subject: Subject) -> dict[str, Any]:
    """The numbers that its input is normalised by, exactly."""
    if not isinstance(subject.normalize, Normalization):
        raise InputError("--save: this network's input is not (image - mean) / std, all that saved weights can say")
    constants = {name: _float32s(getattr(subject.normalize, name)) for name in ("mean", "std")}
    return constants | {"class_names": list(dataset_info(subject.dataset).class_names)}


def _float32s(array: Any) -> list:
    """Nested lists of the shortest numbers that float32 reads back as those of the array."""
    return np.asarray(array, np.float32).astype(str).astype(float).tolist()


if __name__ == "__main__":
    sys.exit(main())
