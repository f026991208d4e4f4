"""What a run trains, on what, and how it is judged."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from experiments.configs.base import RunConfig
from experiments.feeds import Data, Feed, ResidentFeed, ResidentSeedsFeed, StreamedFeed, StreamedImages, image_shape
from experiments.measure import TEST_ERROR, Measure
from resjax import train
from resjax.train import Sums, Totals, TrainState


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, on what.

    Attributes:
      model: a network of `resjax.models`.
      optimizer, schedule: the optimizer, and its learning rate as a function of the step.
      prepare: normalisation and augmentation of a training batch, see `resjax.train.step.Prepare`.
      normalize: normalisation of test images.
      train_data, test_data: uint8 images [N, H, W, C] and int32 labels [N], or what else `prepare` takes; or both as
        streams.
      title: of the figure, without the seed.
      published: the published value of the measure in percent, or None.
      published_label: of the published value.
      measure: the number that the run is judged by.
      objective: loss and counts of a training step, see `resjax.train.Objective`.
      eval_step: see `resjax.train.make_eval_step`; None is that of a classifier.
      steps_per_epoch: where `prepare` differs between epochs, see `resjax.train.make_train_step`.
      validation_data: as `test_data`; where it is given, the best epoch is chosen by it.
      zero: sums in which nothing is counted yet.
      variables: to start from; None initialises the network from the seed.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    prepare: Callable
    normalize: Callable
    train_data: Data
    test_data: Data
    title: str
    published: float | None = None
    published_label: str = ""
    measure: Measure = TEST_ERROR
    objective: train.Objective = dataclasses.field(default_factory=train.classification)
    eval_step: Callable | None = None
    zero: Sums = dataclasses.field(default_factory=Totals.zero)
    variables: Any = None
    validation_data: Data | None = None
    steps_per_epoch: int | None = None

    def held_out(self) -> dict[str, Data]:
        """What to evaluate on after each epoch, by name."""
        splits = {"validation": self.validation_data, "test": self.test_data}
        return {split: data for split, data in splits.items() if data is not None}

    def new_state(self, config: RunConfig, variables: Any = None, seed: int | jax.Array | None = None) -> TrainState:
        """The state before the first step, from `variables` or from the seed (default: the config's)."""
        shape, averages = image_shape(self.train_data), config.average_decay > 0
        seed = config.seed if seed is None else seed
        return train.create_state(self.model, self.optimizer, seed, shape, averages, variables)

    def train_step(self, config: RunConfig, sharding: TrainState | None = None) -> Callable:
        """The step of `resjax.train.make_train_step`; `sharding` is that of the state, where devices hold shares."""
        return train.make_train_step(
            self.model,
            self.optimizer,
            self.prepare,
            average_decay=config.average_decay,
            objective=self.objective,
            micro_batches=config.micro_batches,
            sharding=sharding if config.shard_state else None,
            steps_per_epoch=self.steps_per_epoch,
        )

    def feed(
        self,
        config: RunConfig,
        seeds: Sequence[int],
        mesh: Mesh,
        devices: Sequence[jax.Device],
        sharding: TrainState,
        start: int,
        report: Callable[[str], None],
    ) -> Feed:
        """What takes the steps of training, and evaluates.

        Args:
          config: batch sizes, and how a step is made.
          seeds: one, or several to train together, which needs images in memory.
          mesh: the devices that share a batch.
          devices: those that several seeds share.
          sharding: of each array of the state.
          start: the step to begin with.
          report: gets messages for a person.
        """
        eval_step = self.eval_step or train.make_eval_step(self.model, self.normalize)
        work = (config, self.train_data, self.held_out(), self.train_step(config, sharding), eval_step)
        if isinstance(self.train_data, StreamedImages):
            return StreamedFeed(*work, mesh, sharding, start, report)
        if len(seeds) > 1:
            return ResidentSeedsFeed(*work, seeds, devices)
        return ResidentFeed(*work, seeds[0], mesh, sharding)
