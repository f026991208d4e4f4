"""Trains and evaluates a classifier of photographs: `python -m experiments.imagenet --config resnet_50`."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.backend import prepare_backend
from experiments.command_line import changed_fields, parse
from experiments.configs.imagenet import CONFIGS
from experiments.configs.imagenet_fields import ImagenetConfig, NamedImagenet
from experiments.dry_run import print_dry_run
from experiments.engine import Engine
from experiments.environment import describe_devices
from experiments.exit_codes import exit_code
from experiments.feeds import StreamedImages
from experiments.measure import TOP_ERROR
from experiments.processes import join_processes
from experiments.recipe import build_optimizer, check_sizes, check_values, open_workdir
from experiments.scaling import print_scaling_report
from experiments.summary import summarize
from experiments.task import Task
from resjax import create_model, train
from resjax.data.augment import Normalization
from resjax.data.augment_photos import augment_photos
from resjax.data.images import (
    CentreCrop,
    FiveCrops,
    ImageDataset,
    RandomResizedCrop,
    RandomScaleCrop,
    ThreeSquares,
    View,
    default_workers,
    image_dataset_info,
    open_images,
)
from resjax.errors import InputError
from resjax.models import parameter_count

PROGRAM = "python -m experiments.imagenet"
# Of ImageNet's images, on the 0-255 scale (fb.resnet.torch).
NORMALIZE = Normalization(np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375]))
# Batches of images on the device at once: those that wait, and the one in use.
_RESIDENT_BATCHES = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code, see `exit_code`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(soft_wrap=True)

    def command():
        if arguments[:1] == ["evaluate"]:
            from experiments.evaluate_photos import evaluate

            evaluate(arguments[1:], console)
            return
        name, named, config = parse(PROGRAM, CONFIGS, arguments, print_configs)
        run(name, named, config, console)

    return exit_code(command)


def run(name: str, named: NamedImagenet, config: ImagenetConfig, console: Console) -> dict[str, Any] | None:
    """Trains as `config` says; returns the summary, which is also written to the workdir, or None after a dry run.

    Raises:
      InputError: before training, for a value or a folder that cannot be used; during it, for a broken image with
        `broken_images` at "fail".
      TrainingError, Interrupted: see `experiments.engine.Engine.run`.
    """
    known = image_dataset_info(config.dataset)
    check_options(config)
    prepare_backend((config.batch_size, config.eval_batch_size), config.compilation_cache, join_processes(config))
    console.quiet = jax.process_index() > 0
    image_shape = (config.image_size, config.image_size, 3)
    if config.dry_run and known is not None:
        dry_run(config, known.num_classes, known.train_images, image_shape, console)
        return None
    dataset = open_images(config.dataset, config.data_dir, config.validation_share, config.split_seed)
    report_found(dataset, config, console)
    train_images = len(dataset.train)
    check_values(config, train_images)
    if config.dry_run:
        dry_run(config, dataset.num_classes, train_images, image_shape, console)
        return None
    model, optimizer, schedule = build(config, dataset.num_classes, train_images)
    changed = changed_fields(named, config)
    workdir = open_workdir(name, config, changed, console)
    parameters = parameter_count(model, image_shape)
    # Of another network, or other images, there is nothing to compare with.
    other = config.dataset != "imagenet2012" or any(key.startswith("model.") for key in changed)
    published = None if other else named.published
    console.print(f"{config.model.name}, {parameters:,} parameters, on {dataset.description}", highlight=False)
    console.print(f"workdir {workdir.path}, devices {describe_devices()}", highlight=False)
    label = "" if published is None else f"published {published.test_error:.2f} % ({published.statistic})"
    skip = config.broken_images == "skip"
    workers = default_workers() if config.workers is None else config.workers
    task = Task(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        prepare=lambda key, images, labels: augment_photos(
            key, images, labels, dataset.num_classes, NORMALIZE, config.augmentation
        ),
        normalize=NORMALIZE,
        train_data=StreamedImages(dataset.train, (train_view(config),), workers, config.repeats, skip),
        test_data=StreamedImages(dataset.test, eval_views(config), workers, skip_broken=skip),
        title=f"{name}: {config.model.name} on {config.dataset}, {config.epochs} epochs",
        published=published.test_error if published else None,
        published_label=label,
        measure=TOP_ERROR,
        objective=train.top_classification(config.label_smoothing),
        eval_step=train.make_crops_eval_step(model, NORMALIZE, flip=config.eval_mode != "centre"),
        zero=train.TopTotals.zero(),
    )
    if config.scaling_report:
        blank = (np.zeros((config.batch_size, *image_shape), np.uint8), np.zeros(config.batch_size, np.int32))
        print_scaling_report(config, dataclasses.replace(task, train_data=blank, test_data=blank), console)
        return None
    workdir.make()
    engine = Engine(config, task, workdir, config.resolved(name), console)
    engine.run()
    summary = summarize(
        PROGRAM, name, named, config, changed, engine.records, workdir, TOP_ERROR, dataset.description
    ) | {
        "final_test_top5_error": engine.records[-1]["test_top5_error"],
        "published": dataclasses.asdict(published) if published else None,
        "parameters": parameters,
        "class_names": list(dataset.class_names),
        "train_images": train_images,
        "test_images": len(dataset.test),
        "eval_mode": config.eval_mode,
    }
    workdir.write_summary(summary)
    compared = f"; {label}" if label else ""
    compared += f" (with changed {', '.join(changed)})" if label and changed else ""
    console.print(
        f"final test error {summary['final_test_error']:.2f}% (top 5: {summary['final_test_top5_error']:.2f}%), best"
        f" {summary['best_test_error']:.2f}% after epoch {summary['best_epoch']}{compared}. Curves: {workdir.curves}",
        highlight=False,
    )
    return summary


def check_options(config: ImagenetConfig) -> None:
    """Raises InputError for numbers that no run on photographs can have."""
    if config.workers is not None and config.workers < 0:
        raise InputError(f"--workers: expected a number >= 0, got {config.workers}")
    if config.repeats < 1 or config.batch_size % config.repeats:
        raise InputError(f"--repeats: expected a divisor of the batch size {config.batch_size}, got {config.repeats}")
    if not config.eval_scales or not all(scale > 0 for scale in config.eval_scales):
        raise InputError(f"--eval_scales: expected positive numbers, got {config.eval_scales}")
    train_view(config)
    eval_views(config)


def dry_run(config: ImagenetConfig, num_classes: int, train_images: int, image_shape, console: Console) -> None:
    """Prints what a run would cost."""
    check_sizes(config, train_images)
    model, optimizer, schedule = build(config, num_classes, train_images)
    resident = _RESIDENT_BATCHES * config.batch_size
    print_dry_run(config, model, optimizer, schedule, image_shape, train_images, console, resident)


def report_found(dataset: ImageDataset, config: ImagenetConfig, console: Console) -> None:
    """Says what is peculiar to the images that were found; raises InputError for one that is none, if it is to."""
    for note in dataset.notes:
        console.print(note, highlight=False, markup=False)
    for path, reason in dataset.broken:
        if config.broken_images == "fail":
            raise InputError(f"{path}: broken image ({reason}); mend or remove it, or use --broken_images skip")
        console.print(f"broken: {path} ({reason}), left out", highlight=False, markup=False)


def build(config: ImagenetConfig, num_classes: int, train_images: int):
    """The network, the optimizer and the learning-rate schedule of a config."""
    model = create_model(config.model.name, num_classes=num_classes, **config.model_options())
    return model, *build_optimizer(config, train_images)


def train_view(config: ImagenetConfig) -> View:
    """What is seen of a training image."""
    if config.crop == "resized":
        return RandomResizedCrop(config.image_size, config.least_area)
    return RandomScaleCrop(config.image_size, config.shortest_side, config.longest_side)


def eval_views(config: ImagenetConfig) -> tuple[View, ...]:
    """What is seen of a test image."""
    if config.eval_mode == "multi_scale":
        return tuple(ThreeSquares(scale) for scale in config.eval_scales)
    crop = FiveCrops if config.eval_mode == "ten_crops" else CentreCrop
    return (crop(config.eval_resize, config.eval_size),)


def print_configs(program: str, configs: Mapping[str, NamedImagenet]) -> None:
    """Prints each config with parameters and published errors."""
    table = Table(
        title=f"{program} --config NAME [--field value ...]\n{program} evaluate --workdir DIR\n",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in ("config", "parameters", "published error %\ntop 1 / top 5", "of", "epochs", "recipe"):
        justify = "right" if column in ("parameters", "epochs") else "left"
        table.add_column(column, justify=justify, no_wrap=column not in ("recipe", "of"))
    for name, named in configs.items():
        result, error, statistic = named.published, "-", ""
        if result is not None:
            top5 = "-" if result.top5_error is None else f"{result.top5_error:.2f}"
            error, statistic = f"{result.test_error:.2f} / {top5}", result.statistic
        parameters = f"{named.facts.parameters:,}"
        table.add_row(name, parameters, error, statistic, str(named.config.epochs), named.source)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main())
