"""What is printed of a run: short lines, a rate and a remaining time that follow the steps, the best so far."""

import io
import time

import pytest
from rich.console import Console

from experiments.training import progress
from experiments.training.agreement import Pace
from experiments.training.metric import MEAN_IOU, TEST_ERROR
from experiments.training.progress import ProgressDisplay, format_seconds


def _display(metric=TEST_ERROR, epochs=200):
    console = Console(file=io.StringIO(), width=200)
    return ProgressDisplay(epochs, 390, console, metric), console.file


def _record(epoch, error, **more):
    values = {"train_loss": 8770.5, "test_loss": 2.3, "learning_rate": 0.000123456, "images_per_second": 123456.0}
    known = {"test_error": error, "test_mean_iou": error, "train_accuracy": 0.123, "train_mean_iou": 12.3}
    return {"epoch": epoch, **values, **known, **more}


@pytest.mark.quick
@pytest.mark.parametrize("metric, best", [(TEST_ERROR, "91.23"), (MEAN_IOU, "99.90")])
def test_lines_are_short_and_show_the_best_so_far(metric, best):
    display, output = _display(metric)
    with display:
        for count, epoch in enumerate((198, 199, 200), 1):
            display.training(epoch, 389, {"loss": 12345.6, "metric": 99.87, "images_per_second": 98765.4}, 3e7)
            records = [_record(198, 91.23), _record(199, 99.9), _record(200, 95.0)][:count]
            display.epoch_done([records], 3e7)
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    unit = metric.label.split()[-1]
    assert lines[0] == f"epoch 198/200  389/390  loss 1.2e+04  {unit} 99.9%  98,765 img/s  347 d 05 h left"
    assert lines[2].split() == ["epoch", "loss", unit, "%", "loss", unit, "%", "best", "rate", "img/s", "left"]
    assert lines[-1].split()[4:6] == ["95.00", best] and lines[-1].split()[0] == "200/200"
    assert lines[-1].split()[2] == (
        "87.70" if metric is TEST_ERROR else "12.30"
    )  # an error, as the test's, not accuracy


@pytest.mark.quick
def test_there_is_no_remaining_time_before_two_steps_were_timed_and_then_at_once():
    display, output = _display()
    values = {"loss": 2.3, "metric": 90.0, "images_per_second": 3.2}
    with display:
        display.training(1, 1, values, None)
        assert output.getvalue() == ""
        display.training(1, 2, values, 3456000.0)
        display.training(1, 3, values, 3456000.0)
    assert output.getvalue() == "epoch 1/200  2/390  loss 2.3000  error 90.0%  3.2 img/s  40 d 00 h left\n"


@pytest.mark.quick
def test_a_slow_first_step_is_forgotten_with_the_second():
    pace = Pace()
    pace.observe(1, 400.0)
    pace.observe(1, 40.0)
    assert pace.seconds_per_step == 40.0
    pace.observe(1, 44.0)
    assert pace.seconds_per_step == 42.0


@pytest.mark.quick
def test_a_phase_is_said_at_its_begin_and_while_it_lasts(monkeypatch):
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.01)
    display, output = _display()
    with display, display.phase("compiling the training step"):
        deadline = time.monotonic() + 10
        while "so far" not in output.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    first, second = output.getvalue().splitlines()[:2]
    assert first == "compiling the training step .." and second == "compiling the training step: 0:00 so far"


@pytest.mark.quick
def test_seconds_are_formatted():
    assert [format_seconds(s) for s in (5, 125, 3725, 90000, 200000)] == [
        "0:05",
        "2:05",
        "1:02:05",
        "25:00:00",
        "2 d 07 h",
    ]
