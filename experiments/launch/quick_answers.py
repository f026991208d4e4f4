"""`--linear_probe` and `--knn`: what the features of trained weights are worth on new images, in seconds."""

import time

import numpy as np
from rich.console import Console

from experiments.configs.base import RunConfig
from experiments.training.features import features_of
from experiments.training.task import Task
from resjax import train


def print_quick_answers(config: RunConfig, task: Task, console: Console) -> dict[str, float]:
    """Prints the test error of classifiers of the features; returns each in percent, by the name of its flag.

    Args:
      config: of the run; images are taken as they are evaluated.
      task: of such a run, with the variables of its trunk.
      console: where it is printed.
    """
    splits = features_of(task, config, console)
    splits = {name: (features[:, 0, 0], labels) for name, (features, labels) in splits.items()}
    (known, labels), (queries, truth) = splits["train"], splits["test"]
    num_classes, errors = task.model.num_classes, {}

    def answer(name: str, what: str, scores: np.ndarray, begin: float) -> None:
        wrong = int((scores.argmax(1) != truth).sum())
        errors[name] = 100 * wrong / len(truth)
        console.print(
            f"{what}: test error {errors[name]:.2f}% ({wrong:,} of {len(truth):,} images), in"
            f" {time.monotonic() - begin:.1f} s",
            highlight=False,
        )

    if config.knn:
        begin = time.monotonic()
        answer("knn", "nearest neighbours", train.nearest_neighbours(known, labels, queries, num_classes), begin)
    if config.linear_probe:
        begin = time.monotonic()
        probe = train.fit_linear_probe(known, labels, num_classes)
        answer("linear_probe", f"linear probe, weight decay {probe.weight_decay:g}", probe.logits(queries), begin)
    return errors
