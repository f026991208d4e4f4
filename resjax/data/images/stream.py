"""Batches of decoded images without end: Grain orders, shards and runs the worker processes.

A batch is a function of (source, seed, its number): the same whatever the number of workers and processes. Its number
is therefore the exact position of a stream, and all that a checkpoint needs.
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

from resjax.data.images.encoded import BrokenImage, EncodedImage
from resjax.data.images.ring import Ring
from resjax.data.images.source import ImageSource
from resjax.data.images.views import View
from resjax.errors import InputError

_SLOTS_PER_WORKER = 2  # one is written while the other waits to be read
_MOST_WORKERS = 16
_INVALID = -1


class StreamError(RuntimeError):
    """The workers of a stream cannot go on; the message says why."""


class HostBatch(NamedTuple):
    """The part of a batch that this process reads.

    Attributes:
      views: for each view uint8 [N, *view.shape].
      labels: int32 [N]; -1 where there is no image: behind the last one, or one that is broken.
    """

    views: tuple[np.ndarray, ...]
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """How batches are made of images.

    Attributes:
      views: what is seen of each image.
      batch_size: images in a batch, over all processes.
      seed: of order and crops; None takes every image once, in order, and then again from the start.
      repeats: times that each image of a training batch occurs in it, each time seen otherwise (Hoffer et al. 2019,
        arXiv 1901.09335); an epoch then has 1 / repeats of the images.
      skip_broken: whether a broken image is replaced by the one after it (in evaluation: left out) or ends the stream.
      process_index, process_count: which contiguous part of each batch is read here.
    """

    views: tuple[View, ...]
    batch_size: int
    seed: int | None = None
    repeats: int = 1
    skip_broken: bool = True
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
        """Images of each batch that are read here."""
        return self.batch_size // self.process_count


def default_workers() -> int:
    """One process for each core but one, at least one and at most 16; none where Linux's shared files are missing."""
    if not hasattr(os, "memfd_create"):
        return 0
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores - 1, _MOST_WORKERS))


class ImageStream:
    """An endless iterator of a source's batches from number `start` on; a context manager, which ends the workers.

    Args:
      source: the images; picklable.
      config: how they become batches.
      start: number of the first batch.
      workers: processes that decode; 0 decodes in threads of this one.
      place: applied to each batch ahead of time, in a thread: puts it onto the devices.
      report: called in the reader's thread, once for each broken image: (path, reason).
      ahead: batches that are placed before they are asked for.

    Raises:
      InputError: where workers are asked for and cannot be had; from the iterator, for a broken image that is not to be
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
        self._config, self._place, self._report = config, place, report
        self._reported: set[str] = set()
        shapes = [((config.local_size, *view.shape), np.uint8) for view in config.views]
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

    def __exit__(self, *exception) -> None:
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
        try:
            while not self._stop.is_set():
                made = next(self._batches)
                broken, error = made.broken, None
                if broken and not self._config.skip_broken:
                    path, reason = broken[0]
                    error = InputError(f"{path}: broken image ({reason}); mend or remove it, or have it skipped")
                batch = None if error else self._place(self._take(made))
                self._put((batch, broken, error))
                if error:
                    return
        except Exception as error:
            self._put((None, (), error if isinstance(error, InputError) else _died(error)))

    def _take(self, made: "_Made") -> HostBatch:
        if self._ring is None:
            arrays = made.arrays
        else:
            # A copy, and the worker may go on: the devices of a CPU would go on reading its memory.
            arrays = [array.copy() for array in self._ring.arrays(made.slot)]
            self._ring.free(made.slot)
        return HostBatch(tuple(arrays[:-1]), arrays[-1])

    def _put(self, item) -> None:
        while not self._stop.is_set():
            try:
                return self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue


def _died(error: Exception) -> StreamError:
    return StreamError(f"the input pipeline stopped ({type(error).__name__}: {error})")


@dataclasses.dataclass(frozen=True)
class _Made:
    """What a worker hands over: where the batch is, or the batch itself, and the broken images in it."""

    slot: int
    arrays: Sequence[np.ndarray] | None
    broken: tuple[tuple[str, str], ...]


class _BatchMaker:
    """(number of a batch, its images in the epoch's order) -> the batch; runs in the workers."""

    def __init__(self, source, config, shapes, ring, start):
        self._source, self._config, self._shapes, self._ring, self._start = source, config, shapes, ring, start

    def __call__(self, number: int, indices: Sequence[int]) -> _Made:
        slot, arrays = _INVALID, None
        if self._ring is None:
            arrays = [np.empty(shape, dtype) for shape, dtype in self._shapes]
        else:
            # The same worker makes every batch of a slot: there are as many slots as workers, or a multiple.
            slot = (number - self._start) % self._ring.slots
            self._ring.wait_until_free(slot)
        *views, labels = arrays or self._ring.arrays(slot)
        config = self._config
        first = config.process_index * config.local_size
        broken = []
        for position in range(config.local_size):
            place = first + position
            index = indices[place % len(indices)] if config.seed is not None else indices[place]
            rng = None if config.seed is None else _generator(config.seed, number * config.batch_size + place)
            labels[position] = self._fill([view[position] for view in views], index, rng, broken)
        if self._ring is not None:
            self._ring.fill(slot)
        return _Made(slot, arrays, tuple(broken))

    def _fill(self, out, index, rng, broken) -> int:
        """Writes the views of an image, or of the next one that is not broken; returns its label."""
        size = len(self._source)
        for candidate in range(index, index + size) if index != _INVALID else ():
            candidate %= size
            try:
                data, label = self._source.read(candidate)
                image = EncodedImage(data)
                for view, part in zip(self._config.views, out, strict=True):
                    view(image, rng, part)
                return label
            except BrokenImage as error:
                broken.append((self._source.name(candidate), str(error)))
            if rng is None or not self._config.skip_broken:
                break
        else:
            if index != _INVALID:
                raise InputError(f"{self._source.name(index)}: broken, and so is every other image")
        for part in out:
            part[:] = 0
        return _INVALID


def _generator(seed: int, example: int) -> random.Random:
    # Python's own: NumPy's takes four times as long to make one and draw the few numbers of a crop.
    return random.Random(seed << 64 | example)


def _grain_dataset(make: _BatchMaker, start: int, workers: int):
    """Grain's iterable of what `make` returns for the batches from `start` on."""
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
        # Grain's epochs count the seed up by one: neighbouring seeds would share their orders.
        shuffle_seed = int(np.random.SeedSequence(config.seed).generate_state(1)[0])
        images = config.batch_size // config.repeats
        epoch = grain.MapDataset.range(size).shuffle(seed=shuffle_seed)[: size // config.batch_size * config.batch_size]
        numbered = epoch.repeat().batch(images, batch_fn=tuple)
    dataset = numbered.map_with_index(make)[start:]
    if workers == 0:
        threads = min(4, os.cpu_count() or 1)
        return dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    return dataset.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1), worker_init_fn=_start_worker
    )


class _Sequential:
    """Number of a batch -> its images in stored order, -1 behind the last."""

    def __init__(self, size, batch_size):
        self._size, self._batch_size = size, batch_size

    def __call__(self, number: int) -> tuple[int, ...]:
        indices = np.arange(number * self._batch_size, (number + 1) * self._batch_size)
        return tuple(np.where(indices < self._size, indices, _INVALID).tolist())


def _start_worker(index: int, count: int) -> None:
    """A worker lives as long as its parent, whoever is killed how; signals are the parent's to handle."""
    import cv2

    cv2.setNumThreads(0)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow():
        parent.join()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
