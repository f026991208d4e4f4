"""What a network of masks gets wrong: the compiled pass over its test images that training makes, too."""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments.configs.named import network_text
from experiments.configs.programs import SEGMENTATION
from experiments.evaluation.trained import read_network
from experiments.inputs.masks import load_split, normalize, splits
from experiments.training.metric import MEAN_IOU
from experiments.training.workdir import read_saved_run
from resjax import train
from resjax.data import mask_dataset_info
from resjax.errors import InputError


def mean_iou_of_run(path: str, checkpoint: str, data_dir: str | None, batch_size: int) -> dict[str, Any]:
    """The mean IoU of a segmentation run on its test images, seen as its config says.

    Args:
      path: the workdir.
      checkpoint: "latest" or "best".
      data_dir: folder of the data; None is the run's own.
      batch_size: images in a step, over all devices.

    Returns:
      {"name", "dataset", "test_images", "test_loss", "test_accuracy", "test_mean_iou", "class_iou", "confusion"};
      accuracy in [0, 1], IoU in percent; of a class that is neither there nor predicted it is None. The confusion is
      of pixels by true and predicted class, int64 [K, K].

    Raises:
      InputError: where it is no segmentation run, its checkpoint or its data cannot be read, or the data have other
        classes; where `batch_size` is no multiple of the number of devices.
    """
    saved = read_saved_run(path, SEGMENTATION)
    config = dataclasses.replace(saved.config, data_dir=data_dir or saved.config.data_dir)
    info = mask_dataset_info(config.dataset, config.data_dir)
    if saved.data is not None and (known := list(saved.data["class_names"])) != list(info.class_names):
        raise InputError(
            f"{path} was trained on the classes {', '.join(known)}; the masks in {config.data_dir} are of"
            f" {', '.join(info.class_names)}: give masks of the same classes in the same order, see classes.txt"
        )
    test = load_split(config, splits(config)[1])
    model = config.create_model(info.num_classes)
    variables, step = read_network(path, checkpoint, model)
    eval_step = train.make_segmentation_eval_step(
        *(model, normalize, info.num_classes),
        scales=config.eval_scales,
        flip=config.eval_flip,
        window=config.eval_window,
    )
    mesh = train.data_mesh()
    train.check_batch_size(batch_size, mesh)
    evaluate = train.make_run_evaluation(eval_step, batch_size, mesh)
    resident = train.put_resident(test, mesh, batch_size)
    variables, zero = (train.put_whole(tree, mesh) for tree in (variables, train.PixelTotals.zero(info.num_classes)))
    images = len(test.images)
    totals = jax.device_get(evaluate(variables, zero, resident, images, 0, -(-images // batch_size)))
    record = MEAN_IOU.record(totals, "test")
    return {
        "name": f"{network_text(config.identity())} on {config.dataset}, step {step}",
        "dataset": info.description,
        "test_images": images,
        "test_loss": totals.mean_loss(),
        "test_accuracy": record["test_accuracy"],
        "test_mean_iou": record["test_mean_iou"],
        "class_iou": dict(zip(info.class_names, record["test_class_iou"], strict=True)),
        "confusion": np.asarray(totals.confusion, np.int64),
    }
