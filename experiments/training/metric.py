"""The number that a run is judged by."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from resjax.train import PixelTotals, Sums, TopTotals


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a task is judged, from the sums of a pass over its images.

    Attributes:
      key: key of the test metric in metrics.jsonl, in percent.
      label: name of the metric, to print.
      higher_is_better: whether the best epoch has the largest value.
      record: (sums, "train", "validation" or "test") -> entries of a line of metrics.jsonl besides loss and times.
      of_training: the metric of the training images in percent, from a line of metrics.jsonl.
      training_loss: label of the training loss in the curves.
      also: key and label of a second number to print, where it was measured.
    """

    key: str
    label: str
    higher_is_better: bool
    record: Callable[[Sums, str], dict[str, Any]]
    of_training: Callable[[dict[str, Any]], float]
    training_loss: str = "train (augmented)"
    also: tuple[str, str] | None = None

    def describe(self, numbers: Mapping[str, Any], which: str = "") -> str:
        """The metric in words. `numbers` is a line of metrics.jsonl, or a summary if `which` ("final") is given."""
        prefix = f"{which}_" if which else ""
        second = numbers.get(prefix + self.also[0]) if self.also else None
        also = "" if second is None else f" ({self.also[1]}: {second:.2f}%)"
        return f"{self.label} {numbers[prefix + self.key]:.2f}%{also}"

    def value_to_minimise(self, record: dict[str, Any]) -> float:
        """The metric in percent, or 100 minus the metric if higher is better.

        It is the metric of the validation images if there are any, else of the test images.
        """
        value = record.get(self.key.replace("test", "validation", 1), record[self.key])
        return 100 - value if self.higher_is_better else value

    def best(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """The record of the best epoch; the first of equals."""
        return min(records, key=self.value_to_minimise)


def _classified_images(totals, split):
    record = {f"{split}_accuracy": totals.accuracy()}
    if split != "train":
        record[f"{split}_error"] = 100 * int(totals.images - totals.correct) / int(totals.images)
    return record


def error_metric(num_classes: int) -> Metric:
    """Of photographs: the top-5 error, too, where it can be anything but 0."""
    return TOP_ERROR if num_classes > 5 else TEST_ERROR


def _classified_photos(totals: TopTotals, split):
    record = _classified_images(totals, split)
    if split != "train":
        record[f"{split}_top5_error"] = 100 * int(totals.images - totals.correct_top5) / int(totals.images)
    return record


def _classified_pixels(totals: PixelTotals, split):
    iou = [None if value != value else float(100 * value) for value in totals.class_iou()]  # JSON has no NaN
    classes = {"test_class_iou": iou} if split == "test" else {}
    return {f"{split}_accuracy": totals.accuracy(), f"{split}_mean_iou": 100 * totals.mean_iou(), **classes}


TEST_ERROR = Metric(
    "test_error", "error", False, _classified_images, lambda record: 100 * (1 - record["train_accuracy"])
)
TOP_ERROR = dataclasses.replace(TEST_ERROR, record=_classified_photos, also=("test_top5_error", "top 5"))
MEAN_IOU = Metric("test_mean_iou", "mean IoU", True, _classified_pixels, lambda record: record["train_mean_iou"])
