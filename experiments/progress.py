"""What a person sees while a run trains: a live bar on a terminal, plain lines elsewhere."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from experiments.measure import TEST_ERROR, Measure

_LINE_SECONDS = 30.0


class ProgressDisplay:
    """Shows epoch, step, loss, accuracy, learning rate, images/s and the time left. A context manager.

    Args:
      epochs, steps_per_epoch: length of the run.
      console: where to write; a terminal gets a live bar.
      measure: what each epoch is judged by.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, console: Console, measure: Measure = TEST_ERROR):
        self._epochs, self._steps_per_epoch, self._console = epochs, steps_per_epoch, console
        self._measure = measure
        self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            expand=True,
        )
        self._task = self._bar.add_task("", total=steps_per_epoch, epoch=f"1/{epochs}", text="compiling")

    def __enter__(self) -> "ProgressDisplay":
        self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        self._bar.stop()

    def training(self, epoch: int, step: int, values: dict[str, float], seconds_left: float) -> None:
        """Shows the state within an epoch.

        Args:
          epoch: epoch under way, from 1.
          step: steps done in it.
          values: `loss`, `accuracy`, `learning_rate`, `images_per_second`.
          seconds_left: of the whole run.
        """
        text = (
            f"loss {values['loss']:.4f}  acc {values['accuracy']:.4f}  lr {values['learning_rate']:.4g}"
            f"  {values['images_per_second']:,.0f} img/s  ETA {format_seconds(seconds_left)}"
        )
        self._show(epoch, step, self._steps_per_epoch, text)

    def testing(self, epoch: int, batch: int, batches: int) -> None:
        """Shows the state within an evaluation."""
        self._show(epoch, batch, batches, "evaluating")

    def epoch_done(self, records: Sequence[dict[str, Any]]) -> None:
        """Leaves one line for a completed epoch, with the means of the records, one for each seed."""
        shown = ("train_loss", "train_accuracy", "test_loss", self._measure.key, "learning_rate", "images_per_second")
        record = records[0] | {key: statistics.mean(record[key] for record in records) for key in shown}
        self.message(
            f"epoch {record['epoch']:>3}/{self._epochs}  step {record['step']}  train loss {record['train_loss']:.4f}"
            f"  acc {record['train_accuracy']:.4f}  test loss {record['test_loss']:.4f}"
            f"  {self._measure.label} {record[self._measure.key]:.2f}%  lr {record['learning_rate']:.4g}"
            f"  {record['images_per_second']:,.0f} img/s"
        )

    def message(self, text: str) -> None:
        """Writes a line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._last_line = time.monotonic()

    def _show(self, epoch: int, done: int, total: int, text: str) -> None:
        self._bar.update(self._task, completed=done, total=total, epoch=f"{epoch}/{self._epochs}", text=text)
        if not self._console.is_terminal and time.monotonic() - self._last_line > _LINE_SECONDS:
            self.message(f"epoch {epoch}/{self._epochs}  {done}/{total}  {text}")


def format_seconds(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
