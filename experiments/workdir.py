"""The files of one run: config.json, metrics.jsonl, summary.json, curves.png, checkpoints/."""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from experiments.configs.base import RunConfig, flatten
from resjax.errors import InputError

METRIC_KEYS = {
    "epoch": "completed epochs",
    "step": "completed training steps",
    "learning_rate": "of the epoch's last step",
    "train_loss": "mean over the epoch's images, as augmented and while the network changed",
    "train_accuracy": "share of the epoch's images, in [0, 1], likewise",
    "first_layer_gradient": "mean over the epoch's steps of the mean absolute gradient of the first convolution",
    "test_loss": "mean cross-entropy over the test images, each counted once",
    "test_accuracy": "share of the test images, in [0, 1]",
    "test_error": "100 * (1 - test_accuracy), in percent",
    "images_per_second": "training images per second, without evaluation and compilation; of all seeds together",
    "train_seconds": "seconds of training in this epoch; of seeds that are trained together each has its share",
    "test_seconds": "seconds of evaluation, likewise",
}
"""Keys of each line of metrics.jsonl, one line an epoch."""

VALIDATION_KEYS = {
    key.replace("test", "validation"): meaning.replace("test", "validation")
    for key, meaning in METRIC_KEYS.items()
    if key in ("test_loss", "test_accuracy", "test_error")
}
"""What is added to them by --validation_images."""

IMAGENET_KEYS = {**METRIC_KEYS, "test_top5_error": "share of the test images whose class is not among five, in percent"}
"""The same for photographs."""

SEGMENTATION_KEYS = {
    **{key: meaning for key, meaning in METRIC_KEYS.items() if key != "test_error"},
    "train_accuracy": "share of the epoch's labelled pixels, in [0, 1], as augmented and while the network changed",
    "test_accuracy": "share of the labelled pixels of the test images, in [0, 1], each counted once",
    "train_mean_iou": "mean intersection over union of the classes in percent, as train_accuracy",
    "test_mean_iou": "mean intersection over union of the classes in percent, as test_accuracy",
    "test_class_iou": "of each class in percent; null for one that is neither there nor predicted",
}
"""The same for segmentation."""


class Workdir:
    """Reads and writes the files of a run; every whole file is replaced atomically.

    Args:
      path: the folder, which all processes of the run see.
      writes: whether this process writes: one of them does, the others only read.
    """

    def __init__(self, path: str | pathlib.Path, writes: bool = True):
        self.writes = writes
        self.path = pathlib.Path(path).absolute()
        self.checkpoints = self.path / "checkpoints"
        self.curves = self.path / "curves.png"
        self.tensorboard = self.path / "tensorboard"
        self._config, self._metrics, self._summary = (
            self.path / name for name in ("config.json", "metrics.jsonl", "summary.json")
        )

    def of_seed(self, seed: int) -> "Workdir":
        """The workdir inside this one of one of the seeds that are trained together."""
        return Workdir(self.path / f"seed_{seed}", self.writes)

    def check_config(self, config: RunConfig) -> None:
        """Raises InputError where the folder holds the run of another config."""
        if not self._config.exists():
            return
        try:
            there = flatten(json.loads(self._config.read_text())["config"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self._config} cannot be read as the config of a run: {error}; use another --workdir"
            ) from None
        self.check_same(there, config.identity())

    def check_same(self, there: dict[str, Any], here: dict[str, Any]) -> None:
        """Raises InputError with every field in which the run of this folder differs from the one that is asked for."""
        differing = [key for key in here if key not in there or there[key] != here[key]]
        if differing:
            listed = "; ".join(f"{key}: {there.get(key)!r} there, {here[key]!r} here" for key in differing)
            raise InputError(
                f"workdir {self.path} holds a run of another config ({listed}). Use another --workdir, or the same"
                " values, or --resume never to move the earlier run aside"
            )

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self._config.exists() or self.checkpoints.exists()

    def is_finished(self) -> bool:
        """Whether the run was trained to its end."""
        return self._summary.exists()

    def saved_steps(self) -> list[int]:
        """Steps of the checkpoints that a run can go on from, ascending."""
        return sorted(int(path.name) for path in (self.checkpoints / "latest").glob("*") if path.name.isdigit())

    def move_aside(self) -> pathlib.Path:
        """Renames the folder to the first free of NAME.1, NAME.2, ..; returns the new path."""
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(target)
        return target

    def make(self) -> None:
        """Makes the folder; raises InputError where that is not possible."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"workdir {self.path} cannot be made: {error}; choose another --workdir") from None

    def start(self, resolved: dict[str, Any]) -> None:
        """Makes the folder and writes config.json, the resolved config, unless it is there."""
        self.make()
        if not self._config.exists():
            self._replace(self._config, json.dumps(resolved, indent=2) + "\n")

    def read_metrics(self, up_to_step: int) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl up to a step; later ones, of work that no checkpoint holds, are removed."""
        if not self._metrics.exists():
            return []
        kept = [record for record in self.records() if record["step"] <= up_to_step]
        self._replace(self._metrics, "".join(json.dumps(record) + "\n" for record in kept))
        return kept

    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; none where it is not there."""
        if not self._metrics.exists():
            return []
        return [record for record in map(_parse, self._metrics.read_text().splitlines()) if record]

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Adds one line to metrics.jsonl."""
        if self.writes:
            with self._metrics.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """What `write_summary` wrote; raises InputError where it cannot be read."""
        try:
            return json.loads(self._summary.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{self._summary} cannot be read: {error}; remove it to write it anew") from None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json; one of the same epochs, to their last second, stays: nothing was trained since."""
        try:
            there = json.loads(self._summary.read_text())
            if all(there.get(key) == summary[key] for key in ("steps", "train_seconds", "test_seconds")):
                return
        except (OSError, ValueError, AttributeError):
            pass  # none there, or a damaged one
        self._replace(self._summary, json.dumps(summary, indent=2) + "\n")

    def _replace(self, path: pathlib.Path, text: str) -> None:
        if not self.writes:
            return
        temporary = path.with_suffix(path.suffix + ".tmp")
        temporary.write_text(text)
        os.replace(temporary, path)


def default_workdir(name: str, changed: Iterable[tuple[str, Any]]) -> pathlib.Path:
    """runs/NAME, with what was changed from the named config behind it: runs/resnet_20-epochs=3-seed=1."""
    parts = [name]
    for key, value in changed:
        value = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        parts.append(f"{key.split('.')[-1]}={value}")
    return pathlib.Path("runs") / "-".join(parts).replace("/", "_")[:200]


def _parse(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl, or None for the broken one that a killed process may leave at the end."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "step" in record else None
