"""`predict`: what a trained segmentation network sees, drawn over images with a legend."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from experiments.configs.programs import SEGMENTATION, SavedRun
from experiments.configs.segmentation import SegmentationConfig
from experiments.evaluation.trained import read_network
from experiments.inputs.masks import MEAN, STD, load_split, splits
from experiments.runtime.arguments import read_options, subject_first
from experiments.runtime.figures import picture
from experiments.runtime.files import read_json, write
from experiments.training.workdir import Workdir, is_run, read_saved_run
from resjax import from_pretrained, preprocessing, pretrained_info, train
from resjax.data import mask_dataset_info
from resjax.data.augment.options import IGNORED
from resjax.data.images.encoded import BrokenImage, file_bytes
from resjax.data.masks import read_image, resized
from resjax.errors import InputError
from resjax.interop.network_input import Preprocessing
from resjax.models import SegmentationNetwork

# Orange, blue, green, pink, sky, yellow: Okabe and Ito's, brightest first.
_FIRST_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
# Flags by the names of earlier versions; today's are those of training.
_EARLIER = {f"--{name}": f"--eval_{name}" for name in ("scales", "flip", "window")}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Draws the classes that a trained network sees over images, as PNG files."""

    of: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Workdir of the run, whose best checkpoint is used."""
    images: tuple[str, ...] = ()
    """Image files; default: the first of the test split, beside their true classes."""
    count: int = 8
    """How many images of the test split."""
    data_dir: str | None = None
    """Folder of the data, if it is not where the run had it."""
    output: str | None = None
    """Folder of the PNG files; default: overlays in the workdir."""
    eval_scales: tuple[float, ...] = (1.0,)
    """Scales at which images are seen; their predictions are averaged."""
    eval_flip: bool = False
    """Average in the prediction of the mirrored image."""
    eval_window: int = 0
    """Side in pixels of the windows in which larger images are worked through; 0 takes whole images."""


class Segmenter(NamedTuple):
    """A trained segmentation network.

    Attributes:
      model, variables: the network.
      preprocess: normalises its images, which keep their size.
      longer_side: to which images are resized before; 0 leaves them as they are.
      class_names: the name of each class.
    """

    model: Any
    variables: Any
    preprocess: Preprocessing
    longer_side: int
    class_names: Sequence[str]

    def predictor(
        self, scales: Sequence[float] = (1.0,), flip: bool = False, window: int = 0
    ) -> Callable[[np.ndarray], np.ndarray]:
        """A function from a uint8 image [H, W, 3] to float32 probabilities [H, W, classes], see `Prediction`."""

        @jax.jit
        def probabilities(variables, image):
            return train.predict_probabilities(
                lambda x: self.model.apply(variables, x, train=False),
                self.preprocess(image[None]),
                scales,
                flip,
                window,
            )[0]

        return lambda image: np.asarray(probabilities(self.variables, image))


def is_segmenter(weights: str) -> bool:
    """Whether a folder is a run on masks, or has saved weights of a segmentation network."""
    if is_run(weights):
        return read_saved_run(weights).program == SEGMENTATION
    file = pathlib.Path(weights) / "config.json"
    return file.is_file() and read_json(file).get("network") == SegmentationNetwork.__name__


def load_segmenter(weights: str, checkpoint: str, class_names: Sequence[str] | None = None) -> Segmenter:
    """The network of a run on masks, or of a folder of saved weights; see `is_segmenter`.

    Its classes are those that the run recorded, or the folder, unless `class_names` are given.

    Raises:
      InputError: for a workdir without such a run, or weights that cannot be read.
    """
    if not is_run(weights):
        (model, variables), about = from_pretrained(weights), pretrained_info(weights)
        names = about.get("class_names") or list(map(str, range(model.num_classes)))
        preprocess = dataclasses.replace(preprocessing(weights), size=None)
        return Segmenter(model, variables, preprocess, 0, names)
    saved = read_saved_run(weights, SEGMENTATION)
    if class_names is None:
        if saved.data is None:  # of a run before they were recorded
            class_names = mask_dataset_info(saved.config.dataset, saved.config.data_dir).class_names
        else:
            class_names = tuple(saved.data["class_names"])
    model = saved.config.create_model(len(class_names))
    variables, _ = read_network(weights, checkpoint, model)
    preprocess = Preprocessing(jnp.asarray(MEAN), jnp.asarray(STD), source=weights)
    return Segmenter(model, variables, preprocess, saved.config.longer_side, class_names)


def predict(arguments: Sequence[str], console: Console) -> list[pathlib.Path]:
    """Runs `predict`; returns the files that it drew.

    Raises:
      InputError: for a workdir without a run, or images that cannot be read.
    """
    program = "python -m experiments.segmentation predict"
    arguments = subject_first(program, arguments, ("--workdir",), _EARLIER)
    options = read_options(Prediction, program, arguments)
    workdir, saved = Workdir(options.of), read_saved_run(options.of, SEGMENTATION)
    segmenter = load_segmenter(options.of, "best", _class_names(options, saved))
    images = list(_read_images(options, saved.config))
    probabilities = segmenter.predictor(options.eval_scales, options.eval_flip, options.eval_window)
    output = pathlib.Path(options.output) if options.output else workdir.path / "overlays"
    output.mkdir(parents=True, exist_ok=True)
    files = []
    for name, image, truth in images:
        files.append(_free(output, name, files))
        write(files[-1], draw_overlay(image, probabilities(image).argmax(-1), segmenter.class_names, truth))
    console.print(f"{len(files)} overlays in {output}", highlight=False)
    return files


def _class_names(options: Prediction, saved: SavedRun) -> Sequence[str]:
    """The classes that the run was trained on; InputError where those of the masks to be shown are others."""
    info = mask_dataset_info(saved.config.dataset, options.data_dir or saved.config.data_dir)
    if saved.data is None:  # of a run before they were recorded
        return info.class_names
    trained = tuple(saved.data["class_names"])
    if not options.images and trained != info.class_names:
        raise InputError(
            f"{options.of}: trained on the classes {', '.join(trained)};"
            f" {info.classes_from or info.name} names {', '.join(info.class_names)}. Give the folder of the run's data"
            " as --data_dir, or --images"
        )
    return trained


def _free(output: pathlib.Path, name: str, drawn: Sequence[pathlib.Path]) -> pathlib.Path:
    """NAME.png, or NAME_2.png .. where this call has drawn an image of that name from another folder."""
    file, number = output / f"{name}.png", 1
    while file in drawn:
        number += 1
        file = output / f"{name}_{number}.png"
    return file


def _read_images(options: Prediction, config: SegmentationConfig):
    """(name, uint8 image [H, W, 3], mask [H, W] or None) of each image that is asked for."""
    if not options.images:
        if options.count <= 0:
            raise InputError(f"--count: expected a positive integer, got {options.count}")
        split = splits(config)[1]
        data = load_split(config, split, options.data_dir)
        for i, (image, mask, (height, width)) in enumerate(zip(*data, strict=True)):
            if i == options.count:
                break
            yield f"{split}_{i:05}", image[:height, :width], mask[:height, :width]
    for path in map(pathlib.Path, options.images):
        try:
            image = read_image(file_bytes(path), f"--images {path}")
        except BrokenImage as error:
            raise InputError(f"--images {path}: {error}") from None
        yield path.stem, resized(image, config.longer_side), None


def class_colours(num_classes: int) -> np.ndarray:
    """A bright colour for each class, uint8 [num_classes, 3]; the first few differ for colour-blind readers, too.

    The rest is the palette of PASCAL VOC, brightened, without its black.
    """
    colours = np.zeros((num_classes, 3), np.uint8)
    for label in range(num_classes):
        for bit in range(8):
            for channel in range(3):
                colours[label, channel] |= ((label + 1) >> (3 * bit + channel) & 1) << (7 - bit)
    colours = (255 - (255 - colours.astype(int)) * 0.8).astype(np.uint8)
    first = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in _FIRST_COLOURS[:num_classes]]
    colours[: len(first)] = first
    return colours


def background_of(class_names: Sequence[str]) -> int | None:
    """The class that stands for nothing in particular, which an overlay leaves as it is: the first, by its name."""
    return 0 if class_names and class_names[0].lower() in ("background", "none", "void", "other", "0") else None


def draw_overlay(
    image: np.ndarray,
    predicted: np.ndarray,
    class_names: Sequence[str],
    truth: np.ndarray | None = None,
) -> bytes:
    """A PNG: an image, its predicted classes over it, and the true ones where they are known.

    Args:
      image: uint8 [H, W, 3].
      predicted: classes [H, W].
      class_names: name of each class.
      truth: classes [H, W], `IGNORED` where there is none.
    """
    from matplotlib.patches import Patch

    background = background_of(class_names)
    colours = class_colours(len(class_names))
    panels = {"image": image, "predicted": blend(image, predicted, colours, background)}
    if truth is not None:
        panels["true"] = blend(image, truth, colours, background)
    height = min(max(3.2 * image.shape[0] / image.shape[1], 1.6), 6.4)
    seen = np.union1d(predicted, [] if truth is None else truth).astype(int)
    handles = [
        Patch(facecolor="none", edgecolor="0.5", label=f"{class_names[label]} (not coloured)")
        if label == background
        else Patch(color=colours[label] / 255, label=class_names[label])
        for label in seen
        if label != IGNORED
    ]
    if truth is not None and (truth == IGNORED).any():
        handles.append(Patch(facecolor="white", edgecolor="0.5", label="not judged"))

    def draw(figure):
        for axes, (title, panel) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
            axes.imshow(panel, interpolation="nearest")
            axes.set_title(title)
            axes.set_axis_off()
        figure.legend(handles=handles, loc="outside right center", fontsize=9, frameon=False)

    return picture(draw, (3.3 * len(panels) + 1.9, height + 0.4), dpi=110)


def blend(image: np.ndarray, classes: np.ndarray, colours: np.ndarray, background: int | None) -> np.ndarray:
    """The image, gray, under the colours of its classes; as it is in the background, white where a label is ignored."""
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(colours)] = colours
    gray = image.mean(-1, keepdims=True)
    blended = np.clip(0.35 * gray + 0.65 * palette[classes], 0, 255).astype(np.uint8)
    return blended if background is None else np.where((classes == background)[..., None], image, blended)
