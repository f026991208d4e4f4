"""A person's own runs in `experiments.report`: the table in the terminal, and the page."""

import functools
import html
import json
import re
import shutil

import pytest

from experiments import report
from tests.helpers.browser import browser
from tests.helpers.command import outcome
from tests.helpers.finished_run import write_run

_main = functools.partial(outcome, report.main)
FALLING = tuple(50 / epoch for epoch in range(1, 41))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of a recipe, a changed run whose folder has the name of a tag, and an unfinished run."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(folder / f"seed {seed}", "resnet_20", tuple(value + seed for value in FALLING), seed=seed)
    write_run(folder / "<b>short", "resnet_20", epochs=20)
    (write_run(folder / "half", "wrn_16_4") / "summary.json").unlink()
    return folder


def _payload(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_table_says_what_each_run_reached_beside_the_paper(capsys, monkeypatch, runs):
    monkeypatch.setenv("COLUMNS", "140")
    code, out, err = _main(capsys, runs)
    assert (code, err) == (0, "")
    rows = {re.split(r" {2,}", line)[0]: re.split(r" {2,}", line.rstrip()) for line in out.splitlines()}
    assert rows["seed 0"][1:] == ["resnet_20, cifar10", "164", "1.25", "1.25", "-7.50 from 8.75"]
    assert rows["<b>short"][1:] == ["resnet_20, cifar10", "20", "9.00", "8.00", "published 8.75, other epochs"]
    assert rows["half"][2:] == ["3 of 200", "9.00", "8.00", "published 5.02, not finished"]
    assert f"4 runs read: {runs / 'report.html'}" in out


def test_the_page_lies_beside_the_runs_and_the_ledger_is_written_on_request(capsys, tmp_path, runs):
    mine = tmp_path / "mine"
    shutil.copytree(runs, mine)
    (mine / "report.html").unlink(missing_ok=True)
    assert _main(capsys, mine / "half")[0] == 0  # one workdir: beside it
    assert (mine / "report.html").is_file() and not (mine / "ledger.json").exists()
    assert _main(capsys, mine, "--ledger")[0] == 0
    assert {"ledger.json", "ledger.md", "ledger.html"} <= {file.name for file in mine.iterdir()}
    before = (mine / "ledger.json").stat().st_mtime_ns
    assert _main(capsys, mine)[0] == 0  # a ledger that is there stays up to date
    assert (mine / "ledger.json").stat().st_mtime_ns > before


def test_the_page_has_every_curve_and_the_differences_of_the_configs(capsys, tmp_path, runs):
    assert _main(capsys, runs, "--output", tmp_path)[0] == 0
    page = (tmp_path / "report.html").read_text()
    drawn = {run["name"]: run for run in _payload(page)["runs"]}
    assert drawn["seed 1"]["epoch"] == list(range(1, 41))
    assert drawn["seed 1"]["curves"]["test_error"] == [value + 1 for value in FALLING]
    assert drawn["half"]["curves"]["test_error"] == [20.0, 8.0, 9.0]
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", page)
    assert "<b>" not in page and html.escape("<b>short") in page
    differing = page.partition("Differences")[2]
    fields = re.findall(r"<tr><th>([\w.]+)</th>", differing)
    assert {"epochs", "seed", "model.name", "optimizer.weight_decay"} <= set(fields)
    assert "batch_size" not in fields  # the same in all of them
    row = re.search(r"<tr><th>epochs</th>(.*?)</tr>", differing)[1]
    assert re.findall(r"<td class=changed>(\w+)</td>", row) == ["20"]


@pytest.mark.browser
def test_a_browser_draws_a_line_for_each_run(capsys, tmp_path, runs):
    assert _main(capsys, runs, "--output", tmp_path)[0] == 0
    shown = browser(tmp_path / "report.html", tmp_path)
    drawing = shown[shown.index('id="curves"') :]
    assert len(re.findall(r"<path [^>]*stroke=", drawing)) == 4
    assert len(re.findall(r'<input type="checkbox"', drawing)) == 1 + 4
    assert "test error (%)" in drawing and "&lt;b&gt;short" in drawing
