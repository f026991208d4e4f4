"""`predict`: what a trained segmentation network sees, drawn over images with a legend."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments.configs.segmentation import SegmentationConfig
from experiments.recipe import build_optimizer
from experiments.segmentation import build, normalize, splits
from experiments.workdir import Workdir
from resjax import train
from resjax.data import load_masks, mask_dataset_info
from resjax.data.augment_masks import IGNORED
from resjax.data.masks import resized
from resjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Draws the classes that a trained network sees over images, as PNG files."""

    workdir: str
    """Folder of the run, whose best checkpoint is used."""
    images: tuple[str, ...] = ()
    """Image files; default: the first of the test split, beside their true classes."""
    count: int = 8
    """How many images of the test split."""
    data_dir: str | None = None
    """Folder of the data, if it is not where the run had it."""
    output: str | None = None
    """Folder of the PNG files; default: overlays in the workdir."""
    scales: tuple[float, ...] = (1.0,)
    """Scales at which images are seen; their predictions are averaged."""
    flip: bool = False
    """Average in the prediction of the mirrored image."""
    window: int = 0
    """Side in pixels of the windows in which larger images are worked through; 0 takes whole images."""


def predict(arguments: Sequence[str], console: Console) -> list[pathlib.Path]:
    """Runs `predict`; returns the files that it drew.

    Raises:
      InputError: for a workdir without a run, or images that cannot be read.
    """
    program = "python -m experiments.segmentation predict"
    options = tyro.cli(Prediction, prog=program, args=list(arguments), use_underscores=True)
    workdir = Workdir(options.workdir)
    if not workdir.checkpoints.is_dir():
        raise InputError(f"--workdir {workdir.path}: holds no checkpoints of a run; train first")
    config = read_config(workdir)
    info = mask_dataset_info(config.dataset, options.data_dir or config.data_dir)
    images = list(_read_images(options, config))
    model = build(config, info.num_classes)
    shape = images[0][1].shape
    optimizer, _ = build_optimizer(config, config.batch_size)

    def new_state():
        return train.create_state(model, optimizer, config.seed, shape, config.average_decay > 0)

    template = jax.jit(new_state, out_shardings=train.replicated(train.data_mesh(jax.devices()[:1])))()
    with train.Checkpoints(workdir.checkpoints) as checkpoints:
        restored = checkpoints.restore(template, best=True, totals=train.PixelTotals.zero(info.num_classes))

    @jax.jit
    def classes(variables, image):
        sizes = np.array([image.shape[:2]], np.int32)
        probabilities = train.predict_probabilities(
            lambda x: model.apply(variables, x, train=False),
            normalize(image[None], sizes),
            options.scales,
            options.flip,
            options.window,
        )
        return probabilities[0].argmax(-1)

    output = pathlib.Path(options.output) if options.output else workdir.path / "overlays"
    output.mkdir(parents=True, exist_ok=True)
    files = []
    for name, image, truth in images:
        predicted = np.asarray(classes(restored.state.variables, image))
        files.append(output / f"{name}.png")
        draw_overlay(files[-1], image, predicted, info.class_names, truth)
    console.print(f"{len(files)} overlays in {output}", highlight=False)
    return files


def read_config(workdir: Workdir) -> SegmentationConfig:
    """The config of a run, from its config.json."""
    path = workdir.path / "config.json"
    try:
        saved = json.loads(path.read_text())
        return SegmentationConfig.from_identity(saved["config"] | saved["run_options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not the config of a segmentation run ({error})") from None


def _read_images(options: Prediction, config: SegmentationConfig):
    """(name, uint8 image [H, W, 3], mask [H, W] or None) of each image that is asked for."""
    if not options.images:
        if options.count <= 0:
            raise InputError(f"--count: expected a positive integer, got {options.count}")
        split = splits(config)[1]
        data = load_masks(config.dataset, split, options.data_dir or config.data_dir, config.longer_side)
        for i, (image, mask, (height, width)) in enumerate(zip(*data, strict=True)):
            if i == options.count:
                return
            yield f"{split}_{i:05}", image[:height, :width], mask[:height, :width]
    from PIL import Image

    for path in map(pathlib.Path, options.images):
        try:
            image = np.asarray(Image.open(path).convert("RGB"))
        except OSError as error:
            raise InputError(f"--images {path}: cannot be read as an image ({error})") from None
        yield path.stem, resized(image, config.longer_side), None


def class_colours(num_classes: int) -> np.ndarray:
    """A colour for each class, uint8 [num_classes, 3], black for the first: the palette of PASCAL VOC."""
    colours = np.zeros((num_classes, 3), np.uint8)
    for label in range(num_classes):
        for bit in range(8):
            for channel in range(3):
                colours[label, channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
    return colours


def draw_overlay(
    path: pathlib.Path,
    image: np.ndarray,
    predicted: np.ndarray,
    class_names: Sequence[str],
    truth: np.ndarray | None = None,
) -> None:
    """Draws an image, its predicted classes over it, and the true ones where they are known.

    Args:
      path: the PNG file.
      image: uint8 [H, W, 3].
      predicted: classes [H, W].
      class_names: name of each class.
      truth: classes [H, W], `IGNORED` where there is none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours = class_colours(len(class_names))
    panels = {"image": image, "predicted": _blend(image, predicted, colours)}
    if truth is not None:
        panels["true"] = _blend(image, truth, colours)
    height = min(max(3.2 * image.shape[0] / image.shape[1], 1.6), 6.4)
    figure = Figure(figsize=(3.3 * len(panels) + 1.6, height + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, panel) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        axes.imshow(panel, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    seen = np.union1d(predicted, [] if truth is None else truth).astype(int)
    handles = [Patch(color=colours[label] / 255, label=class_names[label]) for label in seen if label != IGNORED]
    figure.legend(handles=handles, loc="outside right center", fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)


def _blend(image: np.ndarray, classes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The image, gray, under the colours of its classes; white where a label is ignored."""
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(colours)] = colours
    gray = image.mean(-1, keepdims=True)
    return np.clip(0.35 * gray + 0.65 * palette[classes], 0, 255).astype(np.uint8)
