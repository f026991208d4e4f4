"""Training and evaluation of classifiers of photographs."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from experiments.configs.imagenet.fields import ImagenetConfig
from experiments.configs.programs import IMAGENET, PROGRAMS
from experiments.evaluation.crops import evaluate_photographs, is_of_run, parse_evaluation
from experiments.inputs.photographs import (
    check_options,
    normalization,
    report_found,
    streamed_evaluation,
    streamed_training,
)
from experiments.launch.run import Program, Sources
from experiments.reports.saved_weights import facts_to_save, save_run
from experiments.training.metric import TOP_ERROR, error_metric
from experiments.training.task import Task
from resjax import train
from resjax.data.augment.photographs import augment_photos
from resjax.data.images import image_dataset_info, open_images
from resjax.errors import InputError

# Batches on the device at once: the waiting ones and the one in use.
_RESIDENT_BATCHES = 4


class Imagenet(Program):
    """Photographs, decoded during training."""

    name, configs, metric = IMAGENET, PROGRAMS[IMAGENET], TOP_ERROR

    def expected(self, config: ImagenetConfig) -> Sources | None:
        known = image_dataset_info(config.dataset)
        check_options(config)
        return None if known is None else self._sources(config, config.dataset, known.num_classes, known.train_images)

    def open(self, config: ImagenetConfig, console) -> Sources:
        dataset = open_images(config.dataset, config.data_dir, config.validation_fraction, config.split_seed)
        report_found(dataset, config, console)
        return self._sources(config, dataset.description, dataset.num_classes, len(dataset.train), dataset)

    def _sources(self, config, description, num_classes, train_images, dataset=None) -> Sources:
        shape = (config.image_size, config.image_size, 3)
        resident = _RESIDENT_BATCHES * config.batch_size
        test_images = None if dataset is None else len(dataset.test)
        identity = None if dataset is None else dataset.identity()
        return Sources(description, num_classes, train_images, shape, resident, test_images, dataset, identity)

    def task(self, config: ImagenetConfig, sources, model, optimizer, schedule, console) -> Task:
        dataset, num_classes, normalize = sources.data, sources.num_classes, normalization(config)
        if dataset is None:  # only shapes are needed
            images = np.zeros((config.batch_size, *sources.image_shape), np.uint8)
            data = dict.fromkeys(("train_data", "test_data"), (images, np.zeros(config.batch_size, np.int32)))
        else:
            data = {
                "train_data": streamed_training(dataset, config),
                "test_data": streamed_evaluation(dataset.test, config),
            }
        return Task(
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            prepare=lambda key, images, labels: augment_photos(
                key, images, labels, num_classes, normalize, config.augmentation
            ),
            normalize=normalize,
            **data,
            metric=error_metric(num_classes),
            objective=train.top_classification(config.label_smoothing),
            make_eval_step=functools.partial(train.make_crops_eval_step, flip=config.eval_mode != "centre"),
            zero=train.TopTotals.zero(),
        )

    def summary(self, sources, record):
        top5 = {f"final_{key}": record[key] for key in ("test_top5_error",) if key in record}
        return top5 | {"class_names": list(sources.data.class_names)}


def evaluate(arguments: Sequence[str], console: Console) -> dict[str, Any]:
    """Runs `evaluate`; returns what it found, and saves the weights if `--save` is given."""
    options = parse_evaluation(arguments)
    if options.save is None:
        return evaluate_photographs(options, console)
    if not is_of_run(options):
        raise InputError(f"--save {options.save}: {options.of} is no run; only those are saved with a card")
    if options.dataset is not None or options.split is not None:
        raise InputError(
            "--save: weights are saved with the error on their own test images; leave out --dataset, --split"
        )
    facts = facts_to_save(options.save, options.of, options.checkpoint)
    result = evaluate_photographs(options, console)
    save_run(options.save, options.of, options.checkpoint, facts, result, console)
    return result
