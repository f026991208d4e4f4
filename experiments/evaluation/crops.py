"""`evaluate`: the error of a trained network on photographs, each seen once, in crops and scales of one's choice."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments.configs.base import ModelConfig
from experiments.configs.imagenet.fields import ImagenetConfig
from experiments.configs.named import network_text
from experiments.configs.programs import IMAGENET
from experiments.evaluation.classes import Names, match_classes, read_class_names
from experiments.evaluation.outputs import Subject, compiled, normalized, outputs, streamed_batches
from experiments.evaluation.report import QuestionOptions, answer, print_scores
from experiments.evaluation.scores import scores
from experiments.evaluation.trained import normalization_of, read_network
from experiments.inputs.photographs import (
    NORMALIZE,
    check_options,
    known_input,
    normalization,
    report_found,
    scales_for,
    streamed_evaluation,
)
from experiments.runtime.arguments import read_options, subject_first
from experiments.runtime.backend import prepare_backend
from experiments.runtime.files import write
from experiments.training.metric import TOP_ERROR
from experiments.training.workdir import Workdir, data_differences, is_run, read_saved_run
from resjax import create_model, from_pretrained, load_torch_weights, pretrained_info, train
from resjax.data.images import EvaluationImages, list_image_datasets, open_evaluation
from resjax.data.images.folder import ALL, HELD_OUT
from resjax.errors import InputError
from resjax.interop.torch_files import TORCH_SUFFIXES

_MOST_USED = (
    "data_dir", "dataset", "split", "eval_mode", "eval_size", "checkpoint", "batch_size", "report", "save",
    "class_names",
)  # fmt: skip
# Flags by the names of earlier versions; today's are those of training.
_EARLIER = {f"--{name}": f"--eval_{name}" for name in ("mode", "resize", "size", "scales")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(QuestionOptions):
    """Evaluates a network on the test images of a dataset, each exactly once."""

    of: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|NAME|FILE")]
    """A run of experiments.imagenet, by its workdir, or trained weights: a name of resjax.list_pretrained(); a folder
    of resjax.save_pretrained; or, with --model, a .safetensors or .pth file of PyTorch's weights."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which of the run's checkpoints."""
    model: str | None = None
    """Network of a file of weights, e.g. resnet_50."""
    weights_key: str | None = None
    """Of a file that holds several weights, raw and averaged ones, the key of those to take, e.g. state_dict."""
    dataset: str | None = None
    """imagenet2012, imagenette, imagenet_resized or folder; default: that of the run or weights, or imagenet2012."""
    data_dir: str | None = None
    """Folder of the images, if it is not where the run had it: with a folder `val` or `test`, or of class folders."""
    split: Literal["val", "test", "train", "held_out", "all"] | None = None
    """Which images of a folder; default: those that the run was tested on, or else val, test, or all that is there."""
    class_names: pathlib.Path | None = None
    """What the network's classes are called, in its order: one name a line, or JSON; for weights that say none."""
    eval_mode: Literal["centre", "ten_crops", "multi_scale"] = "centre"
    """What of an image is seen: one crop; corners and centre and their mirror images; squares over all of it at several
    scales."""
    eval_resize: int | None = None
    """Shorter side in pixels to which an image is resized; default: that of the run or the weights, or 256."""
    eval_size: int | None = None
    """Side in pixels of a crop; default: that of the run or the weights, or 224."""
    eval_scales: tuple[int, ...] | None = None
    """Shorter sides in pixels of multi_scale; default: the run's, or the paper's in proportion to --eval_size: 224,
    256, 384, 480 and 640 for 224."""
    batch_size: int = 64
    """Images in a step, over all devices."""
    workers: int | None = None
    """Processes that decode images; default: one for each core but one. 0 decodes in threads."""
    broken_images: Literal["skip", "fail"] = "skip"
    """Report a broken image and leave it out, or end."""
    save: pathlib.Path | None = None
    """Folder to save the weights of a finished run in, with a model card, for resjax.from_pretrained."""


def parse_evaluation(arguments: Sequence[str]) -> Evaluation:
    """The options of `evaluate`, from its command line."""
    program = "python -m experiments.imagenet evaluate"
    arguments = subject_first(program, arguments, ("--workdir", "--weights"), _EARLIER)
    return read_options(Evaluation, program, arguments, most_used=_MOST_USED)


def evaluate_photographs(options: Evaluation, console: Console) -> dict[str, Any]:
    """Evaluates; returns, and for a run also writes to WORKDIR/evaluation_MODE.json, what it found.

    What else is asked is answered, see `answer`.

    Raises:
      InputError: for a run, weights or images that cannot be read.
    """
    questions = options.questions(options.of, options.data_dir)
    config, make = _to_evaluate(options)
    check_options(config)
    prepare_backend((config.eval_batch_size,), config.compilation_cache)
    dataset = _open(options, config)
    report_found(dataset, config, console)
    model, variables, normalize, what, names = make(dataset.num_classes)
    if options.class_names is not None:
        names = read_class_names(options.class_names)
        if len(names) != model.num_classes:
            raise InputError(
                f"--class_names {options.class_names}: has {len(names)} names, the network {model.num_classes} classes"
            )
    classes = _classes(names, dataset, model.num_classes, what, console)
    pixels, size = np.shape(normalize.mean)[:-1], config.eval_size
    if pixels and pixels != (size, size):
        raise InputError(f"{what} subtracts a mean of {pixels} pixels; crops have {size}: give it that --eval_size")
    subject = _subject(options, config, dataset, (model, variables, normalize), classes, what, console)
    found = outputs(subject, questions.keep)
    measured = scores(found.logits, found.labels)
    result = {
        "of": what,
        "dataset": dataset.description,
        "mode": config.eval_mode,
        "split": dataset.split,
        "classes": dataset.num_classes,
        "images": len(found.labels),
        "test_accuracy": 1 - measured["test_error"] / 100,
        **measured,
    }
    console.print(
        f"{what}, {config.eval_mode}: {TOP_ERROR.describe(result)} of {result['images']:,} images",
        highlight=False,
    )
    print_scores(result, console)
    if is_of_run(options):
        file = Workdir(options.of).path / f"evaluation_{config.eval_mode}.json"
        try:
            write(file, result)
        except OSError as error:
            raise InputError(f"{file}: cannot be written: {error}") from None
    return answer(questions, subject, found, result, config.eval_batch_size, console)


def _subject(options, config, dataset, network, classes, what, console) -> Subject:
    """The network and the photographs, as a classifier of the classes that the images have."""
    model, variables, normalize = network
    chosen = slice(None) if classes is None else np.array(classes)
    flip = config.eval_mode != "centre"

    def of_crops(variables, views):
        return train.predict_crops(model, variables, views, normalize, flip, classes)

    def of_centre(variables, views):
        return model.apply(variables, normalize(*views), train=False)[:, chosen]

    def from_pixels(variables, pixels):
        return model.apply(variables, normalized(normalize, pixels), train=False)[:, chosen]

    def report(path, reason):
        console.print(f"broken: {path} ({reason}), left out", highlight=False, markup=False)

    data, batch_size = streamed_evaluation(dataset.images, config), config.eval_batch_size
    return Subject(
        what,
        dataset.class_names,
        jax.device_put(variables, train.replicated(train.data_mesh())),
        compiled(of_crops if flip else of_centre, batch_size),
        None if flip else from_pixels,
        lambda: streamed_batches(data, batch_size, report),
        -(-len(data) // batch_size),
        data.views[0].shape,
    )


def is_of_run(options: Evaluation) -> bool:
    """Whether the subject is a run. A folder that holds nothing to read is taken for one, and refused as such."""
    path = pathlib.Path(os.path.expanduser(options.of))
    return is_run(path) or (path.is_dir() and not (path / "config.json").exists())


def _to_evaluate(options: Evaluation):
    """The config to evaluate with, and num_classes -> (model, variables, normalization, what it is, class names)."""
    if is_of_run(options):
        saved = read_saved_run(options.of, IMAGENET)
        config, names = saved.config, _names_of_run(options.of)
        if given := [f"--{name}" for name in ("model", "weights_key") if getattr(options, name) is not None]:
            raise InputError(f"{', '.join(given)}: {options.of} is a run, which has its own")
        sizes = config.eval_resize, config.eval_size, config.eval_scales

        def make(num_classes):
            model = config.create_model(num_classes if names is None else len(names))
            variables, step = read_network(options.of, options.checkpoint, model)
            normalize = normalization(config, known_input(saved.data, options.of))
            return model, variables, normalize, f"{network_text(config.identity())}, step {step}", names

    else:
        about = {} if _is_file(options) else pretrained_info(options.of)
        config = ImagenetConfig(ModelConfig(options.model or ""))
        if about.get("dataset") in list_image_datasets():
            config = dataclasses.replace(config, dataset=about["dataset"])
        sizes = _sizes_of_weights(about, config)

        def make(num_classes):
            return _from_weights(options, num_classes)

    resize, size = options.eval_resize or sizes[0], options.eval_size or sizes[1]
    changes = {"dataset": options.dataset or config.dataset, "data_dir": options.data_dir or config.data_dir}
    changes |= {"eval_mode": options.eval_mode, "eval_resize": resize, "eval_size": size}
    changes |= {"eval_scales": options.eval_scales or scales_for(size, sizes[2])}
    changes |= {"eval_batch_size": options.batch_size, "batch_size": config.repeats * options.batch_size}
    changes |= {"broken_images": options.broken_images, "workers": options.workers}
    return dataclasses.replace(config, **changes), make


def _sizes_of_weights(about: Mapping[str, Any], default: ImagenetConfig) -> tuple[int, int, tuple[int, ...]]:
    """(resize, size, scales) of the images of weights that say it, else of a config."""
    size = about.get("size")
    side = size[0] if isinstance(size, (list, tuple)) and size else size
    if not isinstance(side, int) or not isinstance(crop := about.get("crop", 1.0), (int, float)) or not 0 < crop <= 1:
        return default.eval_resize, default.eval_size, default.eval_scales
    return round(side / crop), side, default.eval_scales


def _is_file(options: Evaluation) -> bool:
    path = pathlib.Path(os.path.expanduser(options.of))
    return path.is_file() or path.suffix in TORCH_SUFFIXES


def _from_weights(options: Evaluation, num_classes: int):
    """See `_to_evaluate`."""
    path = pathlib.Path(os.path.expanduser(options.of))
    if _is_file(options):
        if options.model is None:
            raise InputError(f"{path}: say with --model which network these weights are of")
        return *_read_torch(options, path, num_classes), NORMALIZE, path.name, None
    if given := [f"--{name}" for name in ("model", "weights_key") if getattr(options, name) is not None]:
        raise InputError(f"{', '.join(given)}: {options.of} says itself what network it holds")
    model, variables = from_pretrained(options.of)
    about = pretrained_info(options.of)
    names = [(str(name),) for name in about.get("class_names", ())] or None
    return model, variables, normalization_of(options.of, about, NORMALIZE), path.name, names


def _read_torch(options: Evaluation, path: pathlib.Path, num_classes: int):
    """A network and its weights from a file, which may have as many classes as the images, or as its paper's."""
    sizes = dict.fromkeys((num_classes, create_model(options.model).num_classes))
    if options.class_names is not None:
        sizes = [len(read_class_names(options.class_names))]
    failures = []
    for size in sizes:
        model = create_model(options.model, num_classes=size)
        try:
            return model, load_torch_weights(model, path, options.weights_key, report=print)
        except InputError as error:
            failures.append(error)
    raise failures[0]


def _names_of_run(workdir: str) -> Names | None:
    """The names of the classes of a run, in the order of its outputs; None where it does not say them."""
    data = read_saved_run(workdir, IMAGENET).data
    if data is None:  # earlier versions had them in the summary
        path = Workdir(workdir)
        data = path.read_summary() if path.is_finished() else {}
    names = data.get("class_names")
    return [(str(name),) for name in names] if names else None


def _open(options: Evaluation, config: ImagenetConfig) -> EvaluationImages:
    """The images: of a run's own data by default those that it was tested on, never those that it was trained on."""
    held_out = (config.validation_fraction, config.split_seed)
    where = (config.dataset, config.data_dir)
    if not is_of_run(options):
        return open_evaluation(*where, options.split, *held_out)
    saved = read_saved_run(options.of, IMAGENET)
    tested = (saved.data or {}).get("splits", {}).get("test", {})
    own = tested.get("split")
    places = [os.path.realpath(os.path.expanduser(place or "")) for place in (saved.config.data_dir, config.data_dir)]
    if places[0] == places[1] and config.dataset == saved.config.dataset and options.split in (None, own):
        return _as_tested(open_evaluation(*where, own, *held_out), tested, options.of)
    found = open_evaluation(*where, options.split, *held_out)
    if options.split == own == HELD_OUT:
        return _as_tested(found, tested, options.of)
    if own == HELD_OUT and found.split == ALL and options.split is None:
        # The folder that it was trained on may lie elsewhere now; one that cannot be divided is another.
        with contextlib.suppress(InputError):
            held_out = open_evaluation(*where, HELD_OUT, *held_out)
            if held_out.identity()["splits"]["test"]["fingerprint"] == tested["fingerprint"]:
                return held_out
    return found


def _as_tested(found: EvaluationImages, tested: Mapping[str, Any], workdir: str) -> EvaluationImages:
    """`found`, with a note where these are no longer the images that the run was tested on.

    Raises:
      InputError: where they were to be those that a division held out, and another one would take training images.
    """
    there, here = ({"splits": {"test images": part}} for part in (tested, found.identity()["splits"]["test"]))
    differing = "; ".join(data_differences(there, here)) if tested else ""
    if differing and found.split == HELD_OUT:
        raise InputError(
            f"{workdir}: its folder has changed since it was trained ({differing}), and the images held out of it now"
            " may be training images. Put the folder back as it was, or give images of their own with --data_dir"
        )
    if differing:
        note = f"{workdir}: these are not the images that it was tested on in training ({differing})"
        return dataclasses.replace(found, notes=(note, *found.notes))
    return found


def _classes(
    names: Names | None, dataset: EvaluationImages, num_classes: int, what: str, console: Console
) -> list[int] | None:
    """The outputs of the network for the classes of the images, in their order."""
    if names is not None:
        classes = match_classes(names, dataset.class_names, what)
        if len(classes) < num_classes:
            told = f"evaluated among the {len(classes)} classes of the images, of {num_classes} of the network"
            console.print(told, highlight=False)
        return classes
    if dataset.num_classes != num_classes:
        raise InputError(
            f"{what}: a network of {num_classes} classes that does not say what they are called; the images have"
            f" {dataset.num_classes}: say it with --class_names FILE, one name a line"
        )
    console.print(
        f"{what} does not say what its classes are called: taken in the order of the images' classes"
        f" ({', '.join(dataset.class_names[:4])}, ..); --class_names FILE says it",
        highlight=False,
    )
    return None
