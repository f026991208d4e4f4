"""Where the images of a step come from: arrays on the devices, or streams that arrive while training goes on."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.configs.base import RunConfig
from resjax import train
from resjax.data.images import HostBatch, ImageSource, ImageStream, StreamConfig, View
from resjax.train import Sums, TrainState

Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class StreamedImages:
    """Images that are read and decoded while training goes on.

    Attributes:
      source: the images.
      views: what is seen of each; of training images one.
      workers: processes that decode; 0 decodes in threads.
      repeats, skip_broken: see `resjax.data.images.StreamConfig`.
    """

    source: ImageSource
    views: tuple[View, ...]
    workers: int = 0
    repeats: int = 1
    skip_broken: bool = True

    def __len__(self) -> int:
        return len(self.source)

    def stream(self, batch_size: int, seed: int | None, start: int, mesh: Mesh, report) -> ImageStream:
        """The batches from number `start` on, on the devices: ((views.., labels), valid)."""
        split = train.batch_sharding(mesh)

        def place(batch: HostBatch):
            arrays = (*batch.views, np.maximum(batch.labels, 0), batch.labels >= 0)
            *data, valid = (jax.make_array_from_process_local_data(split, array) for array in arrays)
            return tuple(data), valid

        config = StreamConfig(
            views=self.views,
            batch_size=batch_size,
            seed=seed,
            repeats=self.repeats,
            skip_broken=self.skip_broken,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return ImageStream(self.source, config, start, self.workers, place, report)


Data = Arrays | StreamedImages


def count_images(data: Data) -> int:
    """Number of images."""
    return len(data) if isinstance(data, StreamedImages) else len(data[0])


def image_shape(data: Data) -> tuple[int, int, int]:
    """(H, W, C) of what a step gets."""
    return data.views[0].shape[-3:] if isinstance(data, StreamedImages) else data[0].shape[1:]


class Feed(Protocol):
    """Takes steps on images that it has."""

    def train(self, state: TrainState, totals: Sums, epoch: int, first: int, count: int) -> tuple[TrainState, Sums]:
        """Takes `count` steps from step `first` of an epoch on; none compiles."""
        ...

    def evaluate(self, split: str, variables: Any, totals: Sums, first: int, count: int) -> Sums:
        """Evaluates `count` batches of a split, "test" or "validation", from batch `first` on."""
        ...

    def close(self) -> None:
        """Ends what runs beside training."""
        ...


def make_feed(
    config: RunConfig,
    train_data: Data,
    held_out: dict[str, Data],
    train_step: Callable,
    eval_step: Callable,
    mesh: Mesh,
    sharding: TrainState,
    start: int,
    report: Callable[[str], None],
) -> Feed:
    """The feed of a task.

    Args:
      config: batch sizes and the seed.
      train_data: the images to train on.
      held_out: those to evaluate on, by name.
      train_step, eval_step: see `resjax.train`.
      mesh: the devices that share a batch.
      sharding: of each array of the state.
      start: the step to begin with.
      report: gets messages for a person.
    """
    if isinstance(train_data, StreamedImages):
        return _Streamed(config, train_data, held_out, train_step, eval_step, mesh, sharding, start, report)
    return _Resident(config, train_data, held_out, train_step, eval_step, mesh, sharding)


class _Resident:
    """Every image on every device; an epoch's order is drawn there too."""

    def __init__(self, config, train_data, held_out, train_step, eval_step, mesh, sharding):
        self._run_steps = train.make_run_steps(train_step, config.batch_size, mesh, sharding)
        self._run_evaluation = train.make_run_evaluation(eval_step, config.eval_batch_size, mesh, sharding.variables)
        self._mesh = mesh
        self._train_data = train.put_resident(train_data, mesh)
        self._held_out = {
            split: (train.put_resident(data, mesh, config.eval_batch_size), len(data[0]))
            for split, data in held_out.items()
        }
        self._seed, self._train_size = config.seed, len(train_data[0])
        self._epoch, self._order = None, None

    def train(self, state, totals, epoch, first, count):
        if epoch != self._epoch:
            order = train.epoch_order(self._seed, epoch, size=self._train_size)
            self._epoch, self._order = epoch, train.put_whole(order, self._mesh)
        return self._run_steps(state, totals, self._train_data, self._order, first, count)

    def evaluate(self, split, variables, totals, first, count):
        return self._run_evaluation(variables, totals, *self._held_out[split], first, count)

    def close(self) -> None:
        pass


class _Streamed:
    """Batches that workers decode and a thread copies to the devices; their order is a function of (seed, step)."""

    def __init__(self, config, train_data, held_out, train_step, eval_step, mesh, sharding, start, report):
        self._config, self._held_out, self._mesh, self._report = config, held_out, mesh, report
        self._run_batch = train.make_run_batch(train_step, config.batch_size, mesh, sharding)
        self._evaluate_batch = train.make_evaluate_batch(eval_step, mesh, sharding.variables)
        self._train = train_data.stream(
            config.batch_size, config.seed, start, mesh, self._reporter("a training image, replaced by the next")
        )
        self._streams: dict[str, ImageStream] = {}
        shape = (config.batch_size, *train_data.views[0].shape)
        split = train.batch_sharding(mesh)
        self._batch_shape = tuple(
            jax.ShapeDtypeStruct(size, dtype, sharding=split)
            for size, dtype in ((shape, jnp.uint8), (shape[:1], jnp.int32))
        )

    def train(self, state, totals, epoch, first, count):
        if not count:
            self._run_batch = self._run_batch.lower(state, totals, self._batch_shape).compile()
        for _ in range(count):
            batch, _ = next(self._train)
            state, totals = self._run_batch(state, totals, batch)
        return state, totals

    def evaluate(self, split, variables, totals, first, count):
        if split not in self._streams:
            reporter = self._reporter(f"a {split} image, left out")
            stream = self._held_out[split].stream(self._config.eval_batch_size, None, first, self._mesh, reporter)
            self._streams[split] = stream
        for _ in range(count):
            totals = self._evaluate_batch(variables, totals, *next(self._streams[split]))
        return totals

    def close(self) -> None:
        self._train.close()
        for stream in self._streams.values():
            stream.close()

    def _reporter(self, what: str):
        return lambda path, reason: self._report(f"broken: {path} ({reason}), {what}")
