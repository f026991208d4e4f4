"""The task of a run: network, data and metric."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from experiments.configs.base import RunConfig
from experiments.inputs.batches import (
    BatchSource,
    Data,
    ResidentBatches,
    ResidentSeedBatches,
    StreamedBatches,
    StreamedImages,
    image_shape,
)
from experiments.training.metric import TEST_ERROR, Metric
from resjax import train
from resjax.errors import InputError
from resjax.train import Sums, Totals, TrainState


def first_layer_gradient(model: nn.Module) -> Callable[[Any], jax.Array]:
    """The mean absolute gradient of the first trained convolution, from the gradients of `params`.

    Raises:
      InputError: for a network that does not say which that is.
    """
    if not getattr(model, "first_trained_kernel", None):
        raise InputError(
            f"--gradient_metrics: {type(model).__name__} does not say which convolution is its first; set its"
            ' `first_trained_kernel`, e.g. ("params", "stem", "conv", "kernel")'
        )

    def mean_absolute(gradients):
        for name in model.first_trained_kernel[1:]:
            gradients = gradients[name]
        return jnp.abs(gradients).mean()

    return mean_absolute


GRADIENT_METRICS = {"first_layer_gradient": first_layer_gradient}
"""What --gradient_metrics can record: from the network to a function of its gradients."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A network to train, its data, and how it is judged.

    Attributes:
      model: a network of `resjax.models`.
      optimizer, schedule: the optimizer, and its learning rate as a function of the step.
      prepare: normalises and augments a training batch, see `resjax.train.step.Prepare`.
      normalize: normalises test images.
      train_data, test_data: uint8 images [N, H, W, C] and int32 labels [N], or other arrays that `prepare` takes; or
        both as streams.
      title: title of the figure, without the seed.
      published: published value of the metric in percent, or None.
      published_label: label of the published value.
      metric: the number that the run is judged by.
      objective: loss and counts of a training step, see `resjax.train.Objective`.
      make_eval_step: from (model, normalize) to the evaluation step, see `resjax.train.make_eval_step`.
      steps_per_epoch: given if `prepare` differs between epochs, see `resjax.train.make_train_step`.
      validation_data: like `test_data`; if given, the best epoch is chosen on it.
      zero: empty metric sums.
      variables: initial variables, e.g. of a trained trunk; what is missing is drawn from the seed.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    prepare: Callable
    normalize: Callable
    train_data: Data
    test_data: Data
    title: str = ""
    published: float | None = None
    published_label: str = ""
    metric: Metric = TEST_ERROR
    objective: train.Objective = dataclasses.field(default_factory=train.classification)
    make_eval_step: Callable[[nn.Module, Callable], Callable] = train.make_eval_step
    zero: Sums = dataclasses.field(default_factory=Totals.zero)
    variables: Any = None
    validation_data: Data | None = None
    steps_per_epoch: int | None = None

    def held_out(self) -> dict[str, Data]:
        """The data to evaluate on after each epoch, by name."""
        splits = {"validation": self.validation_data, "test": self.test_data}
        return {split: data for split, data in splits.items() if data is not None}

    def new_state(self, config: RunConfig, variables: Any = None, seed: int | jax.Array | None = None) -> TrainState:
        """The state before the first step, from `variables` or from the seed (default: the config's)."""
        shape, averages = image_shape(self.train_data), config.average_decay > 0
        seed = config.seed if seed is None else seed
        if variables is not None:
            drawn = self.model.init(train.init_key(seed), jnp.zeros((1, *shape), jnp.float32))
            variables = _completed(variables, drawn)
        return train.create_state(self.model, self.optimizer, seed, shape, averages, variables)

    def train_step(self, config: RunConfig, sharding: TrainState | None = None) -> Callable:
        """The step of `resjax.train.make_train_step`; `sharding` is the state's, if it is split over devices."""
        return train.make_train_step(
            self.model,
            self.optimizer,
            self.prepare,
            average_decay=config.average_decay,
            objective=self.objective,
            micro_batches=config.micro_batches,
            sharding=sharding if config.shard_state else None,
            steps_per_epoch=self.steps_per_epoch,
            trained=train.trained_parameters(config.freeze),
            gradient_metrics={name: GRADIENT_METRICS[name](self.model) for name in config.gradient_metrics},
        )

    def batch_source(
        self,
        config: RunConfig,
        seeds: Sequence[int],
        mesh: Mesh,
        devices: Sequence[jax.Device],
        sharding: TrainState,
        start: int,
        report: Callable[[str], None],
    ) -> BatchSource:
        """Creates the source of batches, which also runs the training and evaluation steps.

        Args:
          config: batch sizes and options of the step.
          seeds: one seed, or several to train together, which needs images in memory.
          mesh: the devices that a batch is split over.
          devices: the devices that several seeds are spread over.
          sharding: sharding of each array of the state.
          start: the first step.
          report: receives messages for the user.
        """
        eval_step = self.make_eval_step(self.model, self.normalize)
        work = (config, self.train_data, self.held_out(), self.train_step(config, sharding), eval_step)
        if isinstance(self.train_data, StreamedImages):
            return StreamedBatches(*work, mesh, sharding, start, report)
        if len(seeds) > 1:
            return ResidentSeedBatches(*work, seeds, devices)
        return ResidentBatches(*work, seeds[0], mesh, sharding)


def _completed(given: Any, drawn: Any) -> Any:
    """The arrays of `given`, with those of `drawn` that are not among them."""
    if not isinstance(drawn, Mapping):
        return given
    return {**given, **{name: _completed(given[name], part) if name in given else part for name, part in drawn.items()}}
