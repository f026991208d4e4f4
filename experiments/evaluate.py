"""Evaluates a trained network on its test images: `python -m experiments.evaluate preresnet_20-cifar10`."""

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

from experiments.configs.programs import CIFAR, IMAGENET, SavedRun
from experiments.evaluation.crops import Evaluation, evaluate_photographs
from experiments.evaluation.errors import mean_iou_of_run
from experiments.evaluation.outputs import Outputs, Subject, on_images, outputs, subject_of
from experiments.evaluation.report import QuestionOptions, answer, print_scores, report_folder, write_masks_report
from experiments.evaluation.scores import scores, together
from experiments.evaluation.trained import TrainedModel, load_run, load_weights
from experiments.inputs.splits import severities
from experiments.reports.model_card import own_data
from experiments.reports.saved_weights import facts_to_save, save_run, write_weights
from experiments.runtime.arguments import read_options, subject_first
from experiments.runtime.backend import prepare_backend
from experiments.runtime.console import plain_console
from experiments.runtime.exit_codes import exit_code, leave
from experiments.runtime.files import to_json
from experiments.runtime.machine import hardware
from experiments.training.pretrained import float32s, input_of
from experiments.training.workdir import is_run, read_saved_run
from resjax import pretrained_info
from resjax.data import identity
from resjax.data.arrays.files import NAME as ARRAYS
from resjax.data.augment import CORRUPTIONS, mirrored_and_shifted
from resjax.data.images import list_image_datasets
from resjax.data.normalization import Normalization
from resjax.errors import InputError
from resjax.interop.network_input import Preprocessing

PROGRAM = "python -m experiments.evaluate"
_MOST_USED = (
    "data_dir", "dataset", "split", "checkpoint", "tta", "report", "corruptions", "attack", "save", "json",
)  # fmt: skip
_BATCH_SIZE = 512
_PHOTOGRAPH = 96  # pixels: weights that say no data set, of images this large, are of photographs
# Names of ordinary splits; any other split is one corruption at several severities.
_USUAL = ("train", "validation", "test", "all")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(QuestionOptions):
    """Evaluates a network on all test images of its dataset, each exactly once, as training does."""

    of: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|NAME|FILE")]
    """A run of any command, by its workdir, or trained weights: a name of resjax.list_pretrained(); a directory of
    resjax.save_pretrained; or, with --model, a file of PyTorch weights."""
    model: str | None = None
    """Network of a file of PyTorch weights, e.g. resnet_18."""
    weights_key: str | None = None
    """For a file with several sets of weights, for example raw and averaged: the key to read, e.g. state_dict."""
    dataset: str | None = None
    """Dataset to test on, e.g. arrays in --data_dir; default: the run's or the weights' dataset, else cifar10."""
    split: str | None = None
    """Split to test on; default: test. For arrays without a test split, every split but the training images."""
    mean: tuple[float, float, float] | None = None
    """For a file of PyTorch weights: mean to subtract from the images, RGB from 0 to 255; default: the dataset's mean.
    Some repositories train on CIFAR-10 with ImageNet's mean, 123.675 116.28 103.53."""
    std: tuple[float, float, float] | None = None
    """For a file of PyTorch weights: standard deviation to divide by, likewise; ImageNet's: 58.395 57.12 57.375."""
    data_dir: str | None = None
    """Folder of a prepared TFDS directory or of the official archives; default: the run's own, else TFDS's."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which checkpoint of a run to evaluate."""
    save: pathlib.Path | None = None
    """Folder to save the weights of a finished run in, with a model card, for resjax.from_pretrained."""
    tta: bool = False
    """Also evaluate with test-time augmentation; it is printed separately, and is the mean of the logits of six views
    of each image, mirrored and shifted by a pixel."""
    json: bool = False
    """Print one JSON object and nothing else on standard output."""
    batch_size: int | None = None
    """Images in a step, over all devices; default: 512, for photographs 64, for masks the run's own."""
    compilation_cache: str = "auto"
    """Folder of compiled programs; auto: in the user's cache folder; off: none."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for bad input."""
    console = plain_console()

    def command():
        words = subject_first(
            PROGRAM, sys.argv[1:] if arguments is None else arguments, ("--workdir", "--run", "--weights")
        )
        options = read_options(Options, PROGRAM, words, most_used=_MOST_USED)
        with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
            result = run(options, console)
        if options.json:
            print(json.dumps(to_json(result)))

    return exit_code(command, kept="nothing was written")


def run(options: Options, console: Console) -> dict[str, Any]:
    """Evaluates, and saves the weights if `--save` is given.

    Returns:
      The result of `scores`, and with `tta` also "tta_errors", "tta_error" and "tta_loss". For a run on photographs,
      the result of `evaluate_photographs`. For a segmentation run, the result of `mean_iou_of_run`. Of a classifier
      also that of `answer`.

    Raises:
      InputError: if the run, the weights or the data cannot be read or do not fit together.
    """
    if options.batch_size is not None and options.batch_size <= 0:
        raise InputError(f"--batch_size: expected a positive integer, got {options.batch_size}")
    path = pathlib.Path(options.of)
    if not is_run(path):
        if path.is_dir() and not (path / "config.json").exists():
            read_saved_run(path)  # raises an error that says what the folder holds
        if _is_of_photographs(options):
            return _evaluate_on_photographs(options, console)
        return _evaluate_classifier(options, None, console)
    of_weights = ("model", "weights_key", "mean", "std")
    given = [f"--{field}" for field in of_weights if getattr(options, field) is not None]
    if given:
        raise InputError(f"{', '.join(given)}: {options.of} is a run, which has its own")
    saved = read_saved_run(path)
    if saved.program == CIFAR:
        return _evaluate_classifier(options, saved, console)
    if flags := [f"--{field}" for field in ("tta", "dataset", "split") if getattr(options, field)]:
        raise InputError(f"{', '.join(flags)}: only for runs of `{CIFAR}`; {options.of} is a run of `{saved.program}`")
    facts = None if options.save is None else facts_to_save(options.save, options.of, options.checkpoint)
    if saved.program == IMAGENET:
        own = saved.config
        seen = {"eval_mode": own.eval_mode, "workers": own.workers}
        others = {} if options.batch_size is None else {"batch_size": options.batch_size}
        chosen = {"of": options.of, "checkpoint": options.checkpoint, "data_dir": options.data_dir}
        result = evaluate_photographs(Evaluation(**chosen, **seen, **others, **options.asked()), console)
    elif asked := [f"--{field}" for field in ("corruptions", "attack", "ood") if getattr(options, field)]:
        raise InputError(f"{', '.join(asked)}: only for classifiers; {options.of} is a run of `{saved.program}`")
    else:
        result = _evaluate_segmentation(options, saved, console)
    if facts is not None:
        save_run(options.save, options.of, options.checkpoint, facts, result, console)
    return result


def _is_of_photographs(options: Options) -> bool:
    """Whether weights are evaluated on photographs: those of --dataset, or else what the weights say of theirs."""
    if options.dataset is not None or options.model is not None or pathlib.Path(options.of).is_file():
        return options.dataset in list_image_datasets()
    about = pretrained_info(options.of)
    size = about.get("size") if isinstance(about.get("size"), (list, tuple)) else [0]
    return about.get("dataset") in list_image_datasets() or ("dataset" not in about and min(size) >= _PHOTOGRAPH)


def _evaluate_on_photographs(options: Options, console: Console) -> dict[str, Any]:
    if given := [f"--{field}" for field in ("mean", "std", "tta", "save") if getattr(options, field)]:
        raise InputError(f"{', '.join(given)}: only on small images; `{IMAGENET} evaluate` has more for photographs")
    names = ("of", "model", "weights_key", "dataset", "data_dir", "split", "batch_size")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return evaluate_photographs(Evaluation(**chosen, **options.asked()), console)


def _evaluate_segmentation(options: Options, saved: SavedRun, console: Console) -> dict[str, Any]:
    batch_size = options.batch_size or saved.config.eval_batch_size
    prepare_backend((batch_size,), options.compilation_cache)
    result = mean_iou_of_run(options.of, options.checkpoint, options.data_dir, batch_size)
    console.print(f"{result['name']}, {result['test_images']:,} test images, on {hardware()}", highlight=False)
    for name, iou in result["class_iou"].items():
        console.print(f"  {name} {'-' if iou is None else f'{iou:.2f}%'}", highlight=False)
    console.print(
        f"mean IoU {result['test_mean_iou']:.2f}%, {100 * result['test_accuracy']:.2f}% of the pixels, test loss"
        f" {result['test_loss']:.4f}",
        highlight=False,
    )
    if options.report:
        result = write_masks_report(report_folder(pathlib.Path(options.of)), result, console)
    return result


def _evaluate_classifier(options: Options, saved: SavedRun | None, console: Console) -> dict[str, Any]:
    """Evaluates a classifier, from a run or from weights."""
    batch_size = options.batch_size or _BATCH_SIZE
    questions = options.questions(options.of, options.data_dir)
    if options.save is not None:
        if options.dataset is not None or options.split is not None:
            raise InputError(
                "--save: weights are saved with the error on their own test images; leave out --dataset, --split"
            )
        facts = _facts_to_save(options, saved)
    prepare_backend((batch_size,), options.compilation_cache)
    if saved is not None:
        network = load_run(options.of, options.checkpoint, 0, options.data_dir, options.dataset, options.split)
    else:
        more = (options.mean, options.std, options.weights_key, options.split)
        network = load_weights(options.model, options.of, options.dataset, 0, options.data_dir, *more)
    further = ("tta", "report", "corruptions", "attack", "ood")
    if network.further and (flags := [f"--{field}" for field in further if getattr(options, field)]):
        raise InputError(f"{', '.join(flags)}: needs a single split; give --split one of {', '.join(network.further)}")
    number = len(network.labels) * max(len(network.further), 1)
    console.print(f"{network.name}, {number:,} test images, on {hardware()}", highlight=False)
    constants = None if options.save is None else _constants(network)
    subject = subject_of(network, batch_size)
    if network.further:
        result = _errors(network, subject, batch_size, console)
    else:
        found = outputs(subject, questions.keep)
        result = _error(network, found, console)
    if options.tta:
        averaged = scores(*outputs(subject_of(network, batch_size, mirrored_and_shifted))[:2], whole=False)
        _print_error("with test-time augmentation", averaged, console)
        result |= {f"tta_{key.removeprefix('test_')}": value for key, value in averaged.items() if key != "test_images"}
    if options.save is not None:
        write_weights(options.save, network.model, network.variables, facts | result | constants, console)
    if not network.further:
        result = answer(questions, subject, found, result, batch_size, console)
    return result


def _error(network: TrainedModel, found: Outputs, console: Console) -> dict[str, Any]:
    """Prints and returns the error on all test images; for corrupted images also that of each severity."""
    result = scores(found.logits, found.labels)
    _print_error("test error", result, console)
    print_scores(result, console)
    parts = [] if network.split in _USUAL else severities(network.test)
    if len(parts) > 1:
        starts = np.cumsum([len(part.labels) for part in parts])[:-1]
        each = (np.split(array, starts) for array in found[:2])
        result["severity_errors"] = [scores(*one, whole=False)["test_error"] for one in zip(*each, strict=True)]
        _print_severities(result["severity_errors"], console)
    return result


def _errors(network: TrainedModel, subject: Subject, batch_size: int, console: Console) -> dict[str, Any]:
    """Evaluates on several splits and prints the error of each; for corrupted images also that of each severity.

    The result has "split_errors", in percent. With severities, it has "severity_errors": the mean over the splits, in
    percent. With all of `CORRUPTIONS`, as CIFAR-10-C has them and four more, "benchmark_error": the mean over them.
    """
    results, by_severity = {}, {}
    for name, load in network.further.items():
        test = load()
        parts = [test] if name in _USUAL else severities(test)
        each = [scores(*outputs(on_images(subject, part, batch_size))[:2], whole=False) for part in parts]
        results[name] = together(each)
        _print_error(f"{name}: test error", results[name], console)
        if len(each) > 1:
            by_severity[name] = [one["test_error"] for one in each]
            _print_severities(by_severity[name], console)
    result = together(list(results.values()))
    _print_error(f"all {len(results)} together: test error", result, console)
    result["split_errors"] = {name: one["test_error"] for name, one in results.items()}
    if by_severity:
        result["severity_errors"] = np.mean(list(by_severity.values()), 0).tolist()
        if len(by_severity) > 1:
            _print_severities(result["severity_errors"], console)
    if by_severity.keys() >= set(CORRUPTIONS):
        result["benchmark_error"] = float(np.mean([result["split_errors"][name] for name in CORRUPTIONS]))
        said = f"the {len(CORRUPTIONS)} corruptions of the benchmark: mean error {result['benchmark_error']:.2f}%"
        console.print(said, highlight=False)
    return result


def _print_severities(errors: list[float], console: Console) -> None:
    listed = ", ".join(f"{error:.2f}%" for error in errors)
    console.print(f"  severity 1 to {len(errors)}: {listed}", highlight=False)


def _print_error(what: str, result: dict[str, Any], console: Console) -> None:
    console.print(
        f"{what} {result['test_error']:.2f}% ({result['errors']:,} of {result['test_images']:,} images), test loss"
        f" {result['test_loss']:.4f}",
        highlight=False,
    )


def _facts_to_save(options: Options, saved: SavedRun | None) -> dict[str, Any]:
    if saved is None:
        raise InputError(f"--save: {options.of} is no run; only those are saved with a card")
    return facts_to_save(options.save, options.of, options.checkpoint)


def _constants(network: TrainedModel) -> dict[str, Any]:
    """The exact constants of the input normalisation, and other facts that the weights carry."""
    if not isinstance(network.normalize, (Normalization, Preprocessing)):
        raise InputError("--save: this network's input is not (image - mean) / std, all that saved weights can say")
    constants = {name: float32s(getattr(network.normalize, name)) for name in ("mean", "std")}
    # What networks for small images were trained on is not resized; photographs are, as torchvision resizes by default.
    size = {"size": list(network.test.images.shape[1:3]), "crop": 1.0, "interpolation": "bicubic"}
    if isinstance(network.normalize, Preprocessing) and network.normalize.size:
        size = input_of(network.normalize)
    about = constants | size | {"class_names": list(network.info.class_names)}
    if network.dataset == ARRAYS:
        about["data"] = {
            "description": own_data("arrays", network.info.class_names),
            "image_shape": list(network.test.images.shape[1:]),
            # Tells the file again, of which a part was trained on.
            "test": identity(network.info, {"test": network.test})["splits"]["test"],
        }
    return about


if __name__ == "__main__":
    leave(main())
