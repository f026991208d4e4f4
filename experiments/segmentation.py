"""Trains, evaluates and uses a segmentation network: `python -m experiments.segmentation --config quickstart`."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.backend import prepare_backend
from experiments.command_line import changed_fields, parse
from experiments.configs.segmentation import CONFIGS, NamedSegmentation, SegmentationConfig
from experiments.dry_run import print_dry_run
from experiments.engine import Engine
from experiments.environment import describe_devices
from experiments.exit_codes import exit_code
from experiments.measure import MEAN_IOU
from experiments.processes import join_processes
from experiments.recipe import build_optimizer, check_values, open_workdir
from experiments.scaling import print_scaling_report
from experiments.summary import summarize
from experiments.task import Task
from resjax import create_model, from_pretrained, load_torch_weights, pretrained_info, train
from resjax.data import MaskDataset, load_masks, mask_dataset_info
from resjax.data.augment_masks import augment_with_masks
from resjax.errors import InputError
from resjax.models import create_segmentation_model, load_trunk, parameter_count

PROGRAM = "python -m experiments.segmentation"
# Of ImageNet's images, on the 0-255 scale: what the trunks were trained with.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code, see `exit_code`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(soft_wrap=True)

    def command():
        if arguments[:1] == ["predict"]:
            from experiments.overlays import predict

            predict(arguments[1:], console)
            return
        name, named, config = parse(PROGRAM, CONFIGS, arguments, print_configs)
        run(name, named, config, console)

    return exit_code(command)


def run(name: str, named: NamedSegmentation, config: SegmentationConfig, console: Console) -> dict[str, Any] | None:
    """Trains as `config` says; returns the summary, which is also written to the workdir, or None after a dry run.

    Raises:
      InputError: before training, for a value or a file that cannot be used.
      TrainingError, Interrupted: see `experiments.engine.Engine.run`.
    """
    info = mask_dataset_info(config.dataset, config.data_dir)
    check_options(config)
    prepare_backend((config.batch_size, config.eval_batch_size), config.compilation_cache, join_processes(config))
    console.quiet = jax.process_index() > 0
    train_data, test_data = (
        load_masks(config.dataset, split, config.data_dir, config.longer_side) for split in splits(config)
    )
    train_images = len(train_data.images)
    check_values(config, train_images)
    check_pixels(config, train_data, test_data)
    model = build(config, info.num_classes)
    factors = train.learning_rate_factors(
        config.head_factor, config.optimizer.bias_factor, config.optimizer.scale_factor
    )
    optimizer, schedule = build_optimizer(config, train_images, factors)
    side = config.augmentation.crop
    image_shape = (side, side, 3) if side else train_data.images.shape[1:]
    if config.dry_run:
        print_dry_run(config, model, optimizer, schedule, image_shape, train_images, console)
        return None
    changed = changed_fields(named, config)
    workdir = open_workdir(name, config, changed, console)
    parameters = parameter_count(model, image_shape)
    console.print(f"{config.model.name}, {parameters:,} parameters, on {info.description}", highlight=False)
    console.print(f"workdir {workdir.path}, devices {describe_devices()}", highlight=False)
    is_published = named.published is not None and not any(key.startswith(("model.", "dataset")) for key in changed)
    label = f"published {named.published:.2f} % ({named.statistic})" if is_published else ""
    variables = start_variables(config, model, image_shape, console)
    hard = "train (augmented), hard pixels alone"
    task = Task(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        prepare=lambda key, images, masks, sizes: augment_with_masks(
            key, normalize(images, sizes), masks, sizes, config.augmentation
        ),
        normalize=normalize,
        train_data=train_data,
        test_data=test_data,
        title=f"{name}: {config.model.name} on {config.dataset}, {config.epochs} epochs",
        published=named.published if is_published else None,
        published_label=label,
        measure=dataclasses.replace(MEAN_IOU, training_loss=hard) if config.ohem_threshold else MEAN_IOU,
        objective=train.segmentation(
            info.num_classes,
            config.model.output_stride if config.coarse_loss else 1,
            config.ohem_threshold,
            config.ohem_least,
        ),
        eval_step=train.make_segmentation_eval_step(
            *(model, normalize, info.num_classes),
            scales=config.eval_scales,
            flip=config.eval_flip,
            window=config.eval_window,
        ),
        zero=train.PixelTotals.zero(info.num_classes),
        variables=variables,
    )
    if config.scaling_report:
        print_scaling_report(config, task, console)
        return None
    workdir.make()
    engine = Engine(config, task, workdir, config.resolved(name), console)
    engine.run()
    records = engine.records
    summary = summarize(PROGRAM, name, named, config, changed, records, workdir, MEAN_IOU, info.description) | {
        "published": {"mean_iou": named.published, "statistic": named.statistic} if is_published else None,
        "class_iou": dict(zip(info.class_names, records[-1]["test_class_iou"], strict=True)),
        "pixel_accuracy": records[-1]["test_accuracy"],
        "parameters": parameters,
        "train_images": train_images,
        "test_images": len(test_data.images),
    }
    workdir.write_summary(summary)
    console.print(class_table(summary["class_iou"]))
    console.print(
        f"final mean IoU {summary['final_test_mean_iou']:.2f}%, best {summary['best_test_mean_iou']:.2f}% after epoch"
        f" {summary['best_epoch']}{f'; {label}' if label else ''}. Curves: {workdir.curves}. Overlays: {PROGRAM}"
        f" predict --workdir {workdir.path}",
        highlight=False,
    )
    return summary


def splits(config: SegmentationConfig) -> tuple[str, str]:
    """The splits to train and to test on."""
    own = mask_dataset_info(config.dataset, config.data_dir).splits
    return config.train_split or own[0], config.test_split or own[1]


def check_options(config: SegmentationConfig) -> None:
    """Raises InputError for numbers that no segmentation run can have."""
    if not 0 <= config.ohem_threshold < 1:
        raise InputError(f"--ohem_threshold: expected a number in [0, 1), got {config.ohem_threshold}")
    for field in ("longer_side", "ohem_least", "head_factor", "eval_window"):
        if not getattr(config, field) >= 0:
            raise InputError(f"--{field}: expected a number >= 0, got {getattr(config, field)}")
    if not config.eval_scales or not all(scale > 0 for scale in config.eval_scales):
        raise InputError(f"--eval_scales: expected positive numbers, got {config.eval_scales}")
    if config.frozen_statistics and config.pretrained is None and not config.dry_run:
        raise InputError(
            "--pretrained is missing: this recipe normalises by the BN statistics of trained weights. Give them, or"
            " train from the start with --no_frozen_statistics"
        )


def check_pixels(config: SegmentationConfig, train_data: MaskDataset, test_data: MaskDataset) -> None:
    """Raises InputError where an epoch has more pixels than the confusion matrix can count, int32."""
    stride = config.model.output_stride if config.coarse_loss else 1
    side = config.augmentation.crop
    area = -((-side // stride) ** 2) if side else train_data.masks[0].size
    for what, pixels in (("training", len(train_data.masks) * area), ("test", test_data.masks.size)):
        if pixels >= 2**31:
            raise InputError(f"{what}: {pixels:,} pixels an epoch, more than 2**31 - 1 cannot be counted; use a part")


def build(config: SegmentationConfig, num_classes: int):
    """The network of a config."""
    return create_segmentation_model(
        config.model.name,
        num_classes,
        **config.model_options(),
        frozen_statistics=config.frozen_statistics,
        coarse_training=config.coarse_loss,
    )


def normalize(images: jax.Array, sizes: jax.Array) -> jax.Array:
    """uint8 images [N, H, W, 3] to float32; zero, the mean colour, behind the `sizes` [N, 2] of each."""
    normal = (images.astype(jnp.float32) - jnp.asarray(_MEAN)) / jnp.asarray(_STD)
    rows, columns = (jnp.arange(size) < sizes[:, axis, None] for axis, size in enumerate(images.shape[1:3]))
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], normal, 0)


def start_variables(config: SegmentationConfig, model, image_shape: tuple[int, int, int], console: Console) -> Any:
    """What training starts from: None, or new variables with the trunk of `--pretrained`."""
    if config.pretrained is None:
        return None
    path = pathlib.Path(config.pretrained).expanduser()
    if path.is_dir():
        _, classifier = from_pretrained(path)
        about = pretrained_info(path)
        if not all(np.array_equal(about.get(key, ours), ours) for key, ours in (("mean", _MEAN), ("std", _STD))):
            console.print(
                f"{path} takes images normalised otherwise; here they are by ImageNet's mean and std", highlight=False
            )
    else:
        classifier = load_torch_weights(create_model(config.model.name), path)
    variables = jax.jit(model.init)(jax.random.key(config.seed), np.zeros((1, *image_shape), np.float32))
    try:
        return load_trunk(variables, classifier)
    except InputError as error:
        raise InputError(f"--pretrained {path}: {error}") from None


def class_table(class_iou: Mapping[str, float | None]) -> Table:
    """IoU of each class."""
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("IoU %", justify="right")
    for name, iou in class_iou.items():
        table.add_row(name, "-" if iou is None else f"{iou:.2f}")
    return table


def print_configs(program: str, configs: Mapping[str, NamedSegmentation]) -> None:
    """Prints each config with parameters and published mean IoU."""
    table = Table(
        title=f"{program} --config NAME [--field value ...]\n{program} predict --workdir DIR\n",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in ("config", "dataset", "parameters", "published mean IoU %", "epochs", "recipe"):
        table.add_column(
            column, justify="right" if column in ("parameters", "epochs") else "left", no_wrap=column != "recipe"
        )
    for name, named in configs.items():
        published = "-" if named.published is None else f"{named.published:.2f}"
        config = named.config
        table.add_row(name, config.dataset, f"{named.parameters:,}", published, str(config.epochs), named.source)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main())
