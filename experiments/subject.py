"""What is analysed: a trained network with its test images, loaded from a workdir or from a file of weights."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cifar import normalization
from experiments.configs.base import Config
from experiments.image_splits import input_channels, load_splits, with_channels
from experiments.workdir import Workdir
from resjax import create_model, from_pretrained, load_torch_weights, pretrained_info
from resjax.data import Dataset, DatasetInfo, dataset_info, load_dataset
from resjax.data.augment import Normalization
from resjax.errors import InputError
from resjax.interop.torch_files import TORCH_SUFFIXES
from resjax.models import Network, restack
from resjax.train import CheckpointError, read_variables


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained network and what it is tested on.

    Attributes:
      name: of the network and where it comes from, for titles.
      model, variables: the network.
      test: uint8 images [N, H, W, 3] and int32 labels [N].
      normalize: what the network takes of uint8 images.
      dataset: its name.
    """

    name: str
    model: Network
    variables: dict[str, Any]
    test: Dataset
    normalize: Callable[[Any], jax.Array]
    dataset: str

    @functools.cached_property
    def images(self) -> np.ndarray:
        """The test images, normalised, float32 [N, H, W, 3]."""
        return np.asarray(self.normalize(self.test.images))

    @property
    def labels(self) -> np.ndarray:
        """Their labels, int32 [N]."""
        return self.test.labels


def load_run(path: str, checkpoint: str, images: int, data_dir: str | None) -> Subject:
    """The network of a workdir, with the first `images` test images (0: all), normalised as in its training.

    `data_dir` None is the run's own.

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
    splits = load_splits(config if data_dir is None else dataclasses.replace(config, data_dir=data_dir))
    normalize = normalization(config, splits.train.images)
    name = f"{config.model.name} on {config.dataset}, step {step}"
    variables = restack(variables, model.stacked_stages)
    return Subject(name, model, variables, _first(splits.test, images), normalize, config.dataset)


def load_weights(
    name: str | None,
    weights: str,
    dataset: str | None,
    images: int,
    data_dir: str | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Subject:
    """A network of `from_pretrained`, or `name` with a file of PyTorch's weights.

    `dataset` None is what the weights were trained on, where they say it, or CIFAR-10. Images, 0 .. 255, are normalised
    by `mean` and `std` or those that come with the weights, or else by those of the data set.

    Raises:
      InputError: where they do not fit, and for a network of another number of classes than the data set has.
    """
    about = {}
    if (mean is None) != (std is None):
        raise InputError("--mean and --std: give both, or neither")
    if mean is not None and not np.isfinite(mean).all():
        raise InputError(f"--mean: expected finite numbers, got {mean}")
    if std is not None and not all(0 < value < np.inf for value in std):
        raise InputError(f"--std: expected finite numbers > 0, got {std}")
    if name is not None:
        if pathlib.Path(weights).is_dir():
            raise InputError(f"--model {name}: {weights} says itself what network it holds; leave --model out")
        info = dataset_info(dataset or "cifar10")
        model = create_model(name, num_classes=info.num_classes)
        variables = load_torch_weights(model, weights)
    else:
        if pathlib.Path(weights).is_file() or weights.endswith((*TORCH_SUFFIXES, ".safetensors")):
            raise InputError(f"{weights}: say with --model which network these weights are of")
        (model, variables), about = from_pretrained(weights), pretrained_info(weights)
        info = dataset_info(dataset or about.get("dataset", "cifar10"))
        if model.num_classes != info.num_classes:
            raise InputError(f"{weights}: a network of {model.num_classes} classes; {info.name} has {info.num_classes}")
    if mean is not None:
        if name is None:
            raise InputError(f"--mean, --std: {weights} says itself what its images are normalised by; leave them out")
        about = {"mean": mean, "std": std}
    normalize = normalization_of(weights, about, info)
    label = f"{name or type(model).__name__} from {pathlib.Path(weights).name} on {info.name}"
    channels = input_channels(info.name, name or about.get("model"))
    test = _first(with_channels(load_dataset(info.name, "test", data_dir), channels), images)
    return Subject(label, model, variables, test, normalize, info.name)


def normalization_of(weights: str, about: Mapping[str, Any], default: DatasetInfo | Normalization) -> Normalization:
    """By `mean` and `std` of what weights say `about` themselves, or else of `default`.

    Raises:
      InputError: where they say what is no array of numbers.
    """
    try:
        return Normalization(
            *(jnp.asarray(about.get(key, getattr(default, key)), jnp.float32) for key in ("mean", "std"))
        )
    except (TypeError, ValueError):
        raise InputError(f"{weights}: mean and std are no arrays of numbers; save or download it again") from None


def read_config(path: str) -> Config:
    """The config of a workdir, with its data_dir; raises InputError where there is none."""
    file = Workdir(path).path / "config.json"
    if not file.is_file():
        raise InputError(f"{path}: holds no config.json; give a workdir of experiments.cifar")
    try:
        saved = json.loads(file.read_text())
        data_dir = saved.get("run_options", {}).get("data_dir")
        return dataclasses.replace(Config.from_identity(saved["config"]), data_dir=data_dir)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} cannot be read as the config of a run: {error}") from None


def read_records(path: str) -> list[dict[str, Any]]:
    """The lines of a workdir's metrics.jsonl; raises InputError where there is none."""
    records = Workdir(path).records()
    if not records:
        raise InputError(f"{path}: no epoch of this run is complete, or it is no workdir of experiments.cifar")
    return records


def _first(test: Dataset, images: int) -> Dataset:
    """The first test images, 0: all."""
    return Dataset(test.images[: images or None], test.labels[: images or None])
