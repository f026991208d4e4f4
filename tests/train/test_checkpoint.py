"""Checkpoints give back what was saved, on any number of devices, and say what is wrong with a bad one."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from resjax import InputError, create_model, train
from resjax.models import restack
from resjax.train import CheckpointError, Checkpoints, Totals, read_variables
from tests.helpers import problem

RUN = {"config": {"epochs": 3}, "epoch_seconds": 1.5}


def _state(devices=1, seed=3, model=""):
    mesh = train.data_mesh(jax.devices()[:devices])
    return problem.new_state(*problem.build(model=model)[:2], mesh, seed, moving_average=True)


def _at(state, step):
    return state.replace(step=state.step * 0 + step)


@pytest.mark.quick
@pytest.mark.parametrize(("saved_on", "restored_on"), [(1, 1), (8, 1), (1, 8)])
def test_restores_the_same_bits_on_any_number_of_devices(tmp_path, saved_on, restored_on):
    state, totals = _at(_state(saved_on), 7), Totals.zero().replace(correct=np.int32(5))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, totals, RUN)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(_state(restored_on, seed=4))
    problem.assert_same_bits((restored.state, restored.totals), (state, totals))
    assert restored.run == RUN
    assert all(len(leaf.sharding.device_set) == restored_on for leaf in jax.tree.leaves(restored.state))


@pytest.mark.parametrize("saved_scan", [False, True])
def test_blocks_saved_apart_restore_stacked_and_the_other_way_round(tmp_path, saved_scan):
    mesh, optimizer = train.data_mesh(jax.devices()[:2]), train.sgd(0.1)
    networks = {scan: create_model("resnet_26", widths=(4, 4, 4), scan=scan) for scan in (False, True)}
    states = {scan: problem.new_state(net, optimizer, mesh, 3, moving_average=True) for scan, net in networks.items()}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(states[saved_scan], Totals.zero(), RUN)
        checkpoints.wait()
        restored = checkpoints.restore(states[not saved_scan]).state
    assert jax.tree.structure(restored) == jax.tree.structure(states[not saved_scan])
    stages = networks[True].stacked_stages if saved_scan else ()
    problem.assert_same_bits(restack(restored, stages), states[saved_scan])
    assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(restored))


def test_a_state_is_saved_as_it_was_though_training_goes_on_and_donates_it(tmp_path):
    mesh = problem.one_device()
    network, optimizer, step = problem.build()
    run = train.make_run_steps(step, 16, mesh)
    data = train.put_resident(problem.images_and_labels(160), mesh)
    order = train.epoch_order(3, 0, size=160)
    state, totals = run(problem.new_state(network, optimizer, mesh), Totals.zero(), data, order, 0, 1)
    with Checkpoints(tmp_path) as checkpoints:
        kept = jax.tree.map(np.array, state)
        for i in range(1, 9):
            checkpoints.save(state, totals, RUN)
            state, totals = run(state, totals, data, order, i, 1)
            checkpoints.wait()
            problem.assert_same_bits(checkpoints.restore(state).state, kept)
            kept = jax.tree.map(np.array, state)


def test_keeps_the_latest_two_and_the_best(tmp_path):
    state = _state()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step is None and checkpoints.best_step is None
        for step in (1, 2, 3):
            checkpoints.save(_at(state, step), Totals.zero(), RUN)
            if step < 3:
                checkpoints.save_best(_at(state, step), Totals.zero(), RUN)
        checkpoints.wait()
        assert (checkpoints.latest_step, checkpoints.best_step) == (3, 2)
        assert int(checkpoints.restore(state, best=True).state.step) == 2
    assert sorted(path.name for path in (tmp_path / "latest").iterdir()) == ["2", "3"]
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest_step, checkpoints.best_step) == (3, 2)
        checkpoints.forget_after(1)
        assert checkpoints.steps == [] and checkpoints.best_step is None


def test_a_step_that_is_there_is_left_as_it_is(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(_at(_state(seed=1), 5), Totals.zero(), RUN)
        checkpoints.save(_at(_state(seed=2), 5), Totals.zero(), RUN)
        problem.assert_same_bits(checkpoints.restore(_state()).state, _at(_state(seed=1), 5))


def _two_steps(path):
    with Checkpoints(path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(_at(_state(), step), Totals.zero(), RUN)


def _files(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def test_a_flipped_bit_in_any_file_is_told_or_changes_nothing(tmp_path):
    _two_steps(tmp_path)
    newest, told, draw = tmp_path / "latest" / "2", set(), np.random.default_rng(0)
    with Checkpoints(tmp_path) as checkpoints:
        for file in _files(newest):
            whole = file.read_bytes()
            damaged, bit = bytearray(whole), int(draw.integers(8 * len(whole)))
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            try:
                restored = checkpoints.restore(_state(), step=2)
                problem.assert_same_bits(restored.state, _at(_state(), 2))
                assert restored.run == RUN
            except CheckpointError as error:
                told.add(file)
                assert f"checkpoint {newest} is damaged (" in str(error)
            file.write_bytes(whole)
        assert int(checkpoints.restore(_state(), step=1).state.step) == 1
    # Orbax writes those of the checkpoint itself after the digests, and nothing is read from them.
    unverified = {file for file in _files(newest) if file.parent == newest or file.name == "commit_success.txt"}
    assert told >= set(_files(newest)) - unverified


def _damage_notes(newest):
    """Orbax notes the times of a checkpoint in a file of its own, which it would read of every one at once."""
    file = newest / "_CHECKPOINT_METADATA"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"commit_timestamp_nsecs": [[1], [2, 3]]}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda newest: (newest / "run" / "metadata").unlink(), "run/metadata is missing"),
        (lambda newest: (newest / "run" / "more").write_text(""), "run/more was not written with it"),
        (lambda newest: (newest / "digests" / "sha256.json").write_text("[]"), "digests/sha256.json is damaged"),
        (lambda newest: (newest / "digests" / "sha256.json").unlink(), "digests/sha256.json is damaged"),
        (lambda newest: newest.rename(newest.with_name("7")), "latest/7 is damaged .it is of step 2"),
        (_damage_notes, "latest/2 cannot be read: its files are damaged or incomplete"),
    ],
)
def test_a_checkpoint_that_is_not_as_it_was_written_is_told_by_every_reader(tmp_path, change, said):
    _two_steps(tmp_path)
    change(tmp_path / "latest" / "2")
    with Checkpoints(tmp_path) as checkpoints:
        newest = checkpoints.latest_step
        for read in (lambda: checkpoints.restore(_state()), lambda: read_variables(tmp_path)):
            with pytest.raises(CheckpointError, match=said):
                read()
        assert checkpoints.set_aside(newest) == tmp_path / "set_aside" / str(newest)
        assert int(checkpoints.restore(_state()).state.step) == 1
    assert read_variables(tmp_path)[1] == 1


def test_a_checkpoint_of_an_earlier_version_is_read_and_said(tmp_path, caplog):
    _two_steps(tmp_path)
    for step in "12":
        shutil.rmtree(tmp_path / "latest" / step / "digests")
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(_state()).state.step) == 2
        (said,) = [record.getMessage() for record in caplog.records if "has no digests" in record.getMessage()]
        assert said.endswith("latest/2 has no digests, an earlier version wrote it: its files are not verified")
    (tmp_path / "latest" / "2").rename(tmp_path / "latest" / "9")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="latest/9 is damaged .it is of st"):
        checkpoints.restore(_state())
    with pytest.raises(CheckpointError, match="latest/9 is damaged .it is of step 2"):
        read_variables(tmp_path)
    for path in _files(tmp_path / "latest" / "9" / "train"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match="latest/9 cannot be read: its files are damaged or incomplete$"):
            checkpoints.restore(_state())
        with pytest.raises(CheckpointError, match="latest/9 cannot be read: its files are damaged or incomplete$"):
            read_variables(tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(_state(model="wrn_10_1"), Totals.zero(), RUN)
        checkpoints.wait()
        with pytest.raises(CheckpointError, match="of another network .parameter .*: .*there, .*here"):
            checkpoints.restore(_state())


def test_what_is_saved_with_a_checkpoint_is_checked_before_its_arrays_are_read(tmp_path):
    _two_steps(tmp_path)
    seen = []
    assert read_variables(tmp_path, check_run=seen.append)[1] == 2
    assert seen == [RUN]


def test_nothing_to_restore_is_said(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoints.restore(_state())


@struct.dataclass
class _OlderTotals:
    """What checkpoints counted when every run recorded the gradient of its first convolution."""

    loss: jax.Array
    images: jax.Array
    first_layer_gradient: jax.Array
    failed_step: jax.Array
    correct: jax.Array


def test_an_older_checkpoint_with_the_first_layers_gradient_is_read(tmp_path):
    state = _state()
    older = _OlderTotals(jnp.float32(3), jnp.int32(2), jnp.float32(0.5), jnp.int32(-1), jnp.int32(1))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, older, {})
        checkpoints.wait()
        for names in (), ("first_layer_gradient",):
            wanted = Totals.zero().with_gradient_metrics(names)
            restored = checkpoints.restore(state, totals=wanted)
            problem.assert_same_bits(restored.state, state)
            expected = wanted.replace(loss=older.loss, images=older.images, correct=older.correct)
            problem.assert_same_bits(restored.totals, expected)


def test_variables_of_no_checkpoint_are_said(tmp_path):
    with pytest.raises(CheckpointError, match="best holds no checkpoint"):
        read_variables(tmp_path, best=True)
    (tmp_path / "latest").mkdir()
    with pytest.raises(CheckpointError, match="latest holds no checkpoint"):
        read_variables(tmp_path)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="checkpoint directory .*file/latest cannot be made"):
        Checkpoints(tmp_path / "file")


def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=r"it needs .* MiB and the disk has 0.0 MiB free"):
            checkpoints.save(_at(_state(), 1), Totals.zero(), RUN)
    assert not list((tmp_path / "latest").iterdir())


@pytest.mark.parametrize("failing", ["save", "wait_until_finished", "close"])
def test_a_disk_that_fails_is_said_wherever_it_shows(tmp_path, monkeypatch, failing):
    def fail(*arguments, **options):
        raise OSError(5, "Input/output error")

    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match=rf"^could not save a checkpoint in {tmp_path}: .*Input/output error"):
        with checkpoints:
            if failing == "save":
                monkeypatch.setattr(checkpoints._latest, failing, fail)
            checkpoints.save(_at(_state(), 1), Totals.zero(), RUN)
            monkeypatch.setattr(checkpoints._latest, failing, fail)  # it fails in the background
            checkpoints.wait()
    monkeypatch.undo()
    checkpoints._latest.close()
