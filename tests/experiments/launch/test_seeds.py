"""Several seeds at once: each ends as its own run would, stopped anywhere or not, and the command says their mean."""

import dataclasses
import functools
import json
import re
import shutil
import statistics

import jax
import numpy as np
import pytest

from experiments import cifar
from experiments.configs.programs import CIFAR
from experiments.evaluation.trained import load_run
from experiments.launch.seeds import groups_of_seeds, seeds_that_fit
from experiments.reports.ledger import rows
from experiments.reports.runs import read_run, run_folders
from experiments.runtime.exit_codes import TrainingError
from experiments.runtime.interrupt import Interrupted
from experiments.training import seed_run
from experiments.training.seed_run import step_to_go_on_from
from experiments.training.workdir import METRIC_KEYS, Workdir
from resjax import InputError, train
from tests.experiments.training import test_engine
from tests.helpers import problem
from tests.helpers.command import outcome
from tests.helpers.few_images import few_images
from tests.helpers.programs import shared_programs  # noqa: F401 (a fixture)

SEEDS = (5, 6, 7)


@functools.cache
def _task():
    """With a learning rate that is each seed's own."""
    warm_up = train.warm_up_until(0.975, 0.1)
    return dataclasses.replace(test_engine._task(), optimizer=train.sgd(0.05, weight_decay=1e-3, warm_up=warm_up))


def _engine(path):
    """On two devices: one of them has two seeds."""
    return test_engine._engine(path, task=_task(), devices=2, seeds=SEEDS)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    path = tmp_path_factory.mktemp("together")
    engine = _engine(path)
    return engine.run(), engine, path


def _lasting(engine):
    return [test_engine._lasting(run.records) for run in engine.runs]


def test_each_seed_has_the_numbers_and_the_files_of_its_own_run(tmp_path, together):
    states, engine, path = together
    for seed, state, run in list(zip(SEEDS, states, engine.runs, strict=True))[::2]:
        config = dataclasses.replace(test_engine.CONFIG, seed=seed, epochs=1)
        alone = test_engine._engine(tmp_path / str(seed), config=config, task=_task())
        alone.run()
        for key in ("train_loss", "test_loss", "learning_rate"):
            np.testing.assert_allclose(run.records[0][key], alone.runs[0].records[0][key], rtol=5e-3, err_msg=key)
        assert run.records[0]["learning_rate"] == pytest.approx(0.005)  # the warm-up's
        assert {p.name for p in run.workdir.path.iterdir()} == {p.name for p in alone.runs[0].workdir.path.iterdir()}
        assert [set(record) for record in run.records] == [set(METRIC_KEYS)] * 3
        config = json.loads((path / f"seed_{seed}" / "config.json").read_text())["config"]
        assert config == test_engine.RESOLVED["config"] | {"seed": seed}
        with train.Checkpoints(run.workdir.checkpoints) as checkpoints:
            assert checkpoints.steps == [12, 18]
            template = problem.new_state(test_engine._task().model, _task().optimizer)
            problem.assert_same_bits(checkpoints.restore(template).state, state)
        best = min(run.records, key=lambda record: record["test_error"])
        assert [p.name for p in (run.workdir.checkpoints / "best").iterdir()] == [str(best["step"])]
    assert len({json.dumps(records) for records in _lasting(engine)}) == len(SEEDS)


def test_stopped_and_resumed_all_seeds_end_with_the_same_bits(tmp_path, together):
    states, whole, _ = together
    for events in (4, 5):  # within an epoch; between the two test batches behind it
        engine = _engine(tmp_path)
        test_engine._stop_at(engine, events)
        with pytest.raises(Interrupted):
            engine.run()
    engine = _engine(tmp_path)
    problem.assert_same_bits(engine.run(), states)
    assert _lasting(engine) == _lasting(whole)


def test_killed_while_they_save_the_seeds_go_on_from_the_step_that_all_of_them_have(tmp_path, together):
    states, whole, path = together
    shutil.copytree(path, tmp_path / "run")
    for seed in SEEDS[1:]:
        shutil.rmtree(tmp_path / "run" / f"seed_{seed}" / "checkpoints" / "latest" / "18")
    # The records of the last epoch were written of the first two.
    metrics = tmp_path / "run" / "seed_7" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:1]))
    engine = _engine(tmp_path / "run")
    test_engine._stop_at(engine, 5)  # in epoch 3
    with pytest.raises(Interrupted):
        engine.run()
    assert "resuming at step 12" in engine.output.getvalue()
    (step,) = re.findall(r"stopped by SIGTERM at step (\d+)", engine.output.getvalue())
    engine = _engine(tmp_path / "run")
    problem.assert_same_bits(engine.run(), states)
    assert 12 < int(step) < 18 and f"resuming at step {step}" in engine.output.getvalue()
    assert _lasting(engine) == _lasting(whole)


def test_killed_in_their_first_save_the_seeds_start_anew_and_save_as_ever(tmp_path):
    for events, step in ((4, 3), (2, 1)):
        engine = _engine(tmp_path)
        test_engine._stop_at(engine, events)
        with pytest.raises(Interrupted):
            engine.run()
        assert [run.workdir.saved_steps() for run in engine.runs] == [[step]] * 3
        shutil.rmtree(tmp_path / "seed_6" / "checkpoints" / "latest")


def test_a_loss_that_is_not_finite_names_its_seed(tmp_path, monkeypatch):
    join = train.join_seeds

    def ruin_one(trees, mesh):
        if isinstance(trees[1], train.TrainState):
            ruined = jax.tree.map(lambda leaf: leaf * np.nan, trees[1].params)
            trees = [trees[0], trees[1].replace(params=ruined), *trees[2:]]
        return join(trees, mesh)

    monkeypatch.setattr(train, "join_seeds", ruin_one)
    with pytest.raises(TrainingError, match=r"^seed 6: the loss .* step 0 \(epoch 1\).*No checkpoint was written yet"):
        _engine(tmp_path).run()


def test_seeds_go_on_from_their_newest_common_step_but_not_where_work_would_be_lost():
    assert step_to_go_on_from([[6, 12], [6, 12]]) == 12
    assert step_to_go_on_from([[6, 12], [6]]) == 6
    assert step_to_go_on_from([[6], []]) == 0
    assert step_to_go_on_from([[], []]) == 0
    assert step_to_go_on_from([[6, 12], []]) is None
    assert step_to_go_on_from([[12, 18], [6, 12], [6, 12]]) == 12


@pytest.mark.parametrize(
    ("steps", "shared", "message"),
    [
        (([6, 12], [], []), True, "the seeds in .* are at different steps: .* --seed S --workdir .*/seed_S"),
        (
            ([6], [6], [6]),
            False,
            r"see different checkpoints in .*checkpoints \(process 0: step 6\): --workdir must be a folder",
        ),
    ],
    ids=["of seeds", "of processes"],
)
def test_checkpoints_that_do_not_belong_together_are_refused(tmp_path, monkeypatch, steps, shared, message):
    monkeypatch.setattr(seed_run, "same_everywhere", lambda step: shared)
    monkeypatch.setattr(seed_run.SeedRun, "saved_steps", property(lambda run: steps[SEEDS.index(run.seed)]))
    with pytest.raises(InputError, match=message):
        _engine(tmp_path).runs.step_to_go_on_from()


def test_seeds_are_grouped_by_memory_and_by_what_is_done(tmp_path):
    workdir = Workdir(tmp_path)
    assert groups_of_seeds(range(5), workdir, fit=2) == [[0, 1], [2, 3], [4]]
    (tmp_path / "seed_1").mkdir()
    (tmp_path / "seed_1" / "summary.json").write_text("{}")
    for step in (6, 12):  # was trained further by itself
        (tmp_path / "seed_2" / "checkpoints" / "latest" / str(step)).mkdir(parents=True)
    assert groups_of_seeds(range(5), workdir, fit=8) == [[0], [2], [3, 4]]


def test_as_many_seeds_are_taken_together_as_the_memory_of_the_devices_holds():
    class Device:
        def __init__(self, platform):
            self.platform = platform

        def memory_stats(self):
            return {"bytes_limit": 1000}

    memory = {"parameters": 50, "gradients": 20, "activations kept for the backward pass": 180, "training images": 100}
    devices = [Device("cpu")] * 3
    # Of 800 - 100 bytes: on a CPU 180 + 20 once, and twice 50 for each seed; elsewhere 250 for each.
    assert seeds_that_fit(memory, devices) == 5 * 3
    assert seeds_that_fit(memory, [Device("tpu")] * 3) == 2 * 3
    assert seeds_that_fit(memory | {"training images": 2000}, devices) == 1
    assert seeds_that_fit(memory, jax.devices()) > 10**6


ARGUMENTS = ("--config", "quickstart", "--model.name", "resnet_8", "--model.stage_sizes", "1", "--model.widths", "4")
ARGUMENTS += ("--epochs", "1", "--batch_size", "96", "--seed", "3", "--validation_images", "96")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """(workdir of two seeds, trained by the command; the seeds' summaries)."""
    path = tmp_path_factory.mktemp("command")
    with few_images(200, 96):
        assert cifar.main([*ARGUMENTS, "--seeds", "2", "--workdir", str(path)]) == 0
        yield path, [json.loads((path / f"seed_{seed}" / "summary.json").read_text()) for seed in (3, 4)]


def test_the_command_ends_with_mean_and_spread_and_leaves_finished_seeds_alone(capsys, command):
    path, summaries = command
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}
    code, out, _ = outcome(cifar.main, capsys, *ARGUMENTS, "--seeds", "2", "--workdir", path)
    assert code == 0 and "2 of 2 seeds are finished" in out
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()} == before
    errors = [summary["final_test_error"] for summary in summaries]
    mean, deviation = statistics.mean(errors), abs(errors[0] - errors[1]) / 2**0.5
    assert f"test error of 2 seeds (mean +- sample standard deviation): final {mean:.2f} +- {deviation:.2f}%" in out
    assert out.splitlines()[-1].endswith(f"Runs: {path}")


def test_each_seed_of_the_command_is_a_run_that_every_other_command_takes(command):
    path, summaries = command
    assert [summary["seed"] for summary in summaries] == [3, 4]
    assert summaries[1]["command"] == f"{CIFAR} {' '.join(ARGUMENTS)}".replace("--seed 3", "--seed 4")
    for folder in (path, path.parent):
        assert [run.name for run in run_folders([str(folder)]) if path in run.parents] == ["seed_3", "seed_4"]
    (row,) = [row for row in rows([read_run(run) for run in run_folders([str(path)])]) if row.runs]
    assert [run["seed"] for run in row.runs] == [3, 4]
    assert row.reported() == [summary["final_test_error"] for summary in summaries]
    network = load_run(str(path / "seed_4"), "best", 10, None)
    assert network.images.shape == (10, 32, 32, 3)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds: expected a positive integer, got 0"),
        (["--seeds", "2", "--seed", str(2**31 - 1)], "--seeds: .* go beyond"),
        (["--seeds", "2", "--shard_state"], "leave out --shard_state"),
        (["--seeds", "2", "--scaling_report"], "leave out one of the two"),
        (["--seeds", "2", "--coordinator", "a:1", "--num_processes", "2", "--process_id", "0"], "needs one process"),
    ],
)
def test_what_seeds_cannot_be_is_named_in_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = outcome(cifar.main, capsys, "--config", "resnet_20", *arguments)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seeds", [2, 4])
def test_seeds_that_a_device_has_no_memory_for_are_said_with_a_way_out(capsys, tmp_path, monkeypatch, seeds):
    class Full:
        def __init__(self, *arguments, seeds, **options):
            self.seeds = seeds

        def run(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nAnd more.")

    monkeypatch.setattr("experiments.launch.run.Engine", Full)
    command = ("--config", "quickstart", "--model.name", "resnet_8", "--seeds", seeds, "--workdir", tmp_path / "run")
    code, _, err = outcome(cifar.main, capsys, *command)
    assert code == 1 and err.startswith(f"error: {seeds} seeds at once need more memory") and err.count("\n") == 1
    half = seeds // 2
    assert "(RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.)" in err
    assert f"--seed 0 --seeds {half}, then --seed {half} --seeds {half}" in err


def test_another_fault_of_the_devices_is_shown_as_it_is(tmp_path, monkeypatch):
    class Faulty:
        def __init__(self, *arguments, **options):
            pass

        def run(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: a fault of XLA")

    monkeypatch.setattr("experiments.launch.run.Engine", Faulty)
    command = ("--config", "quickstart", "--model.name", "resnet_8", "--workdir", str(tmp_path / "run"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: a fault of XLA"):
        cifar.main(command)


def test_a_dry_run_says_how_many_seeds_fit(capsys):
    code, out, _ = outcome(
        cifar.main, capsys, "--config", "quickstart", "--model.name", "resnet_8", "--seeds", "5", "--dry_run"
    )
    assert code == 0 and re.search(r"^seeds +5, all at once on 8 devices$", out, re.M)
