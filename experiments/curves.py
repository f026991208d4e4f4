"""curves.png: loss, error and learning rate of a run, redrawn each epoch."""

import concurrent.futures
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.measure import TEST_ERROR, Measure


class CurvesDrawer:
    """Draws the curves in a thread, beside the next epoch's training.

    Args:
      thread: of one worker, which may draw for several.
      others: those of `draw_curves`.
    """

    def __init__(
        self,
        thread: concurrent.futures.Executor,
        path: pathlib.Path,
        title: str,
        published: float | None,
        published_label: str,
        measure: Measure = TEST_ERROR,
    ):
        self._arguments = (title, published, published_label, measure)
        self._path = path
        self._thread = thread
        self._drawing: concurrent.futures.Future | None = None

    def draw(self, records: Sequence[dict[str, Any]], wait: bool) -> None:
        """Redraws the file; raises what the drawing before it raised.

        Args:
          records: as `draw_curves` takes them.
          wait: return when it is drawn; otherwise an epoch that is over before the last drawing is left to the next.
        """
        if self._drawing is not None:
            if not self._drawing.done() and not wait:
                return
            self._drawing.result()
        self._drawing = self._thread.submit(draw_curves, self._path, list(records), *self._arguments)
        if wait:
            self._drawing.result()


def draw_curves(
    path: pathlib.Path,
    records: Sequence[dict[str, Any]],
    title: str,
    published: float | None = None,
    published_label: str = "",
    measure: Measure = TEST_ERROR,
) -> None:
    """Draws the records of metrics.jsonl; a dashed line marks the published result.

    Args:
      path: the PNG file, replaced atomically.
      records: one for each epoch, with the keys of `experiments.workdir.METRIC_KEYS` and those of the measure.
      title: above the figure.
      published: of the measure, in percent, or None.
      published_label: of the dashed line.
      measure: what the middle panel shows.
    """
    # Figure and Agg directly, not pyplot: no window system, no global state, safe in a thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [record["epoch"] for record in records]
    marker = "o" if len(epochs) <= 30 else None
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    loss, judged, rate = figure.subplots(1, 3, width_ratios=(1, 1, 0.6))
    loss.plot(epochs, [record["train_loss"] for record in records], marker=marker, ms=3, label=measure.training_loss)
    loss.plot(epochs, [record["test_loss"] for record in records], marker=marker, ms=3, label="test")
    loss.set_ylabel("cross-entropy")
    train_values = [measure.of_training(record) for record in records]
    test_values = [record[measure.key] for record in records]
    best = measure.best(records)[measure.key]
    judged.plot(epochs, train_values, marker=marker, ms=3, label="train (augmented)")
    judged.plot(
        epochs,
        test_values,
        marker=marker,
        ms=3,
        label=f"test, best {best:.2f} %, last {test_values[-1]:.2f} %",
    )
    if published is not None:
        judged.axhline(published, color="black", lw=0.8, ls="--", label=published_label)
    judged.set_ylabel(f"{measure.label} (%)")
    judged.set_ylim(bottom=0)
    rate.plot(epochs, [record["learning_rate"] for record in records], marker=marker, ms=3, color="tab:gray")
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    for axes in (loss, judged, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    loss.legend(fontsize=8)
    judged.legend(fontsize=8)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=110)
    os.replace(temporary, path)
