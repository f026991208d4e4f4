"""The benchmark of the input pipeline: every rate and ratio is there and means what it says."""

import json

from experiments import benchmark
from tests.helpers.command import outcome


def test_input_is_measured_and_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.benchmarks.loader._DRAWN", 24)
    monkeypatch.setattr("experiments.benchmarks.loader._SIZE", 32)
    arguments = ("--input", "--models", "resnet_8:8", "--rounds", 1, "--seconds", 0.1, "--workers", 1)
    code, out, err = outcome(benchmark.main, capsys, *arguments, "--output", tmp_path)
    assert code == 0, err
    result = json.loads((tmp_path / "input.json").read_text())
    rates = result["images_per_second"]
    assert min(rates.values()) > 0 and 30_000 < result["bytes_per_image"] < 200_000
    assert result["loader_to_decoder"][0] == rates["loader"] / rates["decoder"]
    assert result["streamed_to_resident"][0] == rates["streamed"] / rates["resident"]
    assert (result["slower_side"] == "device") == (rates["resident"] < rates["loader"])
    assert (tmp_path / "input.md").read_text().strip() in out
    code, _, err = outcome(benchmark.main, capsys, *arguments[:-1], 0)
    assert code == 2 and "--workers" in err
