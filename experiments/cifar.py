"""Trains and evaluates a classifier of small images: `python -m experiments.cifar --config wrn_28_10`."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from rich.console import Console

from experiments.backend import prepare_backend
from experiments.command_line import changed_fields, parse
from experiments.configs.base import Config
from experiments.configs.cifar import CONFIGS
from experiments.configs.named import NamedConfig
from experiments.dry_run import print_dry_run
from experiments.engine import Engine, TrainingError
from experiments.environment import describe_devices
from experiments.exit_codes import exit_code
from experiments.image_splits import input_channels, load_splits, training_size
from experiments.measure import TEST_ERROR
from experiments.processes import join_processes
from experiments.recipe import build_optimizer, check_sizes, check_values, open_workdir
from experiments.scaling import print_scaling_report
from experiments.seeds import (
    check_seeds,
    describe_group,
    does_not_fit,
    finished_seeds,
    outcome,
    plan_seeds,
    print_fit,
    seeds_of,
)
from experiments.summary import summarize
from experiments.task import Task
from resjax import create_model, train
from resjax.data import dataset_info
from resjax.data.augment import Normalization, alternation, augment
from resjax.data.whitening import ContrastNormalization, Whitening, patch_whitening
from resjax.models import SpeedResNet, parameter_count

PROGRAM = "python -m experiments.cifar"

# Images whose patches are whitened, as in airbench94.
_WHITENED = 5000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code, see `exit_code`."""

    def command():
        name, named, config = parse(PROGRAM, CONFIGS, sys.argv[1:] if arguments is None else arguments)
        run(name, named, config, Console(soft_wrap=True))

    return exit_code(command)


def run(name: str, named: NamedConfig, config: Config, console: Console) -> list[dict[str, Any]]:
    """Trains as `config` says; returns the summary of each seed, which its workdir has, too; none after a dry run.

    Raises:
      InputError: before any work, for a value that cannot be used.
      TrainingError, Interrupted: see `experiments.engine.Engine.run`.
    """
    info = dataset_info(config.dataset)
    train_images = training_size(config)
    check_sizes(config, train_images)
    check_seeds(config)
    processes = join_processes(config)
    prepare_backend((config.batch_size, config.eval_batch_size), config.compilation_cache, processes)
    console.quiet = jax.process_index() > 0
    check_seeds(config, processes)
    check_values(config, train_images)
    model, optimizer, schedule = build(config, info.num_classes, train_images)
    image_shape = (*info.image_shape[:2], input_channels(config.dataset, config.model.name))
    if config.dry_run:
        print_dry_run(config, model, optimizer, schedule, image_shape, train_images, console)
        if config.seeds > 1:
            print_fit(config, model, optimizer, image_shape, train_images, console)
        return []
    changed, seeds = changed_fields(named, config), seeds_of(config)
    workdir = open_workdir(name, config, changed, console, seeds)
    parameters = parameter_count(model, image_shape)
    # Of another network there is nothing to compare with.
    published = None if any(key.startswith("model.") for key in changed) else named.published_for(config.dataset)
    console.print(f"{config.model.name}, {parameters:,} parameters, on {info.description}", highlight=False)
    console.print(f"workdir {workdir.path}, devices {describe_devices()}", highlight=False)
    train_data, validation_data, test_data = load_splits(config)
    if len(train_data.images) != train_images:  # a TFDS directory that was prepared with fewer
        check_values(config, len(train_data.images))
        model, optimizer, schedule = build(config, info.num_classes, len(train_data.images))
    label = "" if published is None else f"published {published.test_error:.2f} % ({published.statistic})"
    prepared = preprocessing(config, train_data.images)
    task = Task(
        model=whitened(model, prepared["normalize"], train_data.images),
        optimizer=optimizer,
        schedule=schedule,
        **prepared,
        train_data=train_data,
        test_data=test_data,
        validation_data=validation_data,
        title=f"{name}: {config.model.name} on {config.dataset}, {config.epochs} epochs",
        published=published.test_error if published else None,
        published_label=label,
        objective=train.classification(config.label_smoothing),
    )
    if config.scaling_report:
        print_scaling_report(config, task, console)
        return []
    workdir.make()
    about = {
        "published": dataclasses.asdict(published) if published else None,
        "parameters": parameters,
        "train_images": len(train_data.images),
        "validation_images": config.validation_images,
        "test_images": len(test_data.images),
    }

    def train_together(group):
        """Trains seeds, None: the config's alone; returns the summary of each."""
        engine = Engine(config, task, workdir, config.resolved(name), console, seeds=group)
        try:
            engine.run()
        except jax.errors.JaxRuntimeError as error:
            if group is None or len(group) == 1 or "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise TrainingError(does_not_fit(error, group, workdir)) from error
        summaries = {}
        for each in engine.runs:
            own = dataclasses.replace(config, seed=each.seed)
            told = (PROGRAM, name, named, own, changed_fields(named, own), each.records, each.workdir, TEST_ERROR)
            summaries[each.seed] = summarize(*told, info.description) | about
            each.workdir.write_summary(summaries[each.seed])
        return summaries

    if seeds is None:
        summaries = list(train_together(None).values())
    else:
        found = {seed: workdir.of_seed(seed).read_summary() for seed in finished_seeds(seeds, workdir)}
        for group in plan_seeds(config, model, optimizer, image_shape, len(train_data.images), workdir, console):
            console.print(describe_group(group), highlight=False)
            found |= train_together(group)
        summaries = [found[seed] for seed in seeds]
    compared = f"; {label}" if label else ""
    compared += f" (with changed {', '.join(changed)})" if label and changed else ""
    best = "chosen" if validation_data else "best"
    if seeds:
        text = f"{outcome(summaries, best)}{compared}. Runs: {workdir.path}"
    else:
        (summary,) = summaries
        text = (
            f"final test error {summary['final_test_error']:.2f}%, {best} {summary['best_test_error']:.2f}% after epoch"
            f" {summary['best_epoch']}{compared}. Curves: {workdir.curves}"
        )
    console.print(text, highlight=False)
    return summaries


def build(
    config: Config, num_classes: int, train_images: int
) -> tuple[nn.Module, optax.GradientTransformation, optax.Schedule]:
    """The network, the optimizer and the learning-rate schedule of a config."""
    model = create_model(config.model.name, num_classes=num_classes, **config.model_options())
    return model, *build_optimizer(config, train_images)


def normalization(config: Config, train_images: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    """What a config's network takes of uint8 images; statistics are those of train_images, uint8 [N, H, W, C]."""
    match config.normalization:
        case "mean_std" | "cifar10_mean_std":
            info = dataset_info("cifar10" if config.normalization == "cifar10_mean_std" else config.dataset)
            return Normalization(jnp.asarray(info.mean, jnp.float32), jnp.asarray(info.std, jnp.float32))
        case "gcn":
            return ContrastNormalization()
        case "gcn_mean":
            return ContrastNormalization.fit(train_images)
        case "scale_256":
            channels = train_images.shape[-1]
            return Normalization(jnp.zeros(channels, jnp.float32), jnp.full(channels, 256, jnp.float32))
        case "gcn_zca":
            return Whitening.fit(train_images)
    mean = train_images.mean(0, dtype=np.float64)
    std = 1.0 if config.normalization == "per_pixel_mean" else train_images.std(dtype=np.float64)
    return Normalization(jnp.asarray(mean, jnp.float32), jnp.asarray([std] * train_images.shape[-1], jnp.float32))


def preprocessing(config: Config, train_images: np.ndarray) -> dict[str, Any]:
    """`normalize`, `prepare` and `steps_per_epoch` of a config's `Task`; train_images is uint8 [N, H, W, C]."""
    info = dataset_info(config.dataset)
    normalize = normalization(config, train_images)

    def prepare(key, images, labels, epoch=None):
        mirrored = None if epoch is None else alternation(images, epoch)
        return augment(key, normalize(images), labels, info.num_classes, config.augmentation, mirrored)

    steps_per_epoch = len(train_images) // config.batch_size if config.augmentation.alternating_flip else None
    return {"normalize": normalize, "prepare": prepare, "steps_per_epoch": steps_per_epoch}


def whitened(model: nn.Module, normalize: Callable[[jax.Array], jax.Array], train_images: np.ndarray) -> nn.Module:
    """A network whose stem whitens patches with that of the training images, uint8 [N, H, W, C]; others as they are."""
    if not isinstance(model, SpeedResNet):
        return model
    kernel = jnp.asarray(patch_whitening(np.asarray(normalize(train_images[:_WHITENED]))))
    return model.clone(whitening_init=lambda key, shape, dtype: kernel.astype(dtype))


if __name__ == "__main__":
    sys.exit(main())
