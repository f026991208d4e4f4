"""A workdir belongs to one config, and nothing in it is overwritten."""

import dataclasses

import pytest
from rich.console import Console

from experiments.configs.cifar import CONFIGS
from experiments.recipe import open_workdir
from experiments.workdir import Workdir, default_workdir
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


def test_a_field_that_the_earlier_run_did_not_have_is_a_difference(tmp_path):
    workdir = _started(tmp_path)
    with pytest.raises(InputError, match="seed: None there, 0 here"):
        workdir.check_same({key: value for key, value in CONFIG.identity().items() if key != "seed"}, CONFIG.identity())


@pytest.mark.parametrize("text", ["{ not json", "[]", '{"config": 3}', "{}"])
def test_an_unreadable_config_is_named(tmp_path, text):
    workdir = _started(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="config.json cannot be read"):
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
    folders = {open_workdir("resnet_20", CONFIG, {}, Console(), range(n)).path for n in (2, 5)}
    assert len(folders) == 1 and folders != {open_workdir("resnet_20", CONFIG, {}, Console()).path}
