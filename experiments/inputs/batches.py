"""Sources of training batches: arrays on the devices, or streams that are read during training."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resjax import train
from resjax.data.images import ExifOrientation, HostBatch, ImageSource, ImageStream, StreamConfig, View
from resjax.train import Sums, TrainState

Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class StreamedImages:
    """Images that are read and decoded during training.

    Attributes:
      source: the images.
      views: what the network sees of each image; a training image has one view.
      workers: number of decoding processes; 0 decodes in threads.
      repeats, skip_broken, exif_orientation: see `resjax.data.images.StreamConfig`.
    """

    source: ImageSource
    views: tuple[View, ...]
    workers: int = 0
    repeats: int = 1
    skip_broken: bool = True
    exif_orientation: ExifOrientation = "ignore"

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
            exif_orientation=self.exif_orientation,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return ImageStream(self.source, config, start, self.workers, place, report)


Data = Arrays | StreamedImages


def count_images(data: Data) -> int:
    """Number of images."""
    return len(data) if isinstance(data, StreamedImages) else len(data[0])


def image_shape(data: Data) -> tuple[int, int, int]:
    """(H, W, C) of the images of a step."""
    return data.views[0].shape[-3:] if isinstance(data, StreamedImages) else data[0].shape[1:]


class BatchSource(Protocol):
    """Runs steps on its own images, for one seed, or for several seeds that each have their own state and sums."""

    def join(self, trees: Sequence[Any]) -> Any:
        """Combines the states, or the sums, of the seeds into what the other methods take."""
        ...

    def split(self, tree: Any) -> list[Any]:
        """The inverse of `join`."""
        ...

    def train(self, state: TrainState, totals: Sums, epoch: int, first: int, count: int) -> tuple[TrainState, Sums]:
        """Takes `count` steps from step `first` of an epoch on. A count of 0 only compiles."""
        ...

    def evaluate(self, split: str, variables: Any, totals: Sums, first: int, count: int) -> Sums:
        """Evaluates `count` batches of a split, "test" or "validation", from batch `first` on."""
        ...

    def close(self) -> None:
        """Stops what runs beside training."""
        ...


class _OfOneSeed:
    """For one seed, whose state and sums need no joining."""

    def join(self, trees):
        (tree,) = trees
        return tree

    def split(self, tree):
        return [tree]


class _Resident:
    """Keeps every image on every device, and draws each epoch's order there."""

    def __init__(self, config, train_data, held_out, run_steps, run_evaluation, seeds, mesh):
        self._run_steps, self._run_evaluation, self._mesh = run_steps, run_evaluation, mesh
        self._train_data = train.put_resident(train_data, mesh)
        self._held_out = {
            split: (train.put_resident(data, mesh, config.eval_batch_size), len(data[0]))
            for split, data in held_out.items()
        }
        self._seeds, self._train_size = seeds, len(train_data[0])
        self._epoch, self._order = None, None

    def train(self, state, totals, epoch, first, count):
        if epoch != self._epoch:
            orders = [train.epoch_order(seed, epoch, size=self._train_size) for seed in self._seeds]
            self._epoch, self._order = epoch, self._put_orders(orders)
        return self._run_steps(state, totals, self._train_data, self._order, first, count)

    def evaluate(self, split, variables, totals, first, count):
        return self._run_evaluation(variables, totals, *self._held_out[split], first, count)

    def close(self) -> None:
        pass


class ResidentBatches(_OfOneSeed, _Resident):
    """Resident batches of one seed, split over the devices of the mesh."""

    def __init__(self, config, train_data, held_out, train_step, eval_step, seed, mesh, sharding):
        run_steps = train.make_run_steps(train_step, config.batch_size, mesh, sharding)
        run_evaluation = train.make_run_evaluation(eval_step, config.eval_batch_size, mesh, sharding.variables)
        super().__init__(config, train_data, held_out, run_steps, run_evaluation, [seed], mesh)

    def _put_orders(self, orders):
        return train.put_whole(*orders, self._mesh)


class ResidentSeedBatches(_Resident):
    """Resident batches of several seeds, which are spread over the devices."""

    def __init__(self, config, train_data, held_out, train_step, eval_step, seeds, devices):
        mesh = train.seed_mesh(len(seeds), devices)
        run_steps = train.make_run_seeds(train_step, config.batch_size, len(seeds), mesh)
        run_evaluation = train.make_evaluate_seeds(eval_step, config.eval_batch_size, mesh)
        super().__init__(config, train_data, held_out, run_steps, run_evaluation, seeds, mesh)

    def join(self, trees):
        return train.join_seeds(trees, self._mesh)

    def split(self, tree):
        return train.split_seeds(tree, len(self._seeds))

    _put_orders = join


class StreamedBatches(_OfOneSeed):
    """Batches that workers decode and a thread copies to the devices. Their order is a function of (seed, step)."""

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
