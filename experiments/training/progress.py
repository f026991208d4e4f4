"""Progress of a run: a live bar on a terminal, plain lines elsewhere. No line is longer than 80 characters."""

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from experiments.training.metric import TEST_ERROR, Metric

_LINE_SECONDS = 30.0
# A first line comes as soon as two steps were timed, where the run takes longer than this.
_LONG_RUN = 60.0


class ProgressDisplay:
    """Context manager that shows epoch, step, loss, metric, learning rate, images/s and the remaining time.

    Args:
      epochs, steps_per_epoch: length of the run.
      console: where to write; a terminal gets a live bar.
      metric: the metric that is printed after each epoch.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, console: Console, metric: Metric = TEST_ERROR):
        self._epochs, self._steps_per_epoch, self._console = epochs, steps_per_epoch, console
        self._metric, self._name = metric, metric.label.split()[-1]
        self._last_line = time.monotonic()
        self._has_head = self._has_first_line = False
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
        self._task = self._bar.add_task("", total=steps_per_epoch, epoch=f"1/{epochs}", text="starting")

    def __enter__(self) -> "ProgressDisplay":
        self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        self._bar.stop()

    @contextlib.contextmanager
    def phase(self, text: str) -> Iterator[None]:
        """Says what is going on while no step ends, such as a compilation, and for how long it has been."""
        begin, done, terminal = time.monotonic(), threading.Event(), self._console.is_terminal

        def tell():
            while not done.wait(1.0 if terminal else _LINE_SECONDS):
                so_far = f"{text}: {format_seconds(time.monotonic() - begin)} so far"
                if terminal:
                    self._bar.update(self._task, text=so_far)
                else:
                    self.message(so_far)

        self._bar.update(self._task, text=text)
        if not terminal:
            self.message(f"{text} ..")
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            done.set()
            teller.join()

    def training(self, epoch: int, step: int, values: dict[str, float], seconds_left: float | None) -> None:
        """Shows progress within an epoch.

        Args:
          epoch: the current epoch, from 1.
          step: steps done in it.
          values: `loss`, `metric`, `images_per_second`.
          seconds_left: remaining seconds of the whole run; None: not known yet.
        """
        text = f"loss {_loss(values['loss'])}  {self._name} {values['metric']:.1f}%"
        if seconds_left is not None:
            rate = _rate(values["images_per_second"])
            text += f"  {rate} img/s  {format_seconds(seconds_left)} left"
        first = seconds_left is not None and not self._has_first_line and seconds_left > _LONG_RUN
        self._has_first_line |= first
        self._show(epoch, step, self._steps_per_epoch, text, first)

    def testing(self, epoch: int, batch: int, batches: int) -> None:
        """Shows progress within an evaluation."""
        self._show(epoch, batch, batches, "evaluating")

    def epoch_done(self, runs: Sequence[Sequence[dict[str, Any]]], seconds_left: float) -> None:
        """Prints one line for a completed epoch, with the means over all seeds.

        Args:
          runs: the records of each seed so far.
          seconds_left: remaining seconds of the whole run.
        """
        last = [records[-1] for records in runs]
        mean = {
            key: statistics.mean(record[key] for record in last)
            for key in ("train_loss", "test_loss", self._metric.key, "learning_rate", "images_per_second")
        }
        trained = statistics.mean(map(self._metric.of_training, last))
        best = statistics.mean(self._metric.best(list(records))[self._metric.key] for records in runs)
        if not self._has_head:
            unit = f"{self._name} %"
            self.message(f"{'':9}{'training':>14}{'test':>16}")
            self.message(
                f"{'epoch':>9}{'loss':>8}{unit:>9}{'loss':>8}{unit:>9}{'best':>7}{'rate':>9}{'img/s':>8}{'left':>11}"
            )
            self._has_head = True
        epoch = f"{last[0]['epoch']}/{self._epochs}"
        self.message(
            f"{epoch:>9}{_loss(mean['train_loss']):>8}{trained:>9.2f}"
            f"{_loss(mean['test_loss']):>8}{mean[self._metric.key]:>9.2f}{best:>7.2f}{mean['learning_rate']:>9.3g}"
            f"{_rate(mean['images_per_second']):>8}{format_seconds(seconds_left):>11}"
        )

    def message(self, text: str) -> None:
        """Prints a line that stays on the screen."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._last_line = time.monotonic()

    def _show(self, epoch: int, done: int, total: int, text: str, at_once: bool = False) -> None:
        self._bar.update(self._task, completed=done, total=total, epoch=f"{epoch}/{self._epochs}", text=text)
        if not self._console.is_terminal and (at_once or time.monotonic() - self._last_line > _LINE_SECONDS):
            self.message(f"epoch {epoch}/{self._epochs}  {done}/{total}  {text}")


def format_seconds(seconds: float) -> str:
    """Formats seconds as 2:03, 1:02:03 or 5 d 04 h."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, rest = divmod(hours, 24)
    if days > 1:
        return f"{days:,} d {rest:02} h"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _loss(value: float) -> str:
    """Seven characters at most."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 1000 else f"{value:.1e}"


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
