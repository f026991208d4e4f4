"""The ledger: every recipe is in it, with runs that happened and no others."""

import dataclasses
import functools
import json
import re
import shlex
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest

from experiments import report
from experiments.configs.cifar import CONFIGS
from experiments.configs.named import changed_fields, command
from experiments.configs.programs import CIFAR, IMAGENET, PROGRAMS, SEGMENTATION
from experiments.launch.command_line import parse
from experiments.reports.ledger import rows
from experiments.reports.runs import changes_of, command_of, compare_run, read_ledger, read_run, whole_config
from resjax import InputError
from tests.conftest import ROOT
from tests.helpers.command import outcome
from tests.helpers.finished_run import write_run

_main = functools.partial(outcome, report.main)


def _report(capsys, output, *arguments):
    code, out, err = _main(capsys, *arguments, "--ledger", "--output", output)
    assert code == 0, err
    return json.loads((output / "ledger.json").read_text())["rows"], out


def _find(table, config, dataset="cifar10"):
    return [row for row in table if (row["config"], row["dataset"]) == (config, dataset)]


def test_several_seeds_are_one_row_with_mean_spread_and_the_published_statistic(capsys, tmp_path):
    last = [4.1, 4.3, 3.9, 4.6, 4.0]
    for seed, error in enumerate(last):
        write_run(tmp_path / "runs" / str(seed), "wrn_28_10", (9.0, error - 0.25, error), seed=seed)
    table, _ = _report(capsys, tmp_path / "ledger", tmp_path / "runs")
    (row,) = _find(table, "wrn_28_10")
    ours = row["ours"]
    assert (ours["runs"], ours["seeds"], row["changed"]) == (5, [0, 1, 2, 3, 4], [])
    np.testing.assert_allclose(
        [ours["reported"]["mean"], ours["reported"]["std"], ours["best_epoch"]["mean"]],
        [np.mean(last), np.std(last, ddof=1), np.mean(last) - 0.25],
    )
    # Published as a median, so the median is what is compared: 4.1, not the mean.
    assert ours["deviation"] == pytest.approx(4.1 - 4.00)
    assert ours["hours"] == pytest.approx(5 * 3)
    assert (row["published"]["aggregate"], row["published"]["runs"], row["published"]["test_error"]) == (
        "median",
        5,
        4.0,
    )
    assert row["published"]["statistic"] == "median of 5, mean/std" and "1605.07146" in row["published"]["source"]
    text = (tmp_path / "ledger" / "ledger.md").read_text()
    assert f"{np.mean(last):.2f} ± {np.std(last, ddof=1):.2f} (n = 5)" in text and "+0.10" in text
    assert "`python -m experiments.cifar --config wrn_28_10 --seed 3`" in text


def test_a_run_with_anything_changed_is_never_the_recipes(capsys, tmp_path):
    write_run(tmp_path / "runs" / "short", "resnet_20", epochs=20)
    table, _ = _report(capsys, tmp_path / "ledger", tmp_path / "runs")
    recipe, short = _find(table, "resnet_20")
    assert (recipe["status"], recipe["ours"]) == ("not yet run", None)
    assert short["changed"] == ["epochs 20 (recipe: 164)"] and short["ours"]["deviation"] is None
    text = (tmp_path / "ledger" / "ledger.md").read_text()
    assert "resnet_20 (changed)" in text and "not the recipe: epochs 20 (recipe: 164)" in text


def test_where_validation_images_choose_the_epoch_its_test_error_is_reported(capsys, tmp_path):
    run = write_run(tmp_path / "run", "resnet_110_stochastic_depth", (5.5, 5.0, 6.0), train_images=45_000)
    table, _ = _report(capsys, tmp_path / "ledger", run)
    (row,) = _find(table, "resnet_110_stochastic_depth")
    assert row["changed"] == [] and row["ours"]["reported"]["mean"] == 5.5
    assert row["ours"]["deviation"] == pytest.approx(5.5 - 5.25)


def test_a_summary_of_an_earlier_version_is_read_as_far_as_it_goes(capsys, tmp_path):
    run = write_run(tmp_path / "run", "resnet_20", epochs=3, seed=2)
    summary = json.loads((run / "summary.json").read_text())
    for key in ("command", "hours", "hardware", "finished", "reported_test_error"):
        del summary[key]
    (run / "summary.json").write_text(json.dumps(summary))
    table, _ = _report(capsys, tmp_path / "ledger", run)
    ours = _find(table, "resnet_20")[1]["ours"]
    assert ours["commands"] == ["python -m experiments.cifar --config resnet_20 --epochs 3 --seed 2"]
    assert ours["hours"] == pytest.approx(3) and ours["hardware"] == [summary["devices"]]
    assert ours["reported"]["mean"] == 9.0


@pytest.mark.parametrize("other", ["resnet_26", "preresnet_20"])  # the second has as many parameters
def test_another_network_has_no_published_number(capsys, tmp_path, other):
    model = CONFIGS["resnet_20"].config.model.replace(name=other)
    path = write_run(tmp_path / "run", "resnet_20", model=model)
    table, _ = _report(capsys, tmp_path / "ledger", path)
    assert _find(table, "resnet_20")[1]["published"] is None


def test_a_part_of_the_training_images_is_not_the_recipe(capsys, tmp_path):
    write_run(tmp_path / "run", "resnet_20", train_images=40_000)
    table, _ = _report(capsys, tmp_path / "ledger", tmp_path / "run")
    assert _find(table, "resnet_20")[1]["changed"] == ["40,000 of 50,000 training images"]


def test_a_recipe_that_has_changed_since_is_not_met_by_its_earlier_runs(capsys, tmp_path):
    path = write_run(tmp_path / "run", "resnet_20")
    config = json.loads((path / "config.json").read_text())
    config["config"]["optimizer.weight_decay"] = 5e-4
    del config["config"]["augmentation.cutmix"]  # a field of later versions, which meant nothing then
    (path / "config.json").write_text(json.dumps(config))
    table, _ = _report(capsys, tmp_path / "ledger", path)
    assert _find(table, "resnet_20")[1]["changed"] == ["optimizer.weight_decay 0.0005 (recipe: 0.0001)"]


def test_a_field_that_came_between_two_runs_keeps_them_together(capsys, tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "runs" / str(seed), "wrn_28_10", (4.0,), seed=seed)
    file = tmp_path / "runs" / "0" / "config.json"
    config = json.loads(file.read_text())
    del config["config"]["optimizer.head_decay_factor"]
    file.write_text(json.dumps(config))
    table, _ = _report(capsys, tmp_path / "ledger", tmp_path / "runs")
    (row,) = _find(table, "wrn_28_10")
    assert row["ours"]["seeds"] == [0, 1]
    write_run(tmp_path / "again", "wrn_28_10", (5.0,), seed=0)
    table, _ = _report(capsys, tmp_path / "ledger", tmp_path / "again")
    assert _find(table, "wrn_28_10")[0]["ours"]["reported"]["mean"] == pytest.approx(4.5)


def test_unfinished_and_broken_runs_are_named_and_left_out(capsys, tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "good", "resnet_20")
    (write_run(runs / "stopped", "resnet_20", seed=1) / "summary.json").unlink()
    (write_run(runs / "cut", "resnet_20", seed=2) / "summary.json").write_text('{"name": "resn')
    (write_run(runs / "foreign", "resnet_20", seed=3) / "summary.json").write_text('{"accuracy": 1}')
    (write_run(runs / "odd", "resnet_20", seed=4) / "config.json").write_text("[]")
    summary = json.loads((write_run(runs / "nan", "resnet_20", seed=5) / "summary.json").read_text())
    (runs / "nan" / "summary.json").write_text(json.dumps(summary | {"final_test_error": float("nan")}))
    summary = json.loads((write_run(runs / "large", "resnet_20", seed=6) / "summary.json").read_text())
    (runs / "large" / "summary.json").write_text(json.dumps(summary | {"final_test_error": 120.0}))
    # As earlier versions left a run whose last update exploded.
    diverged = write_run(runs / "diverged", "resnet_20", seed=7) / "metrics.jsonl"
    diverged.write_text(diverged.read_text() + '{"epoch": 4, "step": 1560, "test_loss": NaN, "test_error": 90.0}\n')
    (runs / "notes").mkdir()
    table, out = _report(capsys, tmp_path / "ledger", runs)
    assert _find(table, "resnet_20")[0]["ours"]["seeds"] == [0]
    told = [line for line in out.splitlines() if line.startswith("left out:")]
    assert len(told) == 6
    assert re.search(r"not in the ledger: .*stopped: not finished \(3 of 164 epochs\)", out)
    for name in (
        "cut/summary.json: cannot be read",
        "foreign: .*'name' is missing",
        "odd/config.json: expected",
        r"large/summary.json: .final_test_error.: expected a percentage, got 120\.0",
        "nan/summary.json: 'final_test_error': expected a percentage, got nan",
        "diverged: diverged, its last test loss is nan; train again with a smaller learning rate",
    ):
        assert re.search(name, out), out


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "no such folder"), (".", "holds no run")])
def test_a_folder_without_runs_is_an_error_and_nothing_is_written(capsys, tmp_path, folder, message):
    code, _, err = _main(capsys, tmp_path / folder, "--output", tmp_path / "ledger")
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "ledger").exists()


def test_the_ledger_remembers_runs_whose_folders_are_gone(capsys, tmp_path):
    runs, ledger = tmp_path / "runs", tmp_path / "ledger"
    write_run(runs / "a", "resnet_20", (9.0,))
    _report(capsys, ledger, runs)
    shutil.rmtree(runs)
    write_run(runs / "b", "resnet_20", (8.0,), seed=1)
    table, _ = _report(capsys, ledger, runs)
    assert _find(table, "resnet_20")[0]["ours"]["reported"]["mean"] == 8.5
    # The same seed once more on the same machine is the same run, not a second one.
    shutil.rmtree(runs)
    write_run(runs / "again", "resnet_20", (8.4,), seed=1)
    table, _ = _report(capsys, ledger, runs)
    assert _find(table, "resnet_20")[0]["ours"]["reported"]["mean"] == pytest.approx(8.7)


def test_runs_of_one_config_on_other_data_are_rows_of_their_own(capsys, tmp_path):
    """A name and a config do not say which folder was trained on; runs of earlier versions do not say it at all."""
    for folder, data, error in (("a", "1", 9.0), ("b", "2", 7.0)):
        path = write_run(tmp_path / "runs" / folder, "resnet_20", (error,))
        config = json.loads((path / "config.json").read_text())
        said = {"class_names": ["x"], "splits": {"train": {"images": 50_000, "fingerprint": data}}}
        (path / "config.json").write_text(json.dumps(config | {"data": said}))
    table, _ = _report(capsys, tmp_path / "ledger", tmp_path / "runs")
    assert sorted(row["ours"]["reported"]["mean"] for row in _find(table, "resnet_20")) == [7.0, 9.0]
    assert len(read_ledger(tmp_path / "ledger" / "ledger.json")) == 2
    # One set of data, of which an earlier version did not say anything, is one.
    write_run(tmp_path / "more" / "c", "resnet_20", (8.0,), seed=1)
    shutil.copytree(tmp_path / "runs" / "a", tmp_path / "more" / "a")
    table, _ = _report(capsys, tmp_path / "other", tmp_path / "more")
    assert [row["ours"]["reported"]["mean"] for row in _find(table, "resnet_20")] == [8.5]


def _finish(path, when, **more):
    """Changes what a run says of when, and where, it ended."""
    file = path / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"finished": when} | more))


def test_the_run_that_ended_last_counts_whatever_its_folder(capsys, tmp_path):
    """`--resume never` renames the earlier one to X.1, which is read behind X; and one seed is one run, anywhere."""
    for folder, error, when in (("x", 8.0, "2026-11-22T12:00:00+00:00"), ("x.1", 9.0, "2026-11-22")):
        _finish(write_run(tmp_path / "runs" / folder, "resnet_20", (error,)), when)
    for _ in range(2):
        table, _ = _report(capsys, tmp_path / "ledger", tmp_path / "runs")
        assert _find(table, "resnet_20")[0]["ours"]["reported"]["mean"] == 8.0
    _finish(write_run(tmp_path / "gpu", "resnet_20", (7.0,)), "2026-11-23T12:00:00+00:00", hardware="1 x H100")
    ours = _find(_report(capsys, tmp_path / "ledger", tmp_path / "gpu")[0], "resnet_20")[0]["ours"]
    assert (ours["runs"], ours["seeds"], ours["reported"]["mean"], ours["hardware"]) == (1, [0], 7.0, ["1 x H100"])
    assert len(read_ledger(tmp_path / "ledger" / "ledger.json")) == 2


def _run_of(program, name, **changes):
    """What the ledger keeps of a run that had `changes`, as far as it tells recipes apart."""
    config = dataclasses.replace(PROGRAMS[program][name].config, **changes)
    kept = {"name": name, "command": f"{program} --config {name}", "dataset": config.dataset}
    images = 1_281_167 if program == IMAGENET else 10_582
    return kept | {"config": json.loads(json.dumps(config.identity())), "train_images": images}


def test_another_evaluation_is_not_the_recipe():
    named, run = PROGRAMS[IMAGENET]["resnet_50_he2015"], _run_of(IMAGENET, "resnet_50_he2015", eval_mode="centre")
    assert compare_run(named, run).changes == {"eval_mode": "eval_mode centre (recipe: ten_crops)"}
    assert changes_of(run) == {"eval_mode": "centre"}
    assert compare_run(named, _run_of(IMAGENET, "resnet_50_he2015")).changes == {}


def test_where_the_weights_lie_that_a_recipe_starts_from_is_not_a_change():
    named = PROGRAMS[SEGMENTATION]["resnet_38_a1_voc"]
    run = _run_of(SEGMENTATION, "resnet_38_a1_voc", pretrained="weights/a1")
    assert compare_run(named, run).is_like_for_like
    assert changes_of(run) == {"pretrained": "weights/a1"}  # the command says it
    changed = _run_of(SEGMENTATION, "resnet_38_a1_voc", pretrained="weights/a1", eval_scales=(0.75, 1.0))
    assert compare_run(named, changed).changes == {"eval_scales": "eval_scales 0.75 1.0 (recipe: 1.0)"}


def test_the_readme_gets_the_table_between_its_two_lines(capsys, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    run = write_run(tmp_path / "run", "resnet_20")
    _report(capsys, tmp_path / "ledger", run, "--readme", readme)
    once = readme.read_text()
    assert once.startswith(f"before\n{report.BEGIN}\n") and once.endswith(f"{report.END}\nafter\n")
    assert "old" not in once and "resnet_20" in once and "resnet_32" not in once and "[The ledger](" in once
    _report(capsys, tmp_path / "ledger", "--readme", readme)
    assert readme.read_text() == once
    readme.write_text("no lines")
    code, _, err = _main(capsys, "--output", tmp_path / "ledger", "--readme", readme)
    assert code == 2 and "has no lines" in err and readme.read_text() == "no lines"
    code, _, err = _main(capsys, "--output", tmp_path / "ledger", "--readme", tmp_path)
    assert code == 2 and f"--readme {tmp_path}: cannot be read" in err


def test_a_place_that_cannot_be_written_to_is_said(capsys, tmp_path):
    run = write_run(tmp_path / "run", "resnet_20")
    (tmp_path / "file").touch()
    code, _, err = _main(capsys, run, "--ledger", "--output", tmp_path / "file")
    assert code == 2 and f"--output {tmp_path / 'file'}: cannot be written" in err and err.count("\n") < 3


def test_a_summary_without_a_result_is_not_that_of_a_run(tmp_path):
    file = write_run(tmp_path, "resnet_20") / "summary.json"
    summary = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in summary.items() if not key.startswith("final_")}))
    with pytest.raises(InputError, match="not those of a run .neither a test error nor a mean IoU"):
        read_run(tmp_path)


@pytest.mark.parametrize("damage", [{}, 3, {"command": "rm -r"}, {"best_epoch": None}])
def test_a_damaged_ledger_is_named_and_left_alone(capsys, tmp_path, damage):
    (run, *_) = read_ledger(ROOT / "results" / "ledger.json")
    if damage and damage != 3:
        damage = {key: value for key, value in (run | damage).items() if value is not None}
    text = json.dumps({"runs": [damage]})
    (tmp_path / "ledger.json").write_text(text)
    code, _, err = _main(capsys, "--output", tmp_path)
    assert code == 2 and "not a ledger" in err and (tmp_path / "ledger.json").read_text() == text


@pytest.mark.parametrize(("field", "value"), [("hardware", 8), ("seed", "x"), ("reported", 1e300), ("config", [])])
def test_a_wrong_field_of_a_ledger_is_named(tmp_path, field, value):
    (run, *_) = read_ledger(ROOT / "results" / "ledger.json")
    (tmp_path / "ledger.json").write_text(json.dumps({"runs": [run, run | {field: value}]}))
    with pytest.raises(InputError, match=f"ledger.json: '{field}': expected .*; restore it, or choose another"):
        read_ledger(tmp_path / "ledger.json")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("validation_images", "x", "int, got x"),
        ("optimizer.learning_rate", 10**400, "float, got 1000"),
        ("schedule.boundaries", [1, "a"], r"tuple\[float, ...\], got"),
        ("extra", 1, "bool, got 1"),
        ("dtype", None, "Literal.*, got None"),
    ],
)
def test_a_field_of_a_config_that_is_not_of_its_kind_is_named(tmp_path, field, value, expected):
    file = write_run(tmp_path / "run", "resnet_20") / "config.json"
    content = json.loads(file.read_text())
    content["config"][field] = value
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"config.json: .*{re.escape(field)}: expected {expected}"):
        read_run(tmp_path / "run")
    (run, *_) = read_ledger(ROOT / "results" / "ledger.json")
    (tmp_path / "ledger.json").write_text(json.dumps({"runs": [run | {"config": {field: value}}]}))
    with pytest.raises(InputError, match=f"ledger.json: {re.escape(field)}: expected {expected}.*; restore it, or"):
        read_ledger(tmp_path / "ledger.json")


def test_the_page_needs_no_other_file_and_shows_text_as_text(capsys, tmp_path):
    path = write_run(tmp_path / "run", "resnet_20")
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps(summary | {"hardware": "<img src=x>"}))
    _report(capsys, tmp_path / "ledger", path)
    text = (tmp_path / "ledger" / "ledger.html").read_text()
    assert "&lt;img src=x&gt;" in text and not re.search(r"<(img|script|link)|https?://(?!github)[^ ]*\.(css|js)", text)


def test_every_recipe_has_its_row():
    table = rows([])
    for program, configs in PROGRAMS.items():
        assert set(configs) <= {row.config for row in table}, program
    assert {row.dataset for row in table if row.config == "wrn_28_10"} >= {"cifar10", "cifar100"}
    assert all(row.runs == () and row.deviation() is None for row in table)


def test_the_committed_ledger_and_the_readme_are_what_the_command_writes(capsys, tmp_path):
    """After a change of a recipe: python -m experiments.report --readme README.md"""
    committed = ROOT / "results"
    shutil.copytree(committed, tmp_path / "results")
    shutil.copy(ROOT / "README.md", tmp_path)
    assert read_ledger(committed / "ledger.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert _main(capsys, "--readme", "README.md")[0] == 0
    for name in ("results/ledger.json", "results/ledger.md", "results/ledger.svg", "README.md"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), name


def test_the_commands_of_the_committed_runs_train_what_they_trained():
    """Also where the recipe of that name has changed since."""
    runs = read_ledger(ROOT / "results" / "ledger.json")
    assert any(command_of(run) != run["command"] for run in runs)
    for run in runs:
        program, config, flags = command_of(run).partition(" --config ")
        config = parse(program, PROGRAMS[program], shlex.split(config + flags))[2]
        assert json.loads(json.dumps(config.identity())) == whole_config(run), run["name"]


@pytest.mark.parametrize(
    "flags",
    [
        "--config wrn_28_10 --optimizer.no_nesterov --schedule.boundaries 10 20.5 --seed 3 --model.norm_scope 32",
        "--config wrn_40_2_b131 --model.block_type None --schedule.boundaries --augmentation.no_flip",
        "--config quickstart --model.name vgg_15 --model.width 32 --optimizer.learning_rate 0.0125 --dtype bfloat16",
        "--config resnet_110 --optimizer.b2 0.9 --optimizer.no_nesterov --optimizer.kind muon --optimizer.sam_rho 0.1",
    ],
)
def test_the_command_of_a_run_is_read_as_the_same_config(flags):
    name, named, config = parse(CIFAR, CONFIGS, flags.split())
    line = command(CIFAR, name, changed_fields(named, config))
    assert line.startswith(f"{CIFAR} --config {name}")
    assert parse(CIFAR, CONFIGS, line.removeprefix(CIFAR).split())[2] == config


def test_a_difference_is_told_in_standard_errors_and_too_few_seeds_are_said(capsys, tmp_path):
    seeds = {
        "wrn_28_10": [4.1, 4.3, 3.9, 4.6, 4.0],  # published: a median of 5
        "resnet_20": [8.7, 8.9, 8.4],  # a single run, 8.75
        "resnet_32": [9.7, 9.9, 9.4],  # 7.51
        "resnet_56": [5.7, 5.9, 5.75],  # 6.97
        "resnet_110": [6.6, 6.7],  # the best of 5
    }
    for name, errors in seeds.items():
        for seed, error in enumerate(errors):
            write_run(tmp_path / "runs" / f"{name}_{seed}", name, (9.0, error), seed=seed)
    table, _ = _report(capsys, tmp_path / "ledger", tmp_path / "runs")
    ours = {name: _find(table, name)[0]["ours"] for name in seeds}
    told = {name: each["verdict"] for name, each in ours.items()}
    assert told == {
        "wrn_28_10": "near",
        "resnet_20": "near",
        "resnet_32": "worse",
        "resnet_56": "better",
        "resnet_110": "open",
    }
    # Welch's t of ours and one draw with our spread.
    std = np.std(seeds["resnet_20"], ddof=1)
    expected = (np.mean(seeds["resnet_20"]) - 8.75) / np.sqrt(std**2 / 3 + std**2)
    assert ours["resnet_20"]["standard_errors"] == pytest.approx(expected)
    # The standard error of a median is sqrt(pi / 2) times that of a mean.
    std = np.std(seeds["wrn_28_10"], ddof=1)
    expected = (np.mean(seeds["wrn_28_10"]) - 4.00) / np.sqrt(std**2 / 5 + std**2 / 5 * np.pi / 2)
    assert ours["wrn_28_10"]["standard_errors"] == pytest.approx(expected)
    assert (ours["resnet_110"]["standard_errors"], ours["resnet_110"]["seeds_needed"]) == (None, 5)
    text = (tmp_path / "ledger" / "ledger.md").read_text()
    assert "+2.16 (+7.4 SE)" in text and "(too few seeds: 5 needed)" in text and "(ledger.svg)" in text
    picture = (tmp_path / "ledger" / "ledger.svg").read_text()
    assert ">+7.4 SE, n = 3</text>" in picture and ">n = 2, 5 needed</text>" in picture


def test_the_figure_has_every_row_with_a_number(capsys, tmp_path):
    write_run(tmp_path / "runs" / "one", "resnet_20", (9.0, 8.0))
    table, _ = _report(capsys, tmp_path / "ledger", tmp_path / "runs")
    root = ElementTree.parse(tmp_path / "ledger" / "ledger.svg").getroot()
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == sum(1 for row in table if row["published"] or row["ours"])
    assert "resnet_20; published 8.75; ours 8.00, n = 1" in titles
    (dot,) = (mark for mark in root.iter("{http://www.w3.org/2000/svg}circle") if float(mark.get("cy")) > 56)
    assert float(dot.get("cy")) < float(root.get("viewBox").split()[3])
    assert "</svg>" in (tmp_path / "ledger" / "ledger.html").read_text()
