"""Features of a frozen trunk, computed once, and the classifier on them."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from rich.console import Console

from experiments.configs.base import RunConfig
from experiments.inputs.batches import Arrays, Data, StreamedImages, count_images
from experiments.training.task import Task
from resjax import train


class HeadOnFeatures(nn.Module):
    """The classifier of a network, of features [N, 1, 1, C]; its variables are those of the network.

    Attributes:
      head: the network's own, see `resjax.models.Network.make_head`; of a single pixel, its pooling does nothing.
    """

    head: nn.Module

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        return self.head(features, train)


def is_cached(config: RunConfig) -> bool:
    """Whether a run trains on features that are computed once."""
    return config.freeze == "trunk" and not config.augments and getattr(config, "eval_mode", "centre") == "centre"


def on_features(task: Task, config: RunConfig, console: Console) -> Task:
    """The same task on the features of its frozen trunk, without the trunk.

    Args:
      task: a classifier's, with the variables of its trunk.
      config: of the run; nothing is drawn before the head.
      console: prints how long it took.
    """
    read = features_of(task, config, console)
    num_classes = task.model.num_classes

    def prepare(key, features, labels):
        return features, jax.nn.one_hot(labels, num_classes)

    return dataclasses.replace(
        task,
        model=HeadOnFeatures(task.model.make_head()),
        prepare=prepare,
        normalize=lambda features: features,
        train_data=read["train"],
        test_data=read["test"],
        validation_data=read.get("validation"),
        steps_per_epoch=None,
    )


def features_of(task: Task, config: RunConfig, console: Console) -> dict[str, Arrays]:
    """Pooled features, float32 [N, 1, 1, C], and int32 labels of each split, in evaluation mode.

    A broken image is left out, and named.
    """
    mesh, begin = train.data_mesh(), time.monotonic()
    trunk, pooled = task.model.clone(features_only=True), task.model.make_head().pooled
    whole = train.replicated(mesh)

    def features(variables, images, labels, valid):
        final = trunk.apply(variables, task.normalize(images), train=False)["final"]
        return pooled(final.astype(jnp.float32))[:, None, None, :], labels, valid

    compute = jax.jit(features, out_shardings=whole)
    variables = train.put_whole(task.variables, mesh)
    found: dict[str, Arrays] = {}
    splits = {"train": task.train_data, **task.held_out()}
    for split, data in splits.items():
        parts = []
        for batch in _batches(data, config.eval_batch_size, mesh, console):
            computed, labels, valid = map(np.asarray, compute(variables, *batch))
            parts.append((computed[valid], labels[valid]))
        found[split] = tuple(map(np.concatenate, zip(*parts, strict=True)))
    number, seconds = sum(len(labels) for _, labels in found.values()), time.monotonic() - begin
    rate = number / max(seconds, 1e-9)
    console.print(
        f"features of {number:,} images, computed once in {seconds:.1f} s ({rate:,.0f} images/s)", highlight=False
    )
    return found


def _batches(data: Data, batch_size: int, mesh: Mesh, console: Console) -> Iterator[tuple[Any, Any, Any]]:
    """(images, labels, valid) on the devices, in the order of the images."""
    number = count_images(data)
    if isinstance(data, StreamedImages):

        def report(path, reason):
            console.print(f"broken: {path} ({reason}), left out", highlight=False, markup=False)

        with dataclasses.replace(data, repeats=1).stream(batch_size, None, 0, mesh, report) as stream:
            for _ in range(-(-number // batch_size)):
                (images, labels), valid = next(stream)
                yield images, labels, valid
        return
    own = train.own_rows(batch_size, mesh)
    for first in range(0, number, batch_size):
        index = first + own
        inside = np.minimum(index, number - 1)
        yield train.put_batch((data[0][inside], data[1][inside], index < number), mesh)
