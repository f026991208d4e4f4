"""A trained classifier with its preprocessing and class names, from a run or from weights by name."""

import collections
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs.programs import IMAGENET, SEGMENTATION
from experiments.evaluation.classes import read_class_names
from experiments.evaluation.trained import load_run, read_network
from experiments.inputs.photographs import NORMALIZE, known_input, normalization
from experiments.training.workdir import Workdir, is_run, read_saved_run
from resjax import create_model, from_pretrained, load_torch_weights, model_info, preprocessing, pretrained_info
from resjax.data.images import ImageStream, StreamConfig, require_decoders
from resjax.data.images.encoded import SUFFIXES, file_bytes
from resjax.data.normalization import Normalization
from resjax.errors import InputError
from resjax.interop.network_input import Preprocessing
from resjax.interop.torch_files import TORCH_SUFFIXES
from resjax.interop.torch_weights import classes_in_file
from resjax.models.registry import IMAGENET_SHAPE, familiar_name


class Classifier(NamedTuple):
    """A trained network of images, what its input is, and the name of each class."""

    model: Any
    variables: Any
    preprocess: Preprocessing
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsOptions:
    """Flags of a command that takes a trained network: what its name, run or file does not say."""

    checkpoint: Literal["latest", "best"] = "latest"
    """Which checkpoint of a run."""
    data_dir: str | None = None
    """Folder of the data of a run on small images, whose normalisation is that of its training images; default: where
    the run had it."""
    model: str | None = None
    """Network of a file of PyTorch's weights, e.g. resnet_18."""
    weights_key: str | None = None
    """Of a file with several sets of weights: the key of those to take."""
    mean: tuple[float, ...] | None = None
    """Of a file: the mean of each channel, of pixels 0 .. 255; default for networks of photographs: ImageNet's."""
    std: tuple[float, ...] | None = None
    """Of a file: the standard deviation of each channel, likewise."""
    class_names: pathlib.Path | None = None
    """Of a file: what its classes are called, one name a line, or JSON."""


_OF_FILE = ("model", "weights_key", "mean", "std", "class_names")


def load_classifier(weights: str, options: WeightsOptions) -> Classifier:
    """The network of a run's folder, of a file, or of what `resjax.from_pretrained` takes.

    Args:
      weights: a folder of a run, a folder of weights, a name, or a file of PyTorch's weights.
      options: what they do not say.

    Raises:
      InputError: for weights that cannot be read, a run on masks, or a normalisation that is not (x - mean) / std.
    """
    checkpoint, data_dir = options.checkpoint, options.data_dir
    is_file = pathlib.Path(weights).is_file() or weights.endswith((*TORCH_SUFFIXES, ".safetensors"))
    if given := [] if is_file else [f"--{field}" for field in _OF_FILE if getattr(options, field) is not None]:
        raise InputError(f"{', '.join(given)}: only for a file of PyTorch's weights; {weights} has its own")
    if is_file:
        classifier = _from_file(weights, options)
    elif not is_run(pathlib.Path(weights)):
        (model, variables), about = from_pretrained(weights), pretrained_info(weights)
        if model.num_classes == 0:
            raise InputError(f"{weights}: has no classifier; give the weights of one")
        names = tuple(map(str, about.get("class_names") or range(model.num_classes)))
        classifier = Classifier(model, variables, preprocessing(weights), names)
    elif (saved := read_saved_run(weights)).program == IMAGENET:
        config, path = saved.config, Workdir(weights)
        data = saved.data or (path.read_summary() if path.is_finished() else {})
        if not data.get("class_names"):
            raise InputError(f"{weights}: this run does not say what its classes are called; it is of an early version")
        names = tuple(map(str, data["class_names"]))
        model = config.create_model(len(names))
        variables, _ = read_network(weights, checkpoint, model)
        size = (config.eval_size, config.eval_size)
        normalize = normalization(config, known_input(saved.data, weights))
        mean, std = jnp.asarray(normalize.mean), jnp.asarray(normalize.std)
        crop = config.eval_size / config.eval_resize
        classifier = Classifier(model, variables, Preprocessing(mean, std, size, crop, source=weights), names)
    elif saved.program == SEGMENTATION:
        raise InputError(
            f"{weights}: a run on masks; what it sees, `python -m experiments.segmentation predict {weights}"
            " --images FILES` draws"
        )
    else:
        network = load_run(weights, checkpoint, 1, data_dir)
        if not isinstance(network.normalize, (Normalization, Preprocessing)):
            raise InputError(f"{weights}: its input is not (image - mean) / std; photographs cannot be given to it")
        constants = (network.normalize.mean, network.normalize.std)
        size = getattr(network.normalize, "size", None) or tuple(network.test.images.shape[1:3])
        preprocess = Preprocessing(*constants, size, interpolation="bicubic", source=weights)
        classifier = Classifier(network.model, network.variables, preprocess, tuple(network.info.class_names))
    if classifier.preprocess.view is None:
        raise InputError(f"{weights}: does not say which size its images have; save it again with about={{'size': ..}}")
    return classifier


def _from_file(file: str, options: WeightsOptions) -> Classifier:
    if options.model is None:
        raise InputError(f"{file}: say with --model which network these weights are of, e.g. --model resnet_18")
    name = familiar_name(options.model) or options.model
    model = create_model(name)
    classes = classes_in_file(model, file, options.weights_key) or model.num_classes
    given = None if options.class_names is None else [each[0] for each in read_class_names(options.class_names)]
    names = tuple(given or map(str, range(classes)))
    if len(names) != classes:
        raise InputError(f"--class_names: {len(names)} names, and {file} has {classes} classes; give one for each")
    model = model.clone(num_classes=classes)
    variables = load_torch_weights(model, file, options.weights_key, report=_say)
    shape = model_info(name).input_size
    is_small = shape != IMAGENET_SHAPE
    if (options.mean is None) != (options.std is None) or (is_small and options.mean is None):
        raise InputError(
            f"--mean and --std: give both, of pixels 0 .. 255: {file} does not say by what its images were normalised"
        )
    mean, std = (NORMALIZE.mean, NORMALIZE.std) if options.mean is None else (options.mean, options.std)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and min(std) > 0 and len(mean) == len(std) == shape[2]):
        raise InputError(f"--mean and --std: expected {shape[2]} finite numbers each, std > 0, got {mean} and {std}")
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    crop = {"interpolation": "bicubic"} if is_small else {"crop": 0.875}
    return Classifier(model, variables, Preprocessing(mean, std, shape[:2], source=file, **crop), names)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


class ImageFiles:
    """Files as a source of a stream; the label of an image is its position."""

    def __init__(self, paths: Sequence[str]):
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> tuple[bytes, int]:
        return file_bytes(self._paths[index]), index

    def name(self, index: int) -> str:
        return self._paths[index]

    def describe(self) -> dict[str, Any]:
        return {"images": len(self)}


def find_images(places: Sequence[str]) -> list[str]:
    """The image files among `places`, of which folders stand for the images below them, in the order of their names.

    Raises:
      InputError: where there is none, or no such file or folder.
    """
    found: list[str] = []
    for place in map(pathlib.Path, places):
        if place.is_dir():
            found += [str(path) for path in sorted(place.rglob("*")) if path.suffix.lower() in SUFFIXES]
        elif place.exists():
            found.append(str(place))
        else:
            raise InputError(f"{place}: no such file or folder; give image files, folders of them, or - for names")
    if not found:
        raise InputError(f"{', '.join(places) or 'images'}: no image files; give some, or folders of them")
    return found


def classify(
    classifier: Classifier, paths: Sequence[str], top: int, batch_size: int, workers: int, report: Any
) -> Iterator[tuple[list[tuple[int, np.ndarray, np.ndarray]], np.ndarray]]:
    """Batches of what a classifier says of files.

    Args:
      top: number of classes.
      report: called with (path, reason) for each file that is broken.

    Yields:
      (index of the file, its `top` classes, their probabilities) of each image of a batch that could be read, and the
      parts that the network saw of them, uint8 [N, H, W, 3].
    """
    require_decoders()
    view = classifier.preprocess.view
    assert view is not None
    top = min(top, classifier.model.num_classes)

    @jax.jit
    def best(variables, images):
        logits = classifier.model.apply(variables, classifier.preprocess(images))
        return jax.lax.top_k(jax.nn.softmax(logits), top)

    batch_size = min(batch_size, len(paths))
    # Takes less than half of the time for photographs of 12 million pixels, and changes a pixel by 0.3 of 255 levels.
    config = StreamConfig((dataclasses.replace(view, gap=2),), batch_size, exif_orientation="apply")
    number, running = -(-len(paths) // batch_size), collections.deque[Any]()

    def finished() -> tuple[list[tuple[int, np.ndarray, np.ndarray]], np.ndarray]:
        images, labels, found = running.popleft()
        probabilities, classes = map(np.asarray, found)
        there = np.flatnonzero(labels >= 0)
        rows = [(int(labels[i]), classes[i], probabilities[i]) for i in there]
        return rows, images if len(there) == len(labels) else images[there]

    with ImageStream(ImageFiles(paths), config, workers=workers, report=report) as batches:
        # Compiled while the workers start, which takes about as long.
        shape = jax.ShapeDtypeStruct((batch_size, *view.shape), np.uint8)
        compiled = best.lower(classifier.variables, shape).compile()
        for _ in range(number):
            (images,), labels = next(batches)
            there = labels >= 0
            if there.any():
                classifier.preprocess.warn_if_far(images if there.all() else images[there])
            running.append((images, labels, compiled(classifier.variables, images)))
            if len(running) > 1:  # the device computes this one while the last one is written
                yield finished()
        yield finished()
