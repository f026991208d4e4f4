"""What is analysed: a trained network with its test images, loaded from a workdir or from a file of weights."""

import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs.base import Config
from experiments.configs.imagenet.fields import ImagenetConfig
from experiments.configs.named import network_text
from experiments.configs.programs import CIFAR
from experiments.inputs.images import normalization
from experiments.inputs.photographs import known_input
from experiments.inputs.splits import (
    data_info,
    held_out,
    input_channels,
    load_splits,
    take,
    warn_of_training_images,
    with_channels,
)
from experiments.training.workdir import Workdir, data_differences, read_saved_run
from resjax import create_model, from_pretrained, load_torch_weights, pretrained_info
from resjax.data import Dataset, DatasetInfo, dataset_info, identity, load_dataset
from resjax.data.arrays.files import NAME as ARRAYS
from resjax.data.normalization import Normalization
from resjax.errors import InputError
from resjax.interop.torch_files import TORCH_SUFFIXES
from resjax.models import Network, restack
from resjax.train import CheckpointError, read_variables

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained network and what it is tested on; equal to itself alone.

    Attributes:
      name: of the network and where it comes from, for titles; another network may have the same.
      model, variables: the network.
      test: uint8 images [N, H, W, 3] and int32 labels [N].
      normalize: what the network takes of uint8 images.
      dataset: its name.
      info: what is known about the data set that it is tested on.
      split: which of its splits.
      further: of arrays with several splits to test on, the reader of each, the first among them.
      class_names: of its outputs, where they are others than `info` has.
    """

    name: str
    model: Network
    variables: dict[str, Any]
    test: Dataset
    normalize: Callable[[Any], jax.Array]
    dataset: str
    info: DatasetInfo
    split: str = "test"
    further: Mapping[str, Callable[[], Dataset]] = dataclasses.field(default_factory=dict)
    class_names: Sequence[str] = ()

    @functools.cached_property
    def images(self) -> np.ndarray:
        """The test images, normalised, float32 [N, H, W, 3]."""
        return np.asarray(self.normalize(self.test.images))

    @property
    def labels(self) -> np.ndarray:
        """Their labels, int32 [N]."""
        return self.test.labels


def load_run(
    path: str, checkpoint: str, images: int, data_dir: str | None, dataset: str | None = None, split: str | None = None
) -> TrainedModel:
    """The network of a workdir, with the first `images` test images (0: all), normalised as in its training.

    `data_dir` None is the run's own. Another `dataset` than that, or another `split`, is what it is tested on;
    normalisation stays that of its own training images.

    Raises:
      InputError: where the folder holds no run, or no checkpoint that can be read; for images that do not fit.
    """
    saved = read_saved_run(path, CIFAR)
    config = saved.config
    own, given = (os.path.realpath(os.path.expanduser(place or "")) for place in (config.data_dir, data_dir))
    others = config.dataset == ARRAYS and data_dir is not None and own != given
    if dataset in (None, config.dataset):
        # Other arrays than its own do not have the numbers that this network's images are normalised by.
        dataset = ARRAYS if others and os.path.exists(own) else None
    if dataset is None and data_dir is not None:
        config = dataclasses.replace(config, data_dir=data_dir)
    info = data_info(config)
    model = config.create_model(info.num_classes)
    splits = load_splits(config)
    if config.dataset == ARRAYS and dataset is None and saved.data is not None:
        here = identity(info, {name: data for name, data in splits._asdict().items() if data is not None})
        if differing := data_differences(saved.data, here):
            gone = f"are gone, and {given} are others" if others else "have changed since"
            raise InputError(
                f"{path}: the arrays that it was trained on, {own}, {gone} ({'; '.join(differing)}); put"
                " its own back, as its images are normalised by their numbers"
            )
    variables, step = read_network(path, checkpoint, model)
    normalize = normalization(config, splits.train.images, known_input(saved.data, path))
    name = f"{network_text(config.identity())} on {config.dataset}, step {step}"
    network = TrainedModel(name, model, variables, _first(splits.test, images), normalize, config.dataset, info)
    if dataset is None and split in (None, "test"):
        return network
    other = info if dataset is None else dataset_info(dataset, data_dir)
    where = config.data_dir if dataset is None else data_dir
    network = _tested_on(network, other, where, split, images, config.model.name, info.class_names)
    if network.info.name == config.dataset == ARRAYS and not network.further:
        warn_of_training_images(network.test, splits.train, str(where))
    return network


def read_network(path: str, checkpoint: str | int, model: Network) -> tuple[dict[str, Any], int]:
    """The variables of `model` in the checkpoint, "latest", "best" or a step, of a workdir, and their step.

    Raises:
      InputError: if there is none, it is damaged, or it is of another run than the workdir's.
    """
    workdir = Workdir(path)
    try:
        wanted = checkpoint if isinstance(checkpoint, int) else None
        variables, step = read_variables(workdir.checkpoints, checkpoint == "best", workdir.check_checkpoint, wanted)
    except CheckpointError as error:
        way_out = "Give the other --checkpoint, latest or best, or repeat the command that trained it"
        raise InputError(f"{path}: {error}. {way_out}") from None
    return restack(variables, model.stacked_stages), step


def load_weights(
    name: str | None,
    weights: str,
    dataset: str | None,
    images: int,
    data_dir: str | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights_key: str | None = None,
    split: str | None = None,
) -> TrainedModel:
    """A network of `from_pretrained`, or `name` with a file of PyTorch's weights.

    `dataset` None is what the weights were trained on, where they say it, or CIFAR-10. Images, 0 .. 255, are normalised
    by `mean` and `std` or those that come with the weights, or else by those of the data set. `weights_key` chooses
    among several weights in a file; what was chosen, and what in the file is not read, is printed. `split` None is
    "test", or of arrays without such, all that are to be tested on.

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
        info = dataset_info(dataset or "cifar10", data_dir)
        if info.name == ARRAYS and "train" not in info.split_sizes and mean is None:
            raise InputError(
                f"--mean, --std: {info.description}; say by what the images were normalised on which {name} was trained"
            )
        model = create_model(name, num_classes=info.num_classes)
        variables = load_torch_weights(model, weights, weights_key, report=print)
    else:
        if pathlib.Path(weights).is_file() or weights.endswith((*TORCH_SUFFIXES, ".safetensors")):
            raise InputError(f"{weights}: say with --model which network these weights are of")
        if weights_key is not None:
            raise InputError(f"--weights_key {weights_key}: {weights} holds one network's weights; leave it out")
        (model, variables), about = from_pretrained(weights), pretrained_info(weights)
        info = dataset_info(dataset or about.get("dataset", "cifar10"), data_dir)
        if info.name != ARRAYS and model.num_classes != info.num_classes:
            raise InputError(f"{weights}: a network of {model.num_classes} classes; {info.name} has {info.num_classes}")
    if mean is not None:
        if name is None:
            raise InputError(f"--mean, --std: {weights} says itself what its images are normalised by; leave them out")
        about = {"mean": mean, "std": std}
    normalize = normalization_of(weights, about, info)
    label = f"{name or about.get('model') or type(model).__name__} from {pathlib.Path(weights).name} on {info.name}"
    empty = Dataset(np.empty((0, *info.image_shape), np.uint8), np.empty(0, np.int32))
    network = TrainedModel(label, model, variables, empty, normalize, info.name, info)
    known = about.get("class_names", ())
    options = (network, info, data_dir, split)
    own = about.get("data")
    kept = own.get("test") if isinstance(own, Mapping) else None
    if kept is not None and "all" in info.split_sizes:
        whole = _tested_on(*options, 0, name or about.get("model"), known)
        test = take(whole.test, held_out(whole.labels))
        if identity(info, {"test": test})["splits"]["test"] == kept:
            said = "--split all takes those, too" if split else "it is tested on those that were kept apart"
            _log.warning("%s: %s was trained on nine tenths of these images; %s", data_dir, weights, said)
            return dataclasses.replace(whole, test=_first(whole.test if split else test, images))
    return _tested_on(*options, images, name or about.get("model"), known)


def _tested_on(
    network: TrainedModel,
    info: DatasetInfo,
    data_dir: str | None,
    split: str | None,
    images: int,
    model_name: str | None,
    class_names: Sequence[str],
) -> TrainedModel:
    """The same network with the images of a data set: of one split, or of all that are to be tested on.

    Args:
      model_name: its name.
      class_names: of its classes, as it was trained.
    """
    if split not in (None, "test"):
        info.require_split(split)
    label_of = _label_of(network, info, class_names)
    channels = input_channels(info, model_name)

    def load(one: str) -> Dataset:
        data = with_channels(load_dataset(info.name, one, data_dir), channels)
        return _first(data if label_of is None else data._replace(labels=label_of[data.labels]), images)

    names = [split] if split and split in info.split_sizes else _to_test_on(info)
    test = load(names[0])
    if info.name == ARRAYS:
        _check_fits(network, test.images.shape[1:])
    further = {one: functools.partial(load, one) for one in names} if len(names) > 1 else {}
    # Arrays all have one name.
    other = (
        pathlib.Path(data_dir).name if info.name == network.dataset == ARRAYS and info != network.info else info.name
    )
    name = f"{network.name}, tested on {other}" if other != network.dataset else network.name
    return dataclasses.replace(
        network,
        name=name,
        test=test,
        dataset=info.name,
        info=info,
        split=names[0],
        further=further,
        class_names=() if label_of is None else tuple(class_names),
    )


def _to_test_on(info: DatasetInfo) -> list[str]:
    """The splits to test on: "test", or else those of no other use."""
    if "test" in info.split_sizes:
        return ["test"]
    names = [split for split in info.split_sizes if split not in ("train", "validation")]
    if not names:
        raise InputError(
            f"--split: {info.description}; no test images among them: choose one of {', '.join(info.split_sizes)}"
        )
    return names


def _label_of(network: TrainedModel, info: DatasetInfo, class_names: Sequence[str]) -> np.ndarray | None:
    """The network's label of each label of a data set, int32 [K], where both name their classes; None: they are equal.

    Raises:
      InputError: for classes that the network does not have.
    """
    known, given = tuple(class_names), info.class_names
    if info.name == ARRAYS and known != given and _are_names(known) and _are_names(given):
        if lost := sorted(set(given) - set(known)):
            raise InputError(
                f"{info.description}: the network has no class {lost[0]!r}; its classes are {', '.join(known)}, those"
                f" of the data {', '.join(given)}"
            )
        return np.array([known.index(name) for name in given], np.int32)
    if info.num_classes > network.model.num_classes or (
        info.num_classes != network.model.num_classes and info.name != ARRAYS
    ):
        raise InputError(
            f"{info.description}: labels 0 to {info.num_classes - 1}, the network has {network.model.num_classes}"
            " classes; test it on its own"
        )
    return None


def _are_names(class_names: tuple[str, ...]) -> bool:
    return bool(class_names) and class_names != tuple(map(str, range(len(class_names))))


def _check_fits(network: TrainedModel, image_shape: tuple[int, ...]) -> None:
    """Raises InputError for images of a size or of channels that the network cannot take."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    try:
        jax.eval_shape(lambda images: network.model.apply(network.variables, network.normalize(images)), image)
    except Exception as error:  # flax, jax and the network itself raise many types over a shape
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{network.name}: does not take images of {'x'.join(map(str, image_shape))} ({said[:200]})"
        ) from error


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


def image_shape(config: Config | ImagenetConfig) -> tuple[int, int, int]:
    """(H, W, C) of the images that a classifier of a config is trained on."""
    if isinstance(config, ImagenetConfig):
        return config.image_size, config.image_size, 3
    info = data_info(config)
    return *info.image_shape[:2], input_channels(info, config.model.name)


def read_records(path: str) -> list[dict[str, Any]]:
    """The lines of a workdir's metrics.jsonl; raises InputError where there is none."""
    records = Workdir(path).records()
    if not records:
        raise InputError(f"{path}: no epoch of this run is complete; the command that started it goes on from there")
    return records


def _first(test: Dataset, images: int) -> Dataset:
    """The first test images, 0: all."""
    return Dataset(test.images[: images or None], test.labels[: images or None])
