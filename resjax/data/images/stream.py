"""Endless batches of decoded images. Grain orders and shards the images, and runs the worker processes.

A batch is a function of (source, seed, number), independent of the number of workers and processes. The number is
therefore the exact position of a stream, and all that a checkpoint needs.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import queue
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from resjax.data.images.encoded import BrokenImage, EncodedImage
from resjax.data.images.orientation import ExifOrientation
from resjax.data.images.ring import Ring
from resjax.data.images.source import ImageSource
from resjax.data.images.views import View
from resjax.errors import InputError, StreamError

_SLOTS_PER_WORKER = 2  # one is written while the other waits to be read
_MOST_WORKERS = 16
_INVALID = -1
_MOST_EPOCHS = (
    2**31
)  # Grain counts the batches of its own endless repetition in floats, one too many for one image each


class HostBatch(NamedTuple):
    """The part of a batch that this process reads.

    Attributes:
      views: for each view uint8 [N, *view.shape].
      labels: int32 [N]; -1 where there is no image: after the last one, or in place of a broken one.
    """

    views: tuple[np.ndarray, ...]
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """How batches are made from images.

    Attributes:
      views: the views of each image.
      batch_size: images in a batch, over all processes.
      seed: seed of order and crops; None takes every image once, in order, and then starts again.
      repeats: how often each image of a training batch occurs in it, each time with another view (Hoffer et al. 2019,
        arXiv 1901.09335); an epoch then has 1 / repeats of the images.
      skip_broken: whether a broken image is replaced by the next one (left out in evaluation), or ends the stream.
      exif_orientation: whether an image is turned upright as its EXIF says: "ignore" or "apply".
      process_index, process_count: choose the contiguous part of each batch that this process reads.
    """

    views: tuple[View, ...]
    batch_size: int
    seed: int | None = None
    repeats: int = 1
    skip_broken: bool = True
    exif_orientation: ExifOrientation = "ignore"
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self):
        if self.batch_size <= 0 or self.batch_size % (self.process_count * self.repeats):
            raise InputError(
                f"batch_size {self.batch_size}: expected a positive multiple of {self.process_count} processes times"
                f" {self.repeats} repeats"
            )

    @property
    def local_size(self) -> int:
        """Number of images of each batch that this process reads."""
        return self.batch_size // self.process_count


def default_workers() -> int:
    """One process for each core but one, at least one and at most 16; 0 if the system has no memfd (not Linux)."""
    if not hasattr(os, "memfd_create"):
        return 0
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores - 1, _MOST_WORKERS))


class ImageStream:
    """An endless iterator over a source's batches from number `start` on, and a context manager that ends the workers.

    Args:
      source: the images; picklable.
      config: how images become batches.
      start: number of the first batch.
      workers: number of processes that decode; 0 decodes in threads of this process.
      place: puts a batch onto the devices; called ahead of time, in a thread.
      report: called in the reader's thread, once for each broken image: (path, reason).
      ahead: number of batches that are placed before they are asked for.

    Raises:
      InputError: if workers are asked for and not possible; from the iterator, for a broken image that is not to be
        skipped.
    """

    def __init__(
        self,
        source: ImageSource,
        config: StreamConfig,
        start: int = 0,
        workers: int = 0,
        place: Callable[[HostBatch], Any] = lambda batch: batch,
        report: Callable[[str, str], None] = lambda path, reason: None,
        ahead: int = 2,
    ):
        if workers and not hasattr(os, "memfd_create"):
            raise InputError(f"workers {workers}: worker processes need Linux; 0 decodes in threads")
        smallest = 1 if config.seed is None else config.batch_size
        if len(source) < smallest:
            raise InputError(
                f"{len(source):,} images to read: expected {smallest:,} or more"
                + (", a batch of them; lower the batch size, or give more images" if smallest > 1 else "")
            )
        self._config, self._place, self._report = config, place, report
        self._pass = -(-len(source) // config.batch_size) if config.seed is None and config.process_count == 1 else 0
        self._reported: set[str] = set()
        shapes: list[tuple[tuple[int, ...], DTypeLike]] = [
            ((config.local_size, *view.shape), np.uint8) for view in config.views
        ]
        shapes.append(((config.local_size,), np.int32))
        self._ring = Ring(_SLOTS_PER_WORKER * workers, shapes) if workers else None
        self._batches = iter(_grain_dataset(_BatchMaker(source, config, shapes, self._ring, start), start, workers))
        self._ready: queue.Queue = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="resjax-stream", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch, broken, error = self._ready.get()
        for path, reason in broken:
            if path not in self._reported:
                self._reported.add(path)
                self._report(path, reason)
        if error is not None:
            raise error
        return batch

    def __enter__(self) -> "ImageStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers and the thread."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._ring is not None:
            self._ring.end()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get(timeout=0.05)
        self._thread.join()
        self._batches.close()
        if self._ring is not None:
            self._ring.close()

    def _read(self) -> None:
        """The thread: takes batches from Grain, places them, and keeps a few ready."""
        empty = 0  # batches in succession without an image
        try:
            while not self._stop.is_set():
                made = next(self._batches)
                broken, error = made.broken, None
                if broken and not self._config.skip_broken:
                    path, reason = broken[0]
                    error = InputError(f"{path}: broken image ({reason}); mend it, or have it skipped")
                taken = None if error else self._take(made)
                empty = 0 if taken is None or (taken.labels != _INVALID).any() else empty + 1
                if self._pass and empty == self._pass:
                    path, reason = broken[0]
                    error = InputError(f"{path}: broken ({reason}), and so is every other image")
                self._put((None if taken is None or error else self._place(taken), broken, error))
                if error:
                    return
        except Exception as error:
            self._put((None, (), error if isinstance(error, InputError) else _died(error)))

    def _take(self, made: "_Made") -> HostBatch:
        if self._ring is None:
            arrays = made.arrays
        else:
            # A copy, so that the worker may go on: CPU devices would keep reading its memory.
            arrays = [array.copy() for array in self._ring.arrays(made.slot)]
            self._ring.free(made.slot)
        return HostBatch(tuple(arrays[:-1]), arrays[-1])

    def _put(self, item: tuple[Any, Sequence[tuple[str, str]], Exception | None]) -> None:
        while not self._stop.is_set():
            try:
                return self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue


def _died(error: Exception) -> StreamError:
    return StreamError(f"the input pipeline stopped ({type(error).__name__}: {error})")


@dataclasses.dataclass(frozen=True)
class _Made:
    """A worker's result: the place of the batch (or, if empty, the batch itself), and the broken images in it."""

    slot: int
    arrays: Sequence[np.ndarray]
    broken: tuple[tuple[str, str], ...]


class _BatchMaker:
    """(number of a batch, its images in the epoch's order) -> the batch. Runs in the workers."""

    def __init__(
        self,
        source: ImageSource,
        config: StreamConfig,
        shapes: Sequence[tuple[tuple[int, ...], DTypeLike]],
        ring: Ring | None,
        start: int,
    ):
        self._source, self._config, self._shapes, self._ring, self._start = source, config, shapes, ring, start

    def __call__(self, number: int, indices: Sequence[int]) -> _Made:
        slot = _INVALID
        if self._ring is None:
            arrays = [np.empty(shape, dtype) for shape, dtype in self._shapes]
        else:
            # One worker makes every batch of a slot: the number of slots is a multiple of the number of workers.
            slot = (number - self._start) % self._ring.slots
            self._ring.wait_until_free(slot)
            arrays = self._ring.arrays(slot)
        *views, labels = arrays
        config = self._config
        first = config.process_index * config.local_size
        broken: list[tuple[str, str]] = []
        for position in range(config.local_size):
            place = first + position
            index = indices[place % len(indices)] if config.seed is not None else indices[place]
            rng = None if config.seed is None else _generator(config.seed, number * config.batch_size + place)
            labels[position] = self._fill([view[position] for view in views], index, rng, broken)
        if self._ring is None:
            return _Made(slot, arrays, tuple(broken))
        self._ring.fill(slot)
        return _Made(slot, (), tuple(broken))

    def _fill(
        self, out: Sequence[np.ndarray], index: int, rng: random.Random | None, broken: list[tuple[str, str]]
    ) -> int:
        """Writes the views of an image, or of the next one that is not broken. Returns its label."""
        size = len(self._source)
        for candidate in range(index, index + size) if index != _INVALID else ():
            candidate %= size
            try:
                data, label = self._source.read(candidate)
                image = EncodedImage(data, self._config.exif_orientation)
                for view, part in zip(self._config.views, out, strict=True):
                    view(image, rng, part)
                return label
            except BrokenImage as error:
                broken.append((self._source.name(candidate), str(error)))
            if rng is None or not self._config.skip_broken:
                break
        else:
            if index != _INVALID:
                path, reason = broken[0]
                raise InputError(f"{path}: broken ({reason}), and so is every other image")
        for part in out:
            part[:] = 0
        return _INVALID


def _generator(seed: int, example: int) -> random.Random:
    # Python's own generator: NumPy's takes four times as long to create and to draw the few numbers of a crop.
    return random.Random(seed << 64 | example)


def _grain_dataset(make: _BatchMaker, start: int, workers: int) -> Any:
    """Grain's iterable of the results of `make` for the batches from `start` on."""
    import grain
    from absl import flags

    # Grain asks absl's flags, which refuse to answer in a program that does not use absl.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    config, size = make._config, len(make._source)
    if config.seed is None:
        batches = -(-size // config.batch_size)
        numbered = grain.MapDataset.range(batches).map(_Sequential(size, config.batch_size)).repeat()
    else:
        # Grain adds the epoch to the seed, so that neighbouring seeds would have the same orders.
        shuffle_seed = int(np.random.SeedSequence(config.seed).generate_state(1)[0])
        images = config.batch_size // config.repeats
        epoch = grain.MapDataset.range(size).shuffle(seed=shuffle_seed)[: size // config.batch_size * config.batch_size]
        numbered = epoch.repeat(_MOST_EPOCHS).batch(images, batch_fn=tuple)
    dataset = numbered.map_with_index(make)[start:]
    if workers == 0:
        threads = min(4, os.cpu_count() or 1)
        return dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    return dataset.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1), worker_init_fn=_start_worker
    )


class _Sequential:
    """Number of a batch -> its images in stored order, -1 after the last."""

    def __init__(self, size: int, batch_size: int):
        self._size, self._batch_size = size, batch_size

    def __call__(self, number: int) -> tuple[int, ...]:
        indices = np.arange(number * self._batch_size, (number + 1) * self._batch_size)
        return tuple(np.where(indices < self._size, indices, _INVALID).tolist())


def _start_worker(index: int, count: int) -> None:
    """A worker ends with its parent, however that is killed. Signals are handled by the parent."""
    import cv2

    cv2.setNumThreads(0)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
