"""The benchmark measures, ranks and writes what it says; PyTorch is needed for one side only."""

import json

import pytest

from experiments import benchmark


def test_measures_this_library_alone(tmp_path, capsys):
    arguments = ["--models", "resnet_8:4", "--rounds", "2", "--steps", "1", "--torch", "--output", str(tmp_path)]
    assert benchmark.main(arguments) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    (row,) = results["networks"]
    ours = row["resjax"]
    assert row["network"] == "resnet_8" and row["batch"] == 4 and "train_ratio" not in row
    assert ours["forward_images_per_second"] > 0 and ours["train_images_per_second"] > 0
    assert row["share_of_ceiling"] > 0 and ours["ceiling_gflops"] > 0 and ours["peak_memory_mib"] > 50
    # Parameters and momentum, float32, on each device; all that a process holds is more than its program does.
    assert 2 * 4 * row["parameters"] / 2**20 < ours["program_mib"] < ours["peak_memory_mib"]
    assert all(ours[part] > 0 for part in ("trace_s", "lower_s", "compile_s"))
    table = (tmp_path / "results.md").read_text()
    assert table in capsys.readouterr().out + "\n" and "| resnet_8, 4 |" in table and "no PyTorch" in table


def test_the_ratio_is_the_median_within_rounds_against_the_faster_rival():
    row = {"resjax": {}, "torch_eager": {}, "torch_compile": {}}
    seconds = {"resjax": [1.0, 2.0, 4.0], "torch_eager": [3.0, 2.0, 2.0], "torch_compile": [9.0, 9.0, 9.0]}
    found = benchmark._rates(seconds, "train", 10, row)
    assert found == {"train_ratio": 1.0, "train_ratio_range": [0.5, 3.0], "train_rival": "torch_eager"}
    assert row["resjax"]["train_images_per_second"] == 5.0


def test_the_table_compares_memory_with_the_rival_that_needs_least():
    ours = {"train_images_per_second": 1.0, "program_mib": 100.0, "peak_memory_mib": 300.0}
    ours |= dict.fromkeys(("trace_s", "lower_s", "compile_s"), 1.0)
    row = {"network": "resnet_20", "batch": 8, "resjax": ours, "share_of_ceiling": 0.5, "memory_ratio": 1.5}
    row |= {"train_ratio": 0.5, "train_ratio_range": [0.4, 0.6], "forward_ratio": 1, "train_rival": "torch_eager"}
    row["torch_eager"] = {"train_images_per_second": 2.0}
    text = benchmark.table({"date": "2026-11-30", "dtype": "float32", "machine": {}, "networks": [row]})
    assert "| 100 | 300 | 200 (1.50) |" in text and "ratios: 0.50; of the ratios of memory: 1.50." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "resnet_20"], "expected NAME:BATCH, e.g. resnet_20:128"),
        (["--models", "resnet_20:0"], "expected NAME:BATCH"),
        (["--models", "resnet_21:8"], "depth: expected 6 n"),
        (["--models", "densenet_40_12:8", "--scan", "on"], "densenet_40_12 takes no 'scan'"),
        (["--models", "resnet_50@x:8"], "expected an output stride behind @"),
        (["--models", "resnet_50@5:8"], "output_stride: expected one of 4, 8, 16, 32, got 5"),
        (["--rounds", "0"], "expected positive integers, got 0 and 3"),
    ],
)
def test_mistakes_are_said_in_a_line(arguments, message, capsys):
    assert benchmark.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error


def test_rounds_of_the_input_that_cannot_be_are_refused(capsys):
    assert benchmark.main(["--input", "--rounds", "0"]) == 2
    assert "--rounds and --seconds: expected positive numbers, got 0, " in capsys.readouterr().err
