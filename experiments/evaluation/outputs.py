"""What a classifier puts out for each image of a pass, in memory or streamed, whichever program trained it."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.trained import TrainedModel
from experiments.inputs.batches import StreamedImages
from resjax import train
from resjax.data import Dataset
from resjax.interop.network_input import Preprocessing

Batch = tuple[tuple[Any, ...], Any]
"""((views.., labels), valid): uint8 images [B, H, W, C], or [B, crops, H, W, C], int32 [B], and bool [B]."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A classifier, and the images that it is examined on.

    Attributes:
      name: of both.
      class_names: of its outputs.
      variables: of the network.
      forward: compiled; (variables, views of a batch) -> logits, float32 [B, K].
      from_pixels: (variables, pixels 0 .. 255 as float [B, H, W, C]) -> logits, differentiable in the pixels; None
        where the network sees several crops of an image, or resizes it.
      batches: starts a pass; padded to equal batches, `valid` where an image is.
      number: of batches.
      shape: (H, W, C) of what it sees; (crops, H, W, C) where that is several crops of each image.
    """

    name: str
    class_names: Sequence[str]
    variables: Any
    forward: Callable[[Any, tuple[Any, ...]], jax.Array]
    from_pixels: Callable[[Any, jax.Array], jax.Array] | None
    batches: Callable[[], Iterator[Batch]]
    number: int
    shape: tuple[int, ...]


class Mistake(NamedTuple):
    """An image that was taken for another class: how sure, which image of the pass, and what the network saw of it."""

    confidence: float
    position: int
    picture: np.ndarray


class Outputs(NamedTuple):
    """Of the images of a pass that could be read, in their order.

    Attributes:
      logits: float32 [N, K].
      labels: int32 [N].
      mistakes: the surest, in falling order.
    """

    logits: np.ndarray
    labels: np.ndarray
    mistakes: list[Mistake]


def subject_of(network: TrainedModel, batch_size: int, views: Callable | None = None) -> Subject:
    """A network and its test images. `views` is that of `resjax.train.make_eval_step`.

    Raises:
      InputError: where `batch_size` is no multiple of the number of devices.
    """

    def forward(variables, images):
        weighted = [
            weight * network.model.apply(variables, view, train=False)
            for weight, view in (views or (lambda one: [(1.0, one)]))(network.normalize(*images))
        ]
        return sum(weighted[1:], weighted[0])

    def from_pixels(variables, pixels):
        return network.model.apply(variables, normalized(network.normalize, pixels), train=False)

    shape = network.test.images.shape[1:]
    return on_images(
        Subject(
            network.name,
            network.class_names or network.info.class_names,
            network.variables,
            compiled(forward, batch_size),
            from_pixels if _keeps_size(network.normalize, shape) else None,
            lambda: iter(()),
            0,
            shape,
        ),
        network.test,
        batch_size,
    )


def on_images(subject: Subject, data: Dataset, batch_size: int) -> Subject:
    """The same classifier on other images of its size."""
    return dataclasses.replace(
        subject,
        batches=lambda: resident_batches(data, batch_size),
        number=-(-len(data.labels) // batch_size),
    )


def resident_batches(data: Dataset, batch_size: int) -> Iterator[Batch]:
    """Batches of arrays; the last is padded."""
    for start in range(0, len(data.labels), batch_size):
        images, labels = data.images[start : start + batch_size], data.labels[start : start + batch_size]
        padding = batch_size - len(labels)
        images = np.pad(images, ((0, padding), (0, 0), (0, 0), (0, 0)))
        yield (images, np.pad(labels, (0, padding))), np.arange(batch_size) < len(labels)


def streamed_batches(data: StreamedImages, batch_size: int, report: Callable) -> Iterator[Batch]:
    """Batches of encoded images, on the devices; `report` is called with (path, reason) for each that is broken."""
    with contextlib.closing(data.stream(batch_size, None, 0, train.data_mesh(), report)) as stream:
        for _ in range(-(-len(data) // batch_size)):
            yield next(stream)


def compiled(forward: Callable, batch_size: int) -> Callable:
    """(variables, batch) -> outputs, with batches split over the devices and outputs whole on each.

    Raises:
      InputError: where `batch_size` is no multiple of the number of devices.
    """
    mesh = train.data_mesh()
    train.check_batch_size(batch_size, mesh)
    whole = train.replicated(mesh)
    return jax.jit(forward, in_shardings=(whole, train.batch_sharding(mesh)), out_shardings=whole)


def outputs(subject: Subject, keep: int = 0, track: Callable[[Iterable, int], Iterable] | None = None) -> Outputs:
    """One pass.

    Args:
      keep: how many of the surest mistakes to keep.
      track: (iterable, its length) -> the same iterable; shows progress.
    """
    logits, labels, mistakes, seen = [], [], [], 0
    batches = subject.batches() if track is None else track(subject.batches(), subject.number)
    for (*views, truth), valid in batches:
        valid = np.asarray(valid)
        found = np.asarray(subject.forward(subject.variables, tuple(views)))[valid]
        truth = np.asarray(truth)[valid]
        if keep:
            wrong = np.flatnonzero(found.argmax(-1) != truth)
            confidence = np.asarray(jax.nn.softmax(found[wrong])).max(-1, initial=0)
            order = np.argsort(-confidence, kind="stable")[:keep]
            least = mistakes[-1].confidence if len(mistakes) == keep else -1
            order = [i for i in order if confidence[i] > least]
            if order:
                pictures = np.asarray(views[0])[valid]
                for i in order:
                    picture = pictures[wrong[i]]
                    picture = picture[len(picture) // 2] if picture.ndim == 4 else picture
                    mistakes.append(Mistake(float(confidence[i]), seen + int(wrong[i]), np.array(picture)))
                mistakes = sorted(mistakes, key=lambda one: (-one.confidence, one.position))[:keep]
        seen += len(truth)
        logits.append(found)
        labels.append(truth)
    return Outputs(np.concatenate(logits), np.concatenate(labels), mistakes)


def normalized(normalize: Callable, pixels: jax.Array) -> jax.Array:
    """The network's input of float pixels 0 .. 255, of which `Preprocessing` takes uint8 alone."""
    if isinstance(normalize, Preprocessing):
        return (pixels - normalize.mean) / normalize.std
    return normalize(jnp.asarray(pixels))


def _keeps_size(normalize: Callable, shape: tuple[int, ...]) -> bool:
    """Whether the network sees the images themselves, neither resized nor in other channels."""
    if not isinstance(normalize, Preprocessing):
        return True
    return normalize.size in (None, shape[:2]) and normalize.crop == 1 and normalize.channels == shape[-1]
