"""The engine: stopped anywhere and resumed it ends as if never stopped; what goes wrong is said and nothing is lost."""

import dataclasses
import io
import json
import math
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from rich.console import Console

from experiments.configs import Config, ModelConfig
from experiments.runtime.exit_codes import TrainingError
from experiments.runtime.interrupt import Interrupted
from experiments.training.agreement import Pace
from experiments.training.engine import Engine
from experiments.training.task import Task, first_layer_gradient
from experiments.training.workdir import GRADIENT_KEYS, METRIC_KEYS, VALIDATION_KEYS, Workdir
from resjax import InputError, train
from tests.helpers import problem
from tests.helpers.programs import shared_programs  # noqa: F401 (a fixture)

CONFIG = Config(ModelConfig("resnet_8"), epochs=3, batch_size=16, eval_batch_size=32, seed=5)
RESOLVED = {"name": "test", "config": CONFIG.identity()}
OBJECTIVE = train.classification()


def _task(learning_rate=0.05) -> Task:
    network, optimizer, _ = problem.build(learning_rate)
    return Task(
        model=network,
        optimizer=optimizer,
        schedule=lambda step: learning_rate,
        prepare=problem.prepare,
        normalize=problem.normalize,
        train_data=problem.images_and_labels(100),  # 6 batches and 4 images that are skipped
        test_data=problem.images_and_labels(50, seed=1),
        title="test",
        objective=OBJECTIVE,
        make_eval_step=lambda *of: train.make_eval_step(*of),
    )


def _engine(path, config=CONFIG, task=None, devices=1, seeds=None):
    output = io.StringIO()
    console = Console(file=output, width=200)
    engine = Engine(config, task or _task(), Workdir(path), RESOLVED, console, jax.devices()[:devices], seeds)
    engine.output = output
    return engine


def _run(path, **options):
    engine = _engine(path, **options)
    return engine.run(), engine


def _stop_at(engine, events: int) -> None:
    """Makes SIGTERM arrive after so many dispatches, of training or of evaluation."""
    count = 0

    def counted(function):
        def call(*args):
            nonlocal count
            result = function(*args)
            count += 1
            if count == events:
                signal.raise_signal(signal.SIGTERM)
            return result

        return call

    engine._pace.observe, engine._test_pace.observe = (lambda *_: None), (lambda *_: None)  # one step a dispatch
    engine._pace.seconds_per_step = engine._test_pace.seconds_per_step = 1.0
    engine._dispatch, engine._display.testing = counted(engine._dispatch), counted(engine._display.testing)


def _interrupt(path, events: int, **options) -> None:
    """A run that is stopped by SIGTERM after so many dispatches."""
    engine = _engine(path, **options)
    _stop_at(engine, events)
    with pytest.raises(Interrupted):
        engine.run()


def test_a_checkpoint_of_step_0_is_gone_on_from_like_any_other(tmp_path):
    _interrupt(tmp_path, 1)  # behind the compilation, before the first step
    assert Workdir(tmp_path).saved_steps() == [0]
    engine = _engine(tmp_path)
    _stop_at(engine, 1)
    with pytest.raises(Interrupted):
        engine.run()
    assert "resuming at step 0 from" in engine.output.getvalue()


def _lasting(records):
    """Records without the times."""
    return [{k: v for k, v in r.items() if "second" not in k} for r in records]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    state, engine = _run(path)
    return jax.device_get(state), engine.runs[0].records, path


@pytest.mark.quick
# 1: only compiled; 4: within an epoch; 8: between the two test batches of epoch 1; 9: after them; 15: within epoch 2.
@pytest.mark.parametrize("stops", [[1], [4], [8], [9], [15], [3, 2, 9]])
def test_stopped_and_resumed_ends_with_the_same_bits(tmp_path, uninterrupted, stops):
    expected, records, _ = uninterrupted
    for events in stops:
        engine = _engine(tmp_path)
        _stop_at(engine, events)
        with pytest.raises(Interrupted) as stop:
            engine.run()
        assert stop.value.exit_code == 128 + signal.SIGTERM
        assert "run the same command again" in engine.output.getvalue()
    engine = _engine(tmp_path)
    state = engine.run()
    problem.assert_same_bits(state, expected)
    assert _lasting(engine.runs[0].records) == _lasting(records)
    assert _lasting(map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())) == _lasting(records)


def test_a_signal_between_two_epochs_stops_before_the_next(tmp_path):
    engine = _engine(tmp_path)
    record = engine._record_epoch
    engine._record_epoch = lambda values: (record(values), signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match="SIGTERM"):
        engine.run()
    assert [entry["epoch"] for entry in Workdir(tmp_path).records()] == [1]
    assert "stopped by SIGTERM at step 6: saved in" in engine.output.getvalue()


def test_an_error_of_the_only_process_is_shown_as_it_is(tmp_path):
    engine = _engine(tmp_path)

    def fail(*arguments):
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault of XLA")

    engine._dispatch = fail
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: a fault of XLA"):
        engine.run()


def test_a_network_that_does_not_say_its_first_convolution_has_no_gradient_of_it():
    with pytest.raises(InputError, match="--gradient_metrics: Dense does not say which .* `first_trained_kernel`"):
        first_layer_gradient(nn.Dense(1))


def test_a_full_disk_ends_the_run_with_what_is_left_and_the_way_out(tmp_path, monkeypatch):
    _interrupt(tmp_path, 4)
    usage, (step,) = shutil.disk_usage(tmp_path), Workdir(tmp_path).saved_steps()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(TrainingError, match="could not save a checkpoint in .* has 0.0 MiB free") as error:
        _run(tmp_path)
    assert str(error.value).endswith(
        f"The last good checkpoint is of step {step}, in {tmp_path / 'checkpoints'}."
        " Once it can be written again, run the same command to resume."
    )


def test_a_killed_run_forgets_what_no_checkpoint_holds(tmp_path, uninterrupted):
    expected, records, whole = uninterrupted
    _interrupt(tmp_path, 10)  # in epoch 2
    # Lines of later epochs, and one cut in the middle, as a kill would leave them.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write((whole / "metrics.jsonl").read_text().splitlines()[1] + "\n")
        file.write('{"epoch": 3, "st')
    state, engine = _run(tmp_path)
    problem.assert_same_bits(state, expected)
    assert _lasting(engine.runs[0].records) == _lasting(records)


def test_without_its_metrics_a_run_still_goes_on_at_its_step(tmp_path, uninterrupted):
    expected, records, _ = uninterrupted
    _interrupt(tmp_path, 10)  # in epoch 2
    (tmp_path / "metrics.jsonl").unlink()
    state, engine = _run(tmp_path)
    problem.assert_same_bits(state, expected)
    assert _lasting(engine.runs[0].records) == _lasting(records[1:])


def test_a_finished_run_is_left_as_it_is(uninterrupted):
    expected, records, path = uninterrupted
    before = (path / "metrics.jsonl").read_bytes()
    state, engine = _run(path)
    problem.assert_same_bits(state, expected)
    assert engine.runs[0].records == records and (path / "metrics.jsonl").read_bytes() == before


def test_curves_that_a_run_did_not_come_to_are_drawn_by_the_next_start(tmp_path, uninterrupted):
    """Of a disk that was full, or a kill, after the last line of metrics.jsonl."""
    workdir = shutil.copytree(uninterrupted[2], tmp_path / "run")
    whole = (workdir / "curves.png").read_bytes()
    for damage in (lambda file: file.unlink(), lambda file: file.write_bytes(b"of an earlier epoch")):
        damage(workdir / "curves.png")
        _run(workdir)
        assert (workdir / "curves.png").read_bytes() == whole
    (workdir / "summary.json").write_text("{}")  # finished: left as it is
    (workdir / "curves.png").write_bytes(b"a person's")
    _run(workdir)
    assert (workdir / "curves.png").read_bytes() == b"a person's"


def test_files_of_a_run(uninterrupted):
    _, records, path = uninterrupted
    assert [set(record) for record in records] == [set(METRIC_KEYS)] * 3
    assert [record["step"] for record in records] == [6, 12, 18]
    assert json.loads((path / "config.json").read_text()) == RESOLVED
    assert (path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (path / "checkpoints" / "latest").iterdir()) == ["12", "18"]
    best = min(records, key=lambda record: record["test_error"])
    assert [p.name for p in (path / "checkpoints" / "best").iterdir()] == [str(best["step"])]
    for record in records:
        assert record["test_error"] == pytest.approx(100 * (1 - record["test_accuracy"]))
        assert record["test_accuracy"] * 50 == pytest.approx(round(record["test_accuracy"] * 50))


@pytest.mark.quick
def test_a_run_of_eight_devices_goes_on_on_one(tmp_path, uninterrupted):
    _, records, _ = uninterrupted
    _interrupt(tmp_path, 5, devices=8)
    _, engine = _run(tmp_path)
    for ours, theirs in zip(engine.runs[0].records, records, strict=True):
        np.testing.assert_allclose(ours["train_loss"], theirs["train_loss"], rtol=0.02)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    network, _, _ = problem.build()
    schedule = lambda step: jnp.where(step == 8, jnp.inf, 0.05)  # noqa: E731
    task = dataclasses.replace(_task(), optimizer=train.sgd(schedule, weight_decay=1e-3), schedule=schedule)
    with pytest.raises(TrainingError, match=r"not finite at step 9 \(epoch 2\).*last good checkpoint is of step 6"):
        _run(tmp_path, task=task)
    with train.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step == 6
        state = checkpoints.restore(problem.new_state(network, task.optimizer)).state
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def _exploding(rate, at):
    """A task whose rate is `rate` in a single step."""
    schedule = lambda step: jnp.where(step == at, rate, 0.05)  # noqa: E731
    return dataclasses.replace(_task(), optimizer=train.sgd(schedule, weight_decay=1e-3), schedule=schedule)


def test_a_last_update_that_explodes_is_seen(tmp_path):
    """All losses are finite; the parameters after them are not."""
    with pytest.raises(TrainingError, match=r"not finite after step 18 .epoch 3.*last good checkpoint is of step 12"):
        _run(tmp_path, task=_exploding(jnp.inf, at=17))
    assert Workdir(tmp_path).saved_steps() == [6, 12]
    assert [record["step"] for record in Workdir(tmp_path).records()] == [6, 12]


def test_parameters_that_cannot_be_evaluated_are_neither_saved_as_good_nor_the_best(tmp_path):
    """They are finite, about 1e28, and their test loss is not."""
    with pytest.raises(
        TrainingError, match=r"the test loss is not finite after step 6 .*No checkpoint was written yet"
    ):
        _run(tmp_path, task=_exploding(1e30, at=5))
    checkpoints = tmp_path / "checkpoints"
    assert Workdir(tmp_path).saved_steps() == [] and not list((checkpoints / "best").iterdir())
    assert [path.name for path in (checkpoints / "set_aside").iterdir()] == ["6"]
    assert Workdir(tmp_path).records() == []


def test_a_saved_step_that_the_next_one_cannot_start_from_is_not_the_last_good_one(tmp_path):
    task = _exploding(1e30, at=6)
    _interrupt(tmp_path, 10, task=task)  # after the seventh step
    assert Workdir(tmp_path).saved_steps() == [6, 7]
    with pytest.raises(TrainingError, match=r"not finite at step 7 .*last good checkpoint is of step 6"):
        _run(tmp_path, task=task)
    assert Workdir(tmp_path).saved_steps() == [6]


def test_validation_images_choose_the_epoch(tmp_path, uninterrupted):
    """Those of the test set do not: here it is best where the other is not."""
    expected, records, _ = uninterrupted
    task = dataclasses.replace(_task(), validation_data=problem.images_and_labels(60, seed=2))
    _interrupt(tmp_path, 8, task=task)
    state, engine = _run(tmp_path, task=task)
    problem.assert_same_bits(state, expected)
    assert [set(record) for record in engine.runs[0].records] == [set(METRIC_KEYS) | set(VALIDATION_KEYS)] * 3
    for ours, theirs in zip(_lasting(engine.runs[0].records), _lasting(records), strict=True):
        assert {key: ours[key] for key in theirs} == theirs
        assert ours["validation_error"] == pytest.approx(100 * (1 - ours["validation_accuracy"]))
        assert ours["validation_accuracy"] * 60 == pytest.approx(round(ours["validation_accuracy"] * 60))
    best = min(engine.runs[0].records, key=lambda record: record["validation_error"])
    assert [p.name for p in (tmp_path / "checkpoints" / "best").iterdir()] == [str(best["step"])]
    assert task.metric.best(engine.runs[0].records) == best


def test_the_learning_rate_of_a_warm_up_is_recorded(tmp_path):
    """It ends early in the second epoch, and a resumed run remembers it."""
    warm_up = train.warm_up_until(0.975, 0.1)
    task = dataclasses.replace(_task(), optimizer=train.sgd(0.05, weight_decay=1e-3, warm_up=warm_up))
    _interrupt(tmp_path, 4, task=task)
    state, engine = _run(tmp_path, task=task)
    rates = [record["learning_rate"] for record in engine.runs[0].records]
    assert rates[0] == pytest.approx(0.005) and rates[-1] == pytest.approx(0.05)
    assert train.learning_rate_factor(state.opt_state) == 1


def _flip_a_bit(checkpoint):
    file = max(
        (path for path in (checkpoint / "train").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_it_is_taken(tmp_path, uninterrupted):
    expected, records, _ = uninterrupted
    _interrupt(tmp_path, 12)  # within epoch 2
    before, newest = Workdir(tmp_path).saved_steps()
    latest, aside = (tmp_path / "checkpoints" / name / str(newest) for name in ("latest", "set_aside"))
    _flip_a_bit(latest)
    state, engine = _run(tmp_path)
    (said,) = [line for line in engine.output.getvalue().splitlines() if "is damaged (" in line]
    assert said.startswith(f"checkpoint {latest} is damaged (train/")
    assert said.endswith(f"; it was moved to {aside}, and the run goes on from step {before}")
    problem.assert_same_bits(state, expected)
    assert _lasting(engine.runs[0].records) == _lasting(records)


def test_a_checkpoint_under_a_larger_number_is_not_believed(tmp_path, uninterrupted):
    expected, _, _ = uninterrupted
    _interrupt(tmp_path, 5)
    (step,) = Workdir(tmp_path).saved_steps()
    shutil.copytree(*(tmp_path / "checkpoints" / "latest" / str(number) for number in (step, 18)))
    state, engine = _run(tmp_path)
    assert f"latest/18 is damaged (it is of step {step}); it was moved to" in engine.output.getvalue()
    problem.assert_same_bits(state, expected)


def test_a_run_without_a_whole_checkpoint_is_refused_with_the_way_out(tmp_path):
    _interrupt(tmp_path, 5)
    (step,) = Workdir(tmp_path).saved_steps()
    _flip_a_bit(tmp_path / "checkpoints" / "latest" / str(step))
    said = r"is damaged .*, and there is none before it to go on from. Start anew with --resume never$"
    with pytest.raises(TrainingError, match=said):
        _run(tmp_path)
    assert Workdir(tmp_path).saved_steps() == [step]


def test_tensorboard_events_hold_each_epochs_values(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    config = dataclasses.replace(CONFIG, tracker=("tensorboard",), epochs=2)
    _, engine = _run(tmp_path, config=config)
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, seen, position = file.read_bytes(), {}, 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 8], "little")
        event = Event.FromString(data[position + 12 : position + 12 + size])
        seen |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
        position += size + 16
    for record in engine.runs[0].records:
        assert seen[record["step"], "test_error"] == pytest.approx(record["test_error"])


def test_pace_aims_at_two_seconds_without_jumping():
    pace, counts = Pace(), []
    for _ in range(8):
        counts.append(pace.count)
        pace.observe(counts[-1], counts[-1] * 0.01)
    assert counts[0] == 1 and counts[-1] == 200
    assert all(after <= 4 * before for before, after in zip(counts, counts[1:], strict=False))
    pace.observe(200, 1000.0)
    assert pace.count == 1
    assert not math.isnan(pace.seconds_per_step)


def test_a_gradient_metric_is_recorded_where_it_is_asked_for_and_changes_no_bit(tmp_path, uninterrupted):
    """Stopped within an epoch and resumed with it, an epoch has the mean over the steps that counted it."""
    asked = dataclasses.replace(CONFIG, gradient_metrics=("first_layer_gradient",))
    state, engine = _run(tmp_path / "whole", config=asked)
    assert all(set(record) == set(METRIC_KEYS) | set(GRADIENT_KEYS) for record in engine.runs[0].records)
    gradients = [record["first_layer_gradient"] for record in engine.runs[0].records]
    assert all(0 < gradient < 1 for gradient in gradients)
    _interrupt(tmp_path / "resumed", events=3)
    resumed, engine = _run(tmp_path / "resumed", config=asked)
    problem.assert_same_bits(resumed, state)
    assert engine.runs[0].records[0]["first_layer_gradient"] == pytest.approx(gradients[0], rel=0.5)
    assert [record["first_layer_gradient"] for record in engine.runs[0].records[1:]] == gradients[1:]
    problem.assert_same_bits(uninterrupted[0], state)
