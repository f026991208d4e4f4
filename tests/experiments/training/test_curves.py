"""curves.png shows what the records say, for a run of one epoch as for a long one."""

import concurrent.futures

import numpy as np
import pytest
from PIL import Image

from experiments.training import curves
from experiments.training.curves import CurvesDrawer, draw_curves


def _records(epochs):
    keys = ("train_loss", "test_loss", "train_accuracy", "test_error", "learning_rate")
    return [{"epoch": i + 1, **{key: 0.5 / (i + 1) for key in keys}} for i in range(epochs)]


def _pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), np.int16)


@pytest.mark.parametrize("epochs", [1, 200])
def test_each_curve_is_drawn(tmp_path, epochs):
    draw_curves(tmp_path / "curves.png", _records(epochs), "title")
    pixels = _pixels(tmp_path / "curves.png").reshape(-1, 3)
    for color in ((0, 114, 178), (213, 94, 0), (127, 127, 127)):  # train, test, learning rate
        assert (np.abs(pixels - color).max(1) < 8).sum() > 20


def test_the_published_error_is_a_line_of_its_own(tmp_path):
    draw_curves(tmp_path / "with.png", _records(5), "title", 0.3, "published 0.30 %")
    draw_curves(tmp_path / "without.png", _records(5), "title")
    assert (_pixels(tmp_path / "with.png") != _pixels(tmp_path / "without.png")).any()


def test_a_waited_drawing_is_on_disk_and_a_failed_one_is_raised(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        CurvesDrawer(thread, tmp_path / "curves.png", "title", None, "").draw(_records(3), wait=True)
        assert (tmp_path / "curves.png").exists()
        with pytest.raises(OSError):
            CurvesDrawer(thread, tmp_path / "missing" / "curves.png", "title", None, "").draw(_records(3), wait=True)


def test_short_epochs_are_not_drawn_one_by_one(tmp_path, monkeypatch):
    """Each drawing takes a second; a twentieth of the time goes to it."""
    clock, drawn = [0.0], []

    def draw(path, records, *_):
        clock[0] += 1
        drawn.append(len(records))

    monkeypatch.setattr(curves.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(curves, "draw_curves", draw)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        drawer = CurvesDrawer(thread, tmp_path / "curves.png", "title", None, "")
        for epoch in range(1, 100):
            drawer.draw(_records(epoch), wait=False)
            drawer._drawing.result()
            clock[0] += 1
        assert drawn == [1, 21, 41, 61, 81] and drawer.drawn == 81
        drawer.draw(_records(99), wait=True)
        assert drawn[-1] == drawer.drawn == 99
