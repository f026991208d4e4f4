"""`--pretrained`: the network of trained weights, what its input is, and the variables that training starts from."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from rich.console import Console

from experiments.configs.base import ModelConfig, RunConfig
from experiments.configs.segmentation import SegmentationConfig
from experiments.inputs.masks import MEAN, STD
from resjax import (
    create_model,
    from_pretrained,
    load_torch_weights,
    preprocessing,
    pretrained_info,
    replace_head,
    train,
)
from resjax.errors import InputError
from resjax.interop.network_input import Preprocessing
from resjax.interop.torch_files import TORCH_SUFFIXES
from resjax.models import Network, list_models, load_trunk, restack
from resjax.models.registry import field_names, find_family

# Fields of a network that do not change what it computes of an image in evaluation, with given variables.
_TRAINING = {
    *("num_classes", "features_only", "dtype", "scan", "remat", "frozen_statistics", "norm_momentum", "norm_scope"),
    *("unbiased_running_variance", "norm_scale_init", "zero_init_residual", "dropout_rate", "dropout_rates"),
    *("kernel_init", "head_kernel_init", "head_bias_init", "whitening_init", "stochastic_depth"),
}
_LISTED = 3


class Start(NamedTuple):
    """What a run starts from.

    Attributes:
      variables: of the trunk; of a segmentation network, all of them.
      identity: entries of the identity of the run's data: a digest of the weights, and their input.
    """

    variables: Any
    identity: dict[str, Any]


def on_weights(config: RunConfig, weights: str) -> RunConfig:
    """The recipe for the network of `weights`, and its input. A file of PyTorch says neither, and changes nothing.

    Raises:
      InputError: for weights that cannot be read, or do not say what their input is.
    """
    if isinstance(config, SegmentationConfig) or _is_file(weights):
        return config
    with _About(weights):
        network, _ = _read(weights)
        preprocess = preprocessing(_source(weights))
        model = named_network(network, str(pretrained_info(_source(weights)).get("model")))
        if config.has_frozen_statistics and "frozen_statistics" in model.network_fields():
            model = model.replace(frozen_statistics=True)
        return config.on_network(model, preprocess.size, preprocess.crop)


def named_network(network: Any, hint: str = "") -> ModelConfig:
    """The name of a network, with the fields in which it differs from the network of that name.

    Args:
      network: of a registered class.
      hint: a name that is tried first.
    """

    def differing(name: str) -> dict[str, Any]:
        known = create_model(name)
        pairs = {field: (getattr(network, field), getattr(known, field)) for field in field_names(type(network))}
        kept = {field: mine for field, (mine, own) in pairs.items() if mine != own and not callable(mine)}
        return {field: value for field, value in kept.items() if field in ModelConfig(name).network_fields()}

    families = {name: find_family(name) for name in (hint, *list_models())}
    names = [name for name, family in families.items() if family and type(network) is family.module]
    # Of equally near names the shortest one, of the smallest network.
    found = min(((name, differing(name)) for name in names), key=lambda pair: (len(pair[1]), len(pair[0]), pair[0]))
    return ModelConfig(found[0], **found[1])


def check_start(config: RunConfig) -> None:
    """Raises InputError for flags of trained weights that do not go together."""
    compiles = config.dry_run or config.target or config.scaling_report
    if config.weights_key is not None and config.pretrained is None:
        raise InputError(f"--weights_key {config.weights_key}: is of a file of --pretrained, which is missing")
    if config.pretrained is None and config.has_frozen_statistics and not compiles:
        off = "--no_frozen_statistics" if isinstance(config, SegmentationConfig) else "--model.no_frozen_statistics"
        raise InputError(
            "--pretrained is missing: this recipe normalises by the BN statistics of trained weights. Give them, or"
            f" train from the start with {off}"
        )
    needing = [flag for flag in ("linear_probe", "knn") if getattr(config, flag)]
    needing += ["freeze"] * (config.freeze != "none")
    needing += ["normalization"] * (getattr(config, "normalization", "") == "weights")
    if config.pretrained is None and needing and not compiles:
        raise InputError(f"--{needing[0]}: needs trained weights, which --pretrained WEIGHTS gives")
    if config.freeze == "none":
        return
    try:
        train.trained_parameters(config.freeze)
    except InputError as error:
        raise InputError(f"--{error}") from None
    if not isinstance(config, SegmentationConfig) and "frozen_statistics" not in config.model.network_fields():
        return  # a network without BN
    if not config.has_frozen_statistics:
        on = "--frozen_statistics" if isinstance(config, SegmentationConfig) else "--model.frozen_statistics"
        raise InputError(f"--freeze {config.freeze}: frozen layers keep their BN statistics: it needs {on}")


def start_of(config: RunConfig, model: Any, image_shape: tuple[int, int, int], console: Console) -> Start | None:
    """What the run starts from, or None without `--pretrained`.

    Args:
      config: the config of the run.
      model: its network.
      image_shape: (H, W, C) of a training image.
      console: prints which of several weights in a file are taken, what in it is not read, and a note if the weights
        expect another normalisation.

    Raises:
      InputError: if the weights cannot be read or do not fit the network. A classifier of any number of classes may be
        among them.
    """
    if config.pretrained is None:
        return None
    is_segmentation = isinstance(config, SegmentationConfig)
    with _About(config.pretrained, f" (expected weights of the trunk, {config.model.name})" if is_segmentation else ""):
        trunk_model = model.trunk if is_segmentation else model
        trunk = _trunk(config, trunk_model, console)
        known = {} if _is_file(config.pretrained) else pretrained_info(_source(config.pretrained))
        identity: dict[str, Any] = {"weights": _digest(trunk)}
        normalization = getattr(config, "normalization", "imagenet")
        if is_segmentation:
            if not all(np.array_equal(known.get(key, ours), ours) for key, ours in (("mean", MEAN), ("std", STD))):
                _note(config.pretrained, "ImageNet's mean and std", console)
            variables = jax.jit(model.init)(jax.random.key(config.seed), np.zeros((1, *image_shape), np.float32))
            return Start(load_trunk(variables, trunk), identity)
        if normalization == "weights":
            identity["input"] = input_of(preprocessing(_source(config.pretrained)))
        elif "mean" in known:
            _note(config.pretrained, f"--normalization {normalization}", console)
        if not isinstance(model, Network):
            raise InputError(f"{type(model).__name__} is no resjax.models.Network, whose head could be replaced")
        _, variables = replace_head(model, trunk, num_classes=model.num_classes, key=jax.random.key(0))
        del variables["params"]["head"]  # each seed draws its own
        if mask := train.trained_parameters(config.freeze):
            mask(variables["params"])  # raises an error if the network has fewer stages
        return Start(variables, identity)


def input_of(preprocess: Preprocessing) -> dict[str, Any]:
    """JSON of what a network's input is, as `resjax.save_pretrained(.., about=..)` takes it."""
    numbers = {name: float32s(getattr(preprocess, name)) for name in ("mean", "std")}
    size = None if preprocess.size is None else list(preprocess.size)
    return numbers | {"size": size, "crop": preprocess.crop, "interpolation": preprocess.interpolation}


def float32s(array: Any) -> list:
    """Nested lists of the shortest decimals that float32 reads back exactly."""
    return np.asarray(array, np.float32).astype(str).astype(float).tolist()


def _trunk(config: RunConfig, model: Any, console: Console) -> Any:
    """The variables of the network of `--pretrained` without its classifier, in the structure of `model`."""
    weights = str(config.pretrained)
    if _is_file(weights):
        said = functools.partial(console.print, highlight=False, markup=False)
        path = pathlib.Path(os.path.expanduser(weights))
        trunk = load_torch_weights(model.clone(num_classes=0), path, config.weights_key, report=said)
    else:
        if config.weights_key is not None:
            raise InputError(f"it holds one network's weights; leave --weights_key {config.weights_key} out")
        network, trunk = _read(weights)
        if not isinstance(config, SegmentationConfig):
            _check_same_network(network, model)
    trunk = restack(trunk, model.stacked_stages)
    return {kind: {name: part for name, part in tree.items() if name != "head"} for kind, tree in trunk.items()}


def _check_same_network(there: Any, here: Any) -> None:
    """Raises InputError if two networks compute different functions of one image."""
    if type(there) is not type(here):
        raise InputError(f"it is a {type(there).__name__}, this run's network a {type(here).__name__}")
    fields = [field for field in field_names(type(there)) if field not in _TRAINING]
    other = [field for field in fields if getattr(there, field) != getattr(here, field)]
    told = [f"{field} {getattr(there, field)} there, {getattr(here, field)} here" for field in other[:_LISTED]]
    if told:
        raise InputError(f"it is another network ({'; '.join(told)}); leave out what changes the network")


def _note(weights: str, ours: str, console: Console) -> None:
    console.print(f"{weights} expects another normalisation; this run normalises by {ours}", highlight=False)


def _is_file(weights: str) -> bool:
    path = os.path.expanduser(weights)
    return os.path.isfile(path) or (weights.endswith((*TORCH_SUFFIXES, ".safetensors")) and not os.path.isdir(path))


def _source(weights: str) -> str | pathlib.Path:
    path = pathlib.Path(os.path.expanduser(weights))
    return path if os.path.isdir(path) else weights


@functools.lru_cache(1)
def _read(weights: str) -> tuple[Any, Any]:
    """The network without its classifier, and its variables."""
    return from_pretrained(_source(weights), num_classes=0)


def _digest(variables: Any) -> str:
    """16 hexadecimal digits that tell weights apart, stacked or not."""
    digest = hashlib.sha256()
    for path, array in sorted(flatten_dict(restack(variables, ())).items()):
        digest.update("/".join(path).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


@dataclasses.dataclass
class _About:
    """Says of which weights an InputError is, on one line."""

    weights: str
    expected: str = ""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, InputError):
            raise InputError(f"--pretrained {self.weights}: {' '.join(str(error).split())}{self.expected}") from None
