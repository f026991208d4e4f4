"""What a trained classifier sees in images: `python -m experiments.predict resnet_20-cifar10 photo.jpg`."""

import dataclasses
import io
import json
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress

from experiments.evaluation.classifier import WeightsOptions, classify, find_images, load_classifier
from experiments.evaluation.explanations import Explainer, Method, draw_explanation, heat
from experiments.evaluation.figures import draw_sheet
from experiments.evaluation.overlays import (
    background_of,
    blend,
    class_colours,
    draw_overlay,
    is_segmenter,
    load_segmenter,
)
from experiments.runtime.arguments import read_options, subject_first
from experiments.runtime.backend import prepare_backend
from experiments.runtime.exit_codes import exit_code
from experiments.runtime.files import without_folders, write
from resjax.data.images import BrokenImage, default_workers
from resjax.data.images.encoded import file_bytes
from resjax.data.masks import read_image, resized
from resjax.errors import InputError, printable

PROGRAM = "python -m experiments.predict"
_MOST_USED = (
    "top", "json", "sheet", "explain", "overlays", "checkpoint", "model", "data_dir", "batch_size",
)  # fmt: skip
_MOST_SHOWN = 36
_MANY = 256  # images, from which on the rate is told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(WeightsOptions):
    """Names what is in images, with probabilities.

    Images are of any kind and size; they are turned upright as their camera noted, and resized and normalised as the
    weights ask for. With a run on masks, the classes of pixels.
    """

    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|NAME")]
    """A run, by its workdir, or trained weights: a name of resjax.list_pretrained(), also of timm, torchvision or the
    hub; a folder of resjax.save_pretrained; or a file of PyTorch's weights, with --model. Runs are of
    experiments.cifar, experiments.imagenet or experiments.segmentation."""
    images: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE|DIR|- ..", help_behavior_hint="(required)")
    ]
    """Image files, folders of images, or - for names of files from standard input, one a line."""
    top: int = 5
    """How many classes of each image to name."""
    json: bool = False
    """Print a JSON object for each image, one a line, and nothing else on standard output."""
    sheet: pathlib.Path | None = None
    """PNG file to draw; what the network saw of the first 36 images, each with its class and the file's name."""
    explain: Method | None = None
    """Draw where the best class comes from, to --overlays: Grad-CAM (Selvaraju et al. 2017), occlusion (Zeiler & Fergus
    2014), or integrated gradients (Sundararajan et al. 2017)."""
    overlays: pathlib.Path | None = None
    """Folder of a PNG for each image: with --explain its explanation (default: overlays), with a run on masks the
    classes of its pixels, and masks/NAME.png, whose pixels are their numbers."""
    batch_size: int = 64
    """Images in a step."""
    workers: int | None = None
    """Processes that decode images; default: one for each core but one, on two cores none. 0 decodes in threads."""
    compilation_cache: str = "auto"
    """Folder of compiled programs; auto: in the user's cache folder; off: none."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is said of an image.

    Attributes:
      line: "image" and "classes" with "probabilities", of pixels "fractions".
      picture: uint8 [H, W, 3], for the sheet.
      overlay: of `given`, the files of --overlays: {name with {} for the image's: content}.
    """

    line: dict[str, Any]
    picture: np.ndarray
    overlay: Callable[..., dict[str, bytes]]
    given: tuple[Any, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for bad input, also if no image could be read."""

    def command():
        words = subject_first(
            PROGRAM, sys.argv[1:] if arguments is None else arguments, ("--weights", "--workdir", "--run")
        )
        run(read_options(Options, PROGRAM, words, most_used=_MOST_USED))

    return exit_code(command, kept="what was printed")


def run(options: Options) -> list[dict[str, Any]]:
    """Prints what is in the images; returns it: "image" and "classes" with "probabilities", or "error" of each.

    Raises:
      InputError: for weights or images that cannot be read.
    """
    for field in ("top", "batch_size"):
        if getattr(options, field) < 1:
            raise InputError(f"--{field}: expected a positive integer, got {getattr(options, field)}")
    places = [line for place in options.images for line in (_from_input() if place == "-" else [place])]
    paths = find_images(places)
    prepare_backend((), options.compilation_cache)
    said = Console(stderr=True, soft_wrap=True)
    results: list[dict[str, Any]] = []
    shown: list[tuple[np.ndarray, str]] = []
    overlays = _Overlays(options)

    def broken(path, reason):
        said.print(f"broken: {printable(path, 300)} ({reason})", highlight=False, markup=False)
        results.append({"image": path, "error": reason})
        if options.json:
            print(json.dumps(results[-1]))

    see = _see_pixels if is_segmenter(options.weights) else _see
    with warnings.catch_warnings(), Progress(console=said, transient=True, disable=not said.is_terminal) as progress:
        # A line on standard error, as of all else that a person should know.
        warnings.showwarning = lambda message, *rest: said.print(str(message), highlight=False, markup=False)
        warnings.simplefilter("always", UserWarning)
        task = progress.add_task("", total=len(paths))
        started = first = time.perf_counter()
        for seen in see(options, paths, broken):
            if not shown:
                first = time.perf_counter()
            results.append(seen.line)
            print(json.dumps(seen.line) if options.json else _line(seen.line), flush=not options.json)
            if len(shown) < _MOST_SHOWN:
                share = seen.line.get("probabilities", seen.line.get("fractions"))[0]
                file = printable(pathlib.Path(seen.line["image"]).name, 28)
                shown.append((seen.picture, f"{seen.line['classes'][0]} {100 * share:.0f} %\n{file}"))
            overlays.write(seen)
            progress.update(task, completed=len(results))
    if not shown:
        raise InputError("none of the images could be read")
    seconds, at_once = time.perf_counter() - started, 1 if see is _see_pixels else options.batch_size
    if len(paths) > max(_MANY, at_once):
        # In the first batch's time the network is compiled and the workers start.
        rate = (len(paths) - at_once) / (started + seconds - first)
        text = f"{len(paths):,} images in {seconds:.1f} s: {rate:,.1f} a second after the first batch of {at_once}"
        said.print(text, highlight=False, markup=False)
    if options.sheet is not None:
        _write(
            options.sheet, draw_sheet(f"{without_folders(options.weights)}: {len(paths):,} images", shown), "--sheet"
        )
        said.print(f"sheet of {len(shown)} images: {options.sheet}", highlight=False, markup=False)
    if overlays.folder is not None:
        said.print(f"{len(overlays.written)} overlays in {overlays.folder}", highlight=False, markup=False)
    return results


def _see(options: Options, paths: Sequence[str], broken: Callable[[str, str], None]) -> Iterator[Seen]:
    """What a classifier says of each image that can be read."""
    if options.overlays is not None and options.explain is None:
        raise InputError("--overlays: a classifier's are of --explain grad_cam, occlusion or integrated_gradients")
    classifier = load_classifier(options.weights, options)
    # Worker processes take seconds to start, and one of them decodes no faster than threads.
    few = len(paths) <= 2 * options.batch_size or default_workers() == 1
    workers = (0 if few else default_workers()) if options.workers is None else options.workers
    batch_size = min(options.batch_size, len(paths))
    explainer = None if options.explain is None else Explainer(classifier, options.explain, batch_size)
    for rows, pictures in classify(classifier, paths, options.top, options.batch_size, workers, broken):
        best = np.array([classes[0] for _, classes, _ in rows], np.int32)
        maps = explainer(pictures, best) if explainer is not None and rows else [None] * len(rows)
        for (index, classes, probabilities), picture, values in zip(rows, pictures, maps, strict=True):
            names = [classifier.class_names[label] for label in classes]
            line = {"image": paths[index], "classes": names, "probabilities": _rounded(probabilities)}
            answer = f"{names[0]} {100 * probabilities[0]:.0f} %"
            shown = picture if values is None else heat(picture, values)
            yield Seen(
                line,
                shown,
                _draw_explanation,
                (picture, values, answer, options.explain, _title(options.weights, paths[index])),
            )


def _title(weights: str, image: str) -> str:
    return f"{without_folders(weights)}: {without_folders(image)}"


def _draw_explanation(*given: Any) -> dict[str, bytes]:
    return {"{}.png": draw_explanation(*given)}


def _see_pixels(options: Options, paths: Sequence[str], broken: Callable[[str, str], None]) -> Iterator[Seen]:
    """What a segmentation network says of each image: its classes, by the fraction of the pixels."""
    if options.explain is not None:
        raise InputError(f"--explain: of a classifier; {options.weights} is of masks")
    segmenter = load_segmenter(options.weights, options.checkpoint)
    probabilities = segmenter.predictor()
    names = segmenter.class_names
    for path in paths:
        try:
            image = resized(read_image(file_bytes(path), path), segmenter.longer_side)
        except (BrokenImage, InputError) as error:
            broken(path, str(error).removeprefix(f"{path}: "))
            continue
        mask = probabilities(image).argmax(-1).astype(np.uint8)
        fractions = np.bincount(mask.ravel(), minlength=len(names)) / mask.size
        order = [label for label in np.argsort(-fractions, kind="stable")[: options.top] if fractions[label]]
        line = {"image": path, "classes": [names[i] for i in order], "fractions": _rounded(fractions[order])}
        yield Seen(
            line, blend(image, mask, class_colours(len(names)), background_of(names)), _draw_mask, (image, mask, names)
        )


def _draw_mask(image: np.ndarray, mask: np.ndarray, names: Sequence[str]) -> dict[str, bytes]:
    from PIL import Image

    numbers = Image.fromarray(mask)
    numbers.putpalette(class_colours(256).tobytes())
    content = io.BytesIO()
    numbers.save(content, "png")
    return {"{}.png": draw_overlay(image, mask, names), "masks/{}.png": content.getvalue()}


class _Overlays:
    """The folder of --overlays."""

    def __init__(self, options: Options):
        default = None if options.explain is None else pathlib.Path("overlays")
        self.folder = options.overlays or default
        self.written: set[str] = set()

    def write(self, seen: Seen) -> None:
        """Writes the files of an image: NAME.png, or NAME_2.png where another folder has an image of this name."""
        if self.folder is None:
            return
        stem, number = pathlib.Path(seen.line["image"]).stem, 1
        while (name := stem if number == 1 else f"{stem}_{number}") in self.written:
            number += 1
        self.written.add(name)
        for file, content in seen.overlay(*seen.given).items():
            _write(self.folder / file.format(name), content, "--overlays")


def _write(file: pathlib.Path, content: bytes, flag: str) -> None:
    try:
        if flag == "--overlays":
            file.parent.mkdir(parents=True, exist_ok=True)
        write(file, content)
    except OSError as error:
        raise InputError(f"{flag} {file}: cannot be written: {error.strerror or error}") from None


def _from_input() -> list[str]:
    return [line for line in sys.stdin.read().splitlines() if line.strip()]


def _rounded(probabilities: np.ndarray) -> list[float]:
    return [float(f"{probability:.6g}") for probability in probabilities]


def _line(found: dict[str, Any]) -> str:
    guesses = zip(found["classes"], found.get("probabilities", found.get("fractions")), strict=True)
    return f"{found['image']}: " + ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in guesses)


if __name__ == "__main__":
    sys.exit(main())
