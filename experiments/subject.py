"""What is analysed: a trained network with its test images, loaded from a workdir or from a file of weights."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from experiments.cifar import as_rgb, preprocessing
from experiments.configs.base import Config, ModelConfig
from experiments.workdir import Workdir
from resjax import create_model, from_pretrained, load_torch_weights
from resjax.data import dataset_info, load_dataset
from resjax.errors import InputError
from resjax.models import Network, restack
from resjax.train import CheckpointError, read_variables


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained network and what it is tested on.

    Attributes:
      name: of the network and where it comes from, for titles.
      model, variables: the network.
      images: normalised test images, float32 [N, H, W, 3].
      labels: int32 [N].
      dataset: its name.
    """

    name: str
    model: Network
    variables: dict[str, Any]
    images: np.ndarray
    labels: np.ndarray
    dataset: str


def load_run(path: str, checkpoint: str, images: int, data_dir: str | None) -> Subject:
    """The network of a workdir, with the first `images` test images (0: all), normalised as in its training.

    Raises:
      InputError: where the folder holds no run, or no checkpoint that can be read.
    """
    config = read_config(path)
    info = dataset_info(config.dataset)
    model = create_model(config.model.name, num_classes=info.num_classes, **config.model_options())
    try:
        variables, step = read_variables(Workdir(path).checkpoints, best=checkpoint == "best")
    except CheckpointError as error:
        raise InputError(f"{path}: {error}") from None
    test, normalized = _test_images(config, images, data_dir)
    name = f"{config.model.name} on {config.dataset}, step {step}"
    return Subject(name, model, restack(variables, model.stacked_stages), normalized, test.labels, config.dataset)


def load_weights(name: str | None, weights: str, dataset: str, images: int, data_dir: str | None) -> Subject:
    """A network from a directory of `save_pretrained`, or `name` with a file of PyTorch's weights.

    Raises:
      InputError: where they do not fit, and for a network of another number of classes than the data set has.
    """
    info = dataset_info(dataset)
    if pathlib.Path(weights).is_dir():
        if name is not None:
            raise InputError(f"--model {name}: {weights} says itself what network it holds; leave --model out")
        model, variables = from_pretrained(weights)
        if model.num_classes != info.num_classes:
            raise InputError(
                f"--weights {weights}: a network of {model.num_classes} classes; {dataset} has {info.num_classes}"
            )
    else:
        if name is None:
            raise InputError(f"--weights {weights}: say with --model which network they are of")
        model = create_model(name, num_classes=info.num_classes)
        variables = load_torch_weights(model, weights)
    test, normalized = _test_images(Config(ModelConfig(name or ""), dataset=dataset), images, data_dir)
    label = f"{name or type(model).__name__} from {pathlib.Path(weights).name} on {dataset}"
    return Subject(label, model, variables, normalized, test.labels, dataset)


def read_config(path: str) -> Config:
    """The config of a workdir; raises InputError where there is none."""
    file = Workdir(path).path / "config.json"
    if not file.is_file():
        raise InputError(f"{path}: holds no config.json; give a workdir of experiments.cifar")
    try:
        return Config.from_identity(json.loads(file.read_text())["config"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} cannot be read as the config of a run: {error}") from None


def read_records(path: str) -> list[dict[str, Any]]:
    """The lines of a workdir's metrics.jsonl; raises InputError where there is none."""
    records = Workdir(path).records()
    if not records:
        raise InputError(f"{path}: no epoch of this run is complete, or it is no workdir of experiments.cifar")
    return records


def _test_images(config, images, data_dir):
    """The first test images as they are, and normalised; their mean image is that of the training images."""
    train, test = (as_rgb(load_dataset(config.dataset, split, data_dir)) for split in ("train", "test"))
    test = test._replace(images=test.images[: images or None], labels=test.labels[: images or None])
    return test, np.asarray(preprocessing(config, train.images)["normalize"](test.images))
