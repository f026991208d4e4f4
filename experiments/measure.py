"""The number that a run is judged by."""

import dataclasses
from collections.abc import Callable
from typing import Any

from resjax.train import PixelTotals, Sums, TopTotals


@dataclasses.dataclass(frozen=True)
class Measure:
    """How a task is judged, from the sums of a pass over its images.

    Attributes:
      key: of the test measure in metrics.jsonl, in percent.
      label: its name for a person.
      higher_is_better: whether the best epoch is the one with the largest.
      record: (sums, "train", "validation" or "test") -> lines of metrics.jsonl beside loss and times.
      of_training: the same measure of the training images, in percent, from a line of metrics.jsonl.
      training_loss: what the training loss is of, in the curves.
    """

    key: str
    label: str
    higher_is_better: bool
    record: Callable[[Sums, str], dict[str, Any]]
    of_training: Callable[[dict[str, Any]], float]
    training_loss: str = "train (augmented)"

    def lack(self, record: dict[str, Any]) -> float:
        """What the measure lacks to perfection, in percent: the smaller the better.

        It is that of the validation images where there are any, or else of the test images.
        """
        value = record.get(self.key.replace("test", "validation", 1), record[self.key])
        return 100 - value if self.higher_is_better else value

    def best(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """The first of the best records."""
        return min(records, key=self.lack)


def _classified_images(totals, split):
    record = {f"{split}_accuracy": totals.accuracy()}
    if split != "train":
        record[f"{split}_error"] = 100 * int(totals.images - totals.correct) / int(totals.images)
    return record


def _classified_photos(totals: TopTotals, split):
    record = _classified_images(totals, split)
    if split != "train":
        record[f"{split}_top5_error"] = 100 * int(totals.images - totals.correct_top5) / int(totals.images)
    return record


def _classified_pixels(totals: PixelTotals, split):
    iou = [None if value != value else float(100 * value) for value in totals.class_iou()]  # JSON has no NaN
    classes = {"test_class_iou": iou} if split == "test" else {}
    return {f"{split}_accuracy": totals.accuracy(), f"{split}_mean_iou": 100 * totals.mean_iou(), **classes}


TEST_ERROR = Measure(
    "test_error", "error", False, _classified_images, lambda record: 100 * (1 - record["train_accuracy"])
)
TOP_ERROR = dataclasses.replace(TEST_ERROR, record=_classified_photos)
MEAN_IOU = Measure("test_mean_iou", "mean IoU", True, _classified_pixels, lambda record: record["train_mean_iou"])
