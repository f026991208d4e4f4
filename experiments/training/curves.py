"""curves.png: loss, error and learning rate of a run, redrawn while it trains."""

import concurrent.futures
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.runtime.figures import log_if_spiked, picture, whole_numbers
from experiments.runtime.files import write
from experiments.training.metric import TEST_ERROR, Metric

Rates = Sequence[tuple[float, float]]
"""(epoch, learning rate) of a schedule, dense enough to be drawn."""
_SHARE = 0.05
"""Part of the time that may go to drawing: the epochs of a tiny run are shorter than their figure takes."""


class CurvesDrawer:
    """Draws the curves of a run in a thread while the next epoch trains, for a twentieth of the time at most.

    Args:
      thread: an executor with one worker, which may draw for several runs.
      path: the PNG file.
      others: see `draw_curves`.
    """

    def __init__(
        self,
        thread: concurrent.futures.Executor,
        path: pathlib.Path,
        title: str,
        published: float | None,
        published_label: str,
        metric: Metric = TEST_ERROR,
        rates: Rates = (),
    ):
        self._arguments = (title, published, published_label, metric, rates)
        self._path = path
        self._thread = thread
        self._drawing: concurrent.futures.Future | None = None
        self._next = 0.0
        self.drawn = 0
        """Number of records in the newest drawing, which may not be on disk yet."""

    def draw(self, records: Sequence[dict[str, Any]], wait: bool) -> None:
        """Redraws the file; raises the exception of the previous drawing if that failed.

        Args:
          records: see `draw_curves`.
          wait: return only when the file is drawn. Otherwise, if the last drawing is still running, or was a moment
            ago, this call is skipped.
        """
        if self._drawing is not None:
            if not self._drawing.done() and not wait:
                return
            self._drawing.result()
        if wait or time.monotonic() >= self._next:
            self._drawing, self.drawn = self._thread.submit(self._draw, list(records)), len(records)
        if wait:
            self._drawing.result()

    def _draw(self, records: Sequence[dict[str, Any]]) -> None:
        begin = time.monotonic()
        draw_curves(self._path, records, *self._arguments)
        end = time.monotonic()
        self._next = end + (end - begin) / _SHARE


def draw_curves(
    path: pathlib.Path,
    records: Sequence[dict[str, Any]],
    title: str,
    published: float | None = None,
    published_label: str = "",
    metric: Metric = TEST_ERROR,
    rates: Rates = (),
) -> None:
    """Draws the records of metrics.jsonl; a dashed line marks the published result.

    Args:
      path: the PNG file, replaced atomically.
      records: one for each epoch, with the keys of `experiments.training.workdir.METRIC_KEYS` and the metric's keys.
      title: title of the figure; a second line, after a line feed, is in smaller letters.
      published: published value of the metric in percent, or None.
      published_label: label of the dashed line.
      metric: the metric of the middle panel.
      rates: the whole schedule of the learning rate; what was trained with is marked on it.
    """
    epochs = [record["epoch"] for record in records]
    marks = {"marker": "o" if len(epochs) <= 30 else None, "ms": 3}

    def of(key):
        return np.array([record.get(key, np.nan) for record in records], float)

    def draw(figure):
        loss, judged, rate = figure.subplots(1, 3, width_ratios=(1, 1, 0.6))
        shown = {metric.training_loss: of("train_loss"), "test": of("test_loss")}
        for label, values in shown.items():
            loss.plot(epochs, values, **marks, label=label)
        logarithmic = log_if_spiked(loss, *shown.values())
        loss.set_ylabel("cross-entropy (logarithmic)" if logarithmic else "cross-entropy")
        test = of(metric.key)
        best, unit = metric.best(list(records)), f"{metric.label} (%)"
        judged.plot(epochs, [metric.of_training(record) for record in records], **marks, label="train (augmented)")
        said = f"test, best {best[metric.key]:.2f} % (epoch {best['epoch']}), last {test[-1]:.2f} %"
        judged.plot(epochs, test, **marks, label=said)
        if metric.also and metric.also[0] in records[-1]:
            values = of(metric.also[0])
            judged.plot(epochs, values, **marks, ls=":", label=f"test, {metric.also[1]}, last {values[-1]:.2f} %")
        if published is not None:
            judged.axhline(published, color="black", lw=0.8, ls="--", label=published_label)
        judged.set_ylabel(unit)
        judged.set_ylim(bottom=0)
        if rates:
            rate.plot(*zip(*rates, strict=True), color="tab:gray", label="schedule")
        of_epochs = {"ls": "none", "marker": "o", "ms": 3} if rates and len(epochs) <= 30 else {"ls": "none"}
        rate.plot(epochs, of("learning_rate"), color="tab:gray", **(of_epochs if rates else marks))
        rate.set_ylabel("learning rate")
        rate.set_ylim(bottom=0)
        for axes in (loss, judged, rate):
            axes.set_xlabel("epoch")
            axes.set_xlim(0, max(epochs[-1] * 1.03, epochs[-1] + 0.3))
            whole_numbers(axes)
        rate.set_xlim(0, max(epochs[-1], rates[-1][0] if rates else 0) * 1.03)
        # Below the axes: a curve may be anywhere in them.
        for axes in (loss, judged):
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))

    heading, _, below = title.partition("\n")
    write(path, picture(draw, (11, 4.6), heading, below, dpi=110))
