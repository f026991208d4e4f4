"""`evaluate`: the error of a trained network on photographs, each seen once, in crops and scales of one's choice."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments.backend import prepare_backend
from experiments.configs.imagenet_fields import ImagenetConfig, ImagenetModelConfig
from experiments.feeds import StreamedImages
from experiments.imagenet import NORMALIZE, check_options, eval_views, report_found
from experiments.measure import TOP_ERROR
from experiments.subject import normalization_of
from experiments.workdir import Workdir
from resjax import create_model, from_pretrained, load_torch_weights, pretrained_info, train
from resjax.data.images import default_workers, open_images
from resjax.errors import InputError
from resjax.models import restack


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluates a network on the test images of a dataset, each exactly once."""

    workdir: str | None = None
    """Folder of a run of experiments.imagenet; or give --weights."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which of the run's checkpoints."""
    weights: str | None = None
    """A folder of resjax.save_pretrained, or with --model a .safetensors or .pth file of PyTorch's weights."""
    model: str | None = None
    """Name of the network that a file of weights is of."""
    dataset: str | None = None
    """Of a run, its own; otherwise imagenet2012, imagenette, imagenet_resized or folder."""
    data_dir: str | None = None
    """Folder of the images, if it is not where the run had it."""
    mode: Literal["centre", "ten_crops", "multi_scale"] = "centre"
    """One crop; corners and centre and their mirror images; squares over the whole image at several scales."""
    resize: int | None = None
    """Shorter side in pixels to which an image is resized; default: the run's, or 256."""
    size: int | None = None
    """Side in pixels of a crop; default: the run's, or 224."""
    scales: tuple[int, ...] = (224, 256, 384, 480, 640)
    """Shorter sides in pixels of multi_scale."""
    batch_size: int = 64
    """Images in a step, over all devices."""
    workers: int | None = None
    """Processes that decode images; default: one for each core but one. 0 decodes in threads."""
    broken_images: Literal["skip", "fail"] = "skip"
    """Report a broken image and leave it out, or end."""


def evaluate(arguments: Sequence[str], console: Console) -> dict[str, Any]:
    """Runs `evaluate`; returns, and for a run also writes to WORKDIR/evaluation_MODE.json, what it found.

    Raises:
      InputError: for a run, weights or images that cannot be read.
    """
    program = "python -m experiments.imagenet evaluate"
    options = tyro.cli(Evaluation, prog=program, args=list(arguments), use_underscores=True)
    config, make = _subject(options)
    check_options(config)
    prepare_backend((config.eval_batch_size,), config.compilation_cache)
    dataset = open_images(config.dataset, config.data_dir, config.validation_share, config.split_seed)
    report_found(dataset, config, console)
    model, variables, normalize, what = make(dataset.num_classes)
    pixels, size = np.shape(normalize.mean)[:-1], config.eval_size
    if pixels and pixels != (size, size):
        raise InputError(f"{what} subtracts a mean of {pixels} pixels; crops have {size}: give it that --size")
    mesh = train.data_mesh()
    train.check_batch_size(config.eval_batch_size, mesh)
    whole = train.replicated(mesh)
    variables = jax.device_put(variables, whole)
    eval_step = train.make_crops_eval_step(model, normalize, flip=config.eval_mode != "centre")
    evaluate_batch = train.make_evaluate_batch(eval_step, mesh)
    workers = default_workers() if config.workers is None else config.workers
    data = StreamedImages(dataset.test, eval_views(config), workers, skip_broken=config.broken_images == "skip")

    def report(path, reason):
        console.print(f"broken: {path} ({reason}), left out", highlight=False, markup=False)

    totals = jax.device_put(train.TopTotals.zero(), whole)
    with data.stream(config.eval_batch_size, None, 0, mesh, report) as batches:
        for _ in range(-(-len(data) // config.eval_batch_size)):
            totals = evaluate_batch(variables, totals, *next(batches))
        totals = jax.device_get(totals)
    if not totals.images:
        raise InputError("every test image is broken")
    result = {
        "of": what,
        "dataset": dataset.description,
        "mode": config.eval_mode,
        "images": int(totals.images),
        "test_loss": totals.mean_loss(),
        **TOP_ERROR.record(totals, "test"),
    }
    console.print(
        f"{what}, {config.eval_mode}: error {result['test_error']:.2f}% (top 5: {result['test_top5_error']:.2f}%) of"
        f" {result['images']:,} images",
        highlight=False,
    )
    if options.workdir is not None:
        file = Workdir(options.workdir).path / f"evaluation_{config.eval_mode}.json"
        try:
            file.write_text(json.dumps(result, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"{file}: cannot be written: {error}") from None
    return result


def _subject(options: Evaluation):
    """The config to evaluate with, and num_classes -> (model, variables, normalization, what it is)."""
    if (options.workdir is None) == (options.weights is None):
        raise InputError("give --workdir, a run of experiments.imagenet, or --weights: one of them")
    if options.workdir is None:
        config = ImagenetConfig(ImagenetModelConfig(options.model or ""))
        changes = {"dataset": options.dataset or config.dataset}

        def make(num_classes):
            return _from_weights(options, num_classes)

    else:
        config, run_options = _read_run(options.workdir)
        changes = {"dataset": options.dataset or config.dataset, "data_dir": run_options.get("data_dir")}

        def make(num_classes):
            model = create_model(config.model.name, num_classes=num_classes, **config.model_options())
            try:
                read = train.read_variables(Workdir(options.workdir).checkpoints, best=options.checkpoint == "best")
            except train.CheckpointError as error:
                raise InputError(f"--workdir {options.workdir}: {error}") from None
            variables, step = read
            return model, restack(variables, model.stacked_stages), NORMALIZE, f"{config.model.name}, step {step}"

    changes |= {"data_dir": options.data_dir or changes.get("data_dir"), "workers": options.workers}
    changes |= {"eval_mode": options.mode, "eval_scales": options.scales, "eval_batch_size": options.batch_size}
    changes |= {"broken_images": options.broken_images, "batch_size": config.repeats * options.batch_size}
    changes |= {"eval_resize": options.resize or config.eval_resize, "eval_size": options.size or config.eval_size}
    return dataclasses.replace(config, **changes), make


def _from_weights(options: Evaluation, num_classes: int):
    path, normalize = pathlib.Path(options.weights).expanduser(), NORMALIZE
    if path.is_dir():
        if options.model is not None:
            raise InputError(f"--model {options.model}: {path} says itself what network it holds; leave --model out")
        model, variables = from_pretrained(path)
        normalize = normalization_of(options.weights, pretrained_info(path), NORMALIZE)
    elif options.model is None:
        raise InputError(f"--weights {path}: say with --model which network they are of")
    else:
        model = create_model(options.model, num_classes=num_classes)
        variables = load_torch_weights(model, path)
    if model.num_classes != num_classes:
        raise InputError(f"--weights {path}: a network of {model.num_classes} classes; the images have {num_classes}")
    return model, variables, normalize, path.name


def _read_run(path: str) -> tuple[ImagenetConfig, dict[str, Any]]:
    file = Workdir(path).path / "config.json"
    if not file.is_file():
        raise InputError(f"--workdir {path}: holds no config.json; give a workdir of experiments.imagenet")
    try:
        saved = json.loads(file.read_text())
        return ImagenetConfig.from_identity(saved["config"]), saved["run_options"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} cannot be read as the config of a run on photographs: {error}") from None
