"""A workdir belongs to one config, and nothing in it is overwritten."""

import dataclasses
import json
import re
import shutil

import pytest
from rich.console import Console

from experiments.configs import imagenet
from experiments.configs.cifar import CONFIGS
from experiments.runtime.exit_codes import TrainingError
from experiments.training.workdir import Workdir, data_differences, default_workdir, open_workdir, read_saved_run
from resjax import InputError

CONFIG = CONFIGS["resnet_20"].config


def _started(path, config=CONFIG):
    workdir = Workdir(path)
    workdir.start({"name": "resnet_20", "config": config.identity()})
    return workdir


def test_the_same_config_is_accepted_wherever_its_data_lies(tmp_path):
    _started(tmp_path).check_config(dataclasses.replace(CONFIG, data_dir="elsewhere", resume="must"))


def test_another_config_is_refused_with_every_difference(tmp_path):
    other = dataclasses.replace(CONFIG, epochs=3, optimizer=dataclasses.replace(CONFIG.optimizer, learning_rate=0.2))
    with pytest.raises(InputError, match=r"epochs: 164 there, 3 here; optimizer.learning_rate: 0.1 there, 0.2 here"):
        _started(tmp_path).check_config(other)


def test_a_field_that_the_earlier_run_did_not_have_was_at_its_default(tmp_path):
    workdir, earlier = _started(tmp_path), dict(CONFIG.identity())
    del earlier["label_smoothing"]
    workdir.check_same(earlier, CONFIG.identity())
    with pytest.raises(InputError, match="label_smoothing: 0.0 there, 0.1 here"):
        workdir.check_same(earlier, dataclasses.replace(CONFIG, label_smoothing=0.1).identity())


@pytest.mark.parametrize("text", ["{ not json", "[]", '{"config": 3}', "{}"])
def test_an_unreadable_config_is_named(tmp_path, text):
    workdir = _started(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        InputError, match="config.json: .*(cannot be read|expected a JSON object|not the config of a run)"
    ):
        workdir.check_config(CONFIG)


def test_a_run_of_another_command_is_refused(tmp_path):
    workdir = _started(tmp_path, imagenet.CONFIGS["quickstart"].config)
    said = "holds a run of `python -m experiments.imagenet`. Use another --workdir, or --resume never"
    with pytest.raises(InputError, match=re.escape(said)):
        workdir.check_config(CONFIG)


def test_moving_aside_keeps_every_earlier_run(tmp_path):
    for i in range(3):
        workdir = _started(tmp_path / "run")
        (workdir.path / "note").write_text(str(i))
        workdir.move_aside()
    assert [(tmp_path / f"run.{n}" / "note").read_text() for n in (1, 2, 3)] == ["0", "1", "2"]
    assert not (tmp_path / "run").exists()


def test_default_workdir_names_what_was_changed():
    assert str(default_workdir("resnet_20", {}.items())) == "runs/resnet_20"
    changed = {"epochs": 3, "schedule.boundaries": [1.0, 2.0], "seed": 1}
    assert str(default_workdir("resnet_20", changed.items())) == "runs/resnet_20-epochs=3-boundaries=1.0,2.0-seed=1"


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/run cannot be made"):
        Workdir(tmp_path / "file" / "run").start({})


def test_a_summary_stays_while_nothing_is_trained(tmp_path):
    """A finished run's command, repeated, must not say that today's commit trained it."""
    workdir, summary = _started(tmp_path), {"steps": 20, "train_seconds": 3.5, "test_seconds": 0.5}
    workdir.write_summary(summary | {"git_commit": "first"})
    workdir.write_summary(summary | {"git_commit": "second"})
    assert workdir.read_summary()["git_commit"] == "first"
    workdir.write_summary(summary | {"train_seconds": 4.0, "git_commit": "second"})
    assert workdir.read_summary()["git_commit"] == "second"
    (tmp_path / "summary.json").write_text("[")
    workdir.write_summary(summary)
    assert workdir.read_summary() == summary


def test_more_seeds_join_those_that_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    for seeds in range(2), range(5), None:
        workdir = open_workdir("resnet_20", CONFIG, {}, Console(), seeds)
        workdir.release()
        folders.append(workdir.path)
    assert folders[0] == folders[1] != folders[2]


def _data(train, test=(10, "t"), classes=("cat", "dog")):
    splits = {"train": train, "test": test}
    splits = {name: {"images": images, "fingerprint": digest} for name, (images, digest) in splits.items()}
    return {"class_names": list(classes), "splits": splits}


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (_data((100, "a")), []),
        (_data((120, "b")), ["train: 100 images there, 120 here, 20 more"]),
        (_data((90, "b")), ["train: 100 images there, 90 here"]),
        (_data((100, "b")), ["train: as many images there and here, 100, but not the same ones"]),
        (_data((100, "a"), (10, "u")), ["test: as many images there and here, 10, but not the same ones"]),
        (_data((100, "a"), classes=("cat", "cow")), ["classes: 2 (cat, dog) there, 2 (cat, cow) here"]),
        (_data((100, "a"), classes=("dog", "cat")), ["classes: 2 (cat, dog) there, 2 (dog, cat) here"]),
        (_data((100, "a"), classes="abcdefgh"), ["classes: 2 (cat, dog) there, 8 (a, b, c, d, e, f and 2 more) here"]),
    ],
)
def test_what_differs_between_two_sets_of_data_is_said(here, said):
    assert data_differences(_data((100, "a")), here) == said


def test_a_run_on_other_data_is_refused_and_left_as_it_is(tmp_path):
    config, console = CONFIGS["resnet_20"].config, Console(quiet=True)
    config = dataclasses.replace(config, workdir=str(tmp_path / "run"))
    Workdir(tmp_path / "run").start(config.resolved("resnet_20") | {"data": _data((100, "a"))})
    before = (tmp_path / "run" / "config.json").read_text()
    open_workdir("resnet_20", config, {}, console, data=_data((100, "a"))).release()
    with pytest.raises(InputError, match="holds a run on other data .train: 100 images there, 120 here, 20 more"):
        open_workdir("resnet_20", config, {}, console, data=_data((120, "b")))
    assert (tmp_path / "run" / "config.json").read_text() == before


@pytest.mark.parametrize("seeds", [None, range(2)])
def test_a_run_that_is_under_way_is_neither_joined_nor_moved_aside(tmp_path, seeds):
    config = dataclasses.replace(CONFIG, workdir=str(tmp_path / "run"))
    first = open_workdir("resnet_20", config, {}, Console(quiet=True), seeds)
    for resume in "auto", "never":
        again = dataclasses.replace(config, resume=resume)
        with pytest.raises(InputError, match=r"is in use by process \d+ on "):
            open_workdir("resnet_20", again, {}, Console(quiet=True), seeds)
    first.check_owned()
    first.release()


def test_a_run_that_was_moved_aside_is_locked_no_longer_and_the_new_one_is(tmp_path):
    config = dataclasses.replace(CONFIG, workdir=str(tmp_path / "run"), resume="never")
    _started(tmp_path / "run")
    workdir = open_workdir("resnet_20", config, {}, Console(quiet=True))
    assert {path.name for path in (tmp_path / "run.1").iterdir()} == {"config.json"}
    workdir.check_owned()
    workdir.release()
    assert not list((tmp_path / "run").iterdir())


def test_a_workdir_that_is_removed_while_a_run_writes_to_it_is_not_made_again(tmp_path):
    config = dataclasses.replace(CONFIG, workdir=str(tmp_path / "run"))
    workdir = open_workdir("resnet_20", config, {}, Console(quiet=True))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(OSError, match="was removed, or moved, while this run wrote to it"):
        workdir.append_metrics({"step": 1})
    with pytest.raises(TrainingError, match="was removed, or moved, .*: once summary.json can be written"):
        workdir.write_summary({"steps": 1})
    assert not (tmp_path / "run").exists()
    workdir.release()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("final_test_error", "8.0", "expected a percentage, got 8.0"),
        ("best_test_error", 108.0, "expected a percentage, got 108.0"),
        ("epochs", [3], "expected a count, got "),
        ("name", None, "expected a text, got None"),
        ("deviations", {}, "expected a list, got {}"),
        ("hours", float("inf"), "expected a finite number, got inf"),
    ],
)
def test_a_damaged_field_of_a_summary_is_named(tmp_path, field, value, said):
    workdir = _started(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({field: value}))
    with pytest.raises(InputError, match=rf"summary.json: '{field}': {re.escape(said)}.*; restore it, or remove it"):
        workdir.read_summary()
    with pytest.raises(InputError, match="summary.json: has no 'final_test_top5_error'; restore it"):
        workdir.read_summary("final_test_top5_error")


def test_numbers_that_are_not_finite_are_null_in_metrics(tmp_path):
    workdir = _started(tmp_path)
    workdir.append_metrics({"step": 1, "train_loss": float("nan")})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "train_loss": null}\n'


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("epoch", "1", "expected a count, got 1"),
        ("step", -3, "expected a count, got -3"),
        ("test_error", "8.0", "expected numbers or null, got 8.0"),
        ("test_loss", 10**400, "expected numbers or null, got 1000"),
        ("train_seconds", [3.0], r"expected a finite number, got \[3.0\]"),
        ("test_class_iou", [1.0, {}], r"expected numbers or null, got \[1.0, {}\]"),
    ],
)
def test_a_damaged_field_of_metrics_is_named(tmp_path, field, value, said):
    workdir = _started(tmp_path)
    sound = {"epoch": 1, "step": 5, "test_error": 8.0, "test_class_iou": [None, 3.0]}
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, (sound, sound | {field: value}))))
    with pytest.raises(InputError, match=rf"metrics.jsonl: '{field}': {said}.*; restore the file, or remove that line"):
        workdir.records()
    (tmp_path / "metrics.jsonl").write_text(json.dumps(sound))
    assert workdir.records() == [sound]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    workdir, other = _started(tmp_path), dataclasses.replace(CONFIG, seed=7)
    workdir.check_checkpoint({"config": CONFIG.identity()})
    workdir.check_checkpoint({})
    with pytest.raises(
        InputError, match="another run lies in this workdir .seed: 7 there, 0 in config.json.; remove it"
    ):
        workdir.check_checkpoint({"config": other.identity()})


def test_saved_weights_are_no_run(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match="saved weights, not the workdir of a run"):
        read_saved_run(tmp_path)
