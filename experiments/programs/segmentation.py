"""Training of segmentation networks."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from experiments.configs.programs import PROGRAMS, SEGMENTATION
from experiments.configs.segmentation import SegmentationConfig
from experiments.inputs.masks import check_labels, check_options, check_pixels, load_splits, normalize, splits
from experiments.launch.run import Program, Sources
from experiments.training.metric import MEAN_IOU
from experiments.training.task import Task
from resjax import train
from resjax.data import mask_dataset_info
from resjax.data.augment.masks import augment_with_masks


class Segmentation(Program):
    """Images with masks, all in memory."""

    name, configs, metric = SEGMENTATION, PROGRAMS[SEGMENTATION], MEAN_IOU

    def expected(self, config: SegmentationConfig) -> None:
        check_options(config)

    def open(self, config: SegmentationConfig, console) -> Sources:
        info = mask_dataset_info(config.dataset, config.data_dir)
        data = load_splits(config)
        check_pixels(config, *data)
        for note in check_labels(config, *data):
            console.print(note, highlight=False)
        side = config.augmentation.crop
        shape = (side, side, 3) if side else data[0].images.shape[1:]
        images = {"train_images": len(data[0].images), "test_images": len(data[1].images)}
        parts = {split: part.identity(info.num_classes) for split, part in zip(splits(config), data, strict=True)}
        identity = {"class_names": list(info.class_names), "splits": parts}
        known = {"data": (info, *data), "identity": identity}
        return Sources(info.description, info.num_classes, image_shape=shape, **images, **known)

    def task(self, config: SegmentationConfig, sources, model, optimizer, schedule, console) -> Task:
        info, train_data, test_data = sources.data
        hard = "train (augmented), hard pixels only"
        return Task(
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            prepare=lambda key, images, masks, sizes: augment_with_masks(
                key, normalize(images, sizes), masks, sizes, config.augmentation
            ),
            normalize=normalize,
            train_data=train_data,
            test_data=test_data,
            metric=dataclasses.replace(MEAN_IOU, training_loss=hard) if config.ohem_threshold else MEAN_IOU,
            objective=train.segmentation(
                info.num_classes,
                config.model.get("output_stride") if config.coarse_loss else 1,
                config.ohem_threshold,
                config.ohem_min_pixels,
            ),
            make_eval_step=functools.partial(
                train.make_segmentation_eval_step,
                num_classes=info.num_classes,
                scales=config.eval_scales,
                flip=config.eval_flip,
                window=config.eval_window,
            ),
            zero=train.PixelTotals.zero(info.num_classes),
        )

    def summary(self, sources, record) -> dict[str, Any]:
        class_names = sources.data[0].class_names
        return {
            "class_iou": dict(zip(class_names, record["test_class_iou"], strict=True)),
            "pixel_accuracy": record["test_accuracy"],
        }

    def remarks(self, summary: Mapping[str, Any]):
        table = Table(box=None, pad_edge=False)
        table.add_column("class")
        table.add_column("IoU %", justify="right")
        for name, iou in summary["class_iou"].items():
            table.add_row(name, "-" if iou is None else f"{iou:.2f}")
        judged = [name for name, iou in summary["class_iou"].items() if iou is not None]
        if len(judged) < len(summary["class_iou"]):
            table.caption = f"the mean is over {len(judged)} of {len(summary['class_iou'])} classes"
        return table, f"overlays: {self.name} predict {summary['workdir']}"
