"""How a classifier fares under damage, under attack, and on images of other things."""

import dataclasses
import fractions
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.evaluation.classifier import ImageFiles
from experiments.evaluation.outputs import Batch, Outputs, Subject, outputs, resident_batches, streamed_batches
from experiments.inputs.batches import StreamedImages
from experiments.inputs.splits import with_channels
from resjax import train
from resjax.analysis import detection, fgsm, largest_probability, negative_energy, pgd
from resjax.data import Dataset, dataset_info, load_dataset
from resjax.data.arrays.files import NAME as ARRAYS
from resjax.data.augment import CORRUPTIONS, corrupt
from resjax.data.catalog import CATALOG
from resjax.data.images import require_decoders
from resjax.data.images.encoded import SUFFIXES
from resjax.data.images.views import CentralPart
from resjax.data.resize import resize
from resjax.errors import InputError

Track = Callable[[Iterable, int], Iterable]
Attack = Literal["fgsm", "pgd"]
SEVERITIES = range(1, 6)
_SEED = 0


def corruption_errors(subject: Subject, track: Track) -> dict[str, list[float]]:
    """The error in percent under each of `CORRUPTIONS` at severities 1 to 5; an image's damage is always the same.

    Raises:
      InputError: where the network sees several crops of an image.
    """
    _require_one_view(subject, "--corruptions")
    mesh = train.data_mesh()
    split, whole = train.batch_sharding(mesh), train.replicated(mesh)

    def damage(name):
        def damaged(positions, images, severity):
            keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(_SEED), i))(positions)
            return corrupt(keys, images, name, severity).astype(jnp.uint8)

        return jax.jit(damaged, in_shardings=(split, split, whole), out_shardings=split)

    damages = {name: damage(name) for name in CORRUPTIONS}
    wrong = np.zeros((len(CORRUPTIONS), len(SEVERITIES)), int)
    images = 0
    for number, ((views, labels), valid) in enumerate(track(subject.batches(), subject.number)):
        labels, valid = np.asarray(labels), np.asarray(valid)
        positions = (number * len(labels) + np.arange(len(labels))).astype(np.uint32)
        for row, damaged in enumerate(damages.values()):
            for column, severity in enumerate(SEVERITIES):
                logits = subject.forward(subject.variables, (damaged(positions, views, np.int32(severity)),))
                wrong[row, column] += ((np.asarray(logits).argmax(-1) != labels) & valid).sum()
        images += int(valid.sum())
    return dict(zip(CORRUPTIONS, (100 * wrong / images).tolist(), strict=True))


def error_under_attack(subject: Subject, attack: Attack, epsilon: float, track: Track) -> float:
    """The fraction, in percent, of the images that are mistaken as they are, or after an attack on the own label.

    Args:
      attack: "fgsm", or "pgd" of 20 steps.
      epsilon: largest change of a value, on the scale of [0, 1].

    Raises:
      InputError: where the network sees several crops of an image, or resizes it.
    """
    from_pixels = subject.from_pixels
    if from_pixels is None:
        raise InputError(
            f"--attack {attack}: {subject.name} sees several crops of an image, or resizes it; the pixels that it sees"
            " cannot be attacked"
        )

    def mistaken(variables, batch):
        keys, images, labels = batch
        images = images.astype(jnp.float32) / 255

        def loss(attacked):
            return optax.softmax_cross_entropy_with_integer_labels(from_pixels(variables, 255 * attacked), labels)

        if attack == "fgsm":
            attacked = fgsm(loss, images, epsilon)
        else:
            # Above log K the label has less than the mean probability: the image is mistaken, and remains so.
            enough = math.log(len(subject.class_names))
            attacked = pgd(keys[0], loss, images, epsilon, enough=enough)
        before, after = (from_pixels(variables, 255 * one).argmax(-1) != labels for one in (images, attacked))
        return before | after

    mesh = train.data_mesh()
    shardings = (train.replicated(mesh), (train.replicated(mesh), *(train.batch_sharding(mesh),) * 2))
    of_batch = jax.jit(mistaken, in_shardings=shardings, out_shardings=train.replicated(mesh))
    errors = images = 0
    for number, ((views, labels), valid) in enumerate(track(subject.batches(), subject.number)):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(_SEED), number), 1)
        errors += int((np.asarray(of_batch(subject.variables, (keys, views, labels))) & np.asarray(valid)).sum())
        images += int(np.asarray(valid).sum())
    return 100 * errors / images


def unknown_images(
    subject: Subject, known: Outputs, place: str, data_dir: str | None, batch_size: int, report: Callable, track: Track
) -> dict[str, Any]:
    """How well its largest probability, and its energy, tell the images that it knows from those in `place`.

    Args:
      subject: the classifier.
      known: its outputs for the images that it knows.
      place: a data set's name, a folder of image files, or a file or folder of arrays.
      data_dir: where a data set of that name is.
      batch_size: images in a step.
      report: called with (path, reason) for each file that is broken.
      track: shows progress.

    Returns:
      {"of", "images", "max_softmax", "energy"}: the last two {"auroc", "fpr95"}, in percent.

    Raises:
      InputError: where there are no images, they do not fit, or the network sees several crops of an image.
    """
    _require_one_view(subject, "--ood")
    number, batches = _unknown_batches(subject, place, data_dir, batch_size, report)
    unknown = outputs(dataclasses.replace(subject, batches=batches, number=number), track=track)
    result: dict[str, Any] = {"of": place, "images": len(unknown.labels)}
    for name, score in (("max_softmax", largest_probability), ("energy", negative_energy)):
        found = detection(score(known.logits), score(unknown.logits))
        result[name] = {"auroc": 100 * found.auroc, "fpr95": 100 * found.fpr95}
    return result


def _unknown_batches(subject, place, data_dir, batch_size, report) -> tuple[int, Callable[[], Iterator[Batch]]]:
    path = pathlib.Path(place).expanduser()
    height, width, channels = subject.shape
    files = (
        sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if place not in CATALOG and path.is_dir()
        else []
    )
    if files:
        if channels != 3:
            raise InputError(f"--ood {place}: image files are of 3 channels, the network's of {channels}; give arrays")
        require_decoders()
        streamed = StreamedImages(ImageFiles(files), (CentralPart((height, width), (height, width), "bicubic"),))
        return -(-len(files) // batch_size), lambda: streamed_batches(streamed, batch_size, report)
    if place in CATALOG:
        data = load_dataset(place, "test", data_dir)
    elif path.exists():
        sizes = dataset_info(ARRAYS, path).split_sizes
        data = load_dataset(ARRAYS, "test" if "test" in sizes else next(iter(sizes)), path)
    else:
        data = load_dataset(place, "test", data_dir)  # raises an error that names the nearest
    data = with_channels(data, channels)
    if data.images.shape[-1] != channels:
        raise InputError(f"--ood {place}: images of {data.images.shape[-1]} channels, the network's have {channels}")
    fitted = jax.jit(lambda images: resize(images, (height, width), "bicubic"))

    def batches():
        labels = np.zeros(len(data.labels), np.int32)  # their classes are not the network's
        for (images, zeros), valid in resident_batches(Dataset(data.images, labels), batch_size):
            yield (np.asarray(fitted(images)), zeros), valid

    return -(-len(data.labels) // batch_size), batches


def epsilon_of(text: str) -> float:
    """The number that a text like "8/255" or "0.03" stands for; raises InputError unless it is in (0, 1]."""
    try:
        epsilon = float(fractions.Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        epsilon = 0.0
    if not 0 < epsilon <= 1:
        raise InputError(f"--epsilon: expected a fraction of the range of pixels, like 8/255 or 0.03, got {text}")
    return epsilon


def _require_one_view(subject: Subject, flag: str) -> None:
    if len(subject.shape) != 3:
        raise InputError(f"{flag}: {subject.name} is evaluated on several crops of an image; only for one")
