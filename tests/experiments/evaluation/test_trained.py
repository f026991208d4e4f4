"""A network is read from its own run, as it was written; of what cannot be read, the reason is said."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from experiments.configs import ModelConfig
from experiments.configs.cifar import CONFIGS
from experiments.evaluation.trained import load_weights, normalization_of, read_network, read_records
from experiments.programs.imagenet import evaluate
from experiments.training.workdir import Workdir
from resjax import InputError, create_model, save_pretrained, train
from resjax.data import dataset_info
from tests.helpers import problem
from tests.helpers.photographs import write_folder

CONFIG = dataclasses.replace(CONFIGS["resnet_20"].config, model=ModelConfig("resnet_8"))


def test_a_folder_of_weights_says_its_network_itself(tmp_path, draw_variables):
    with pytest.raises(InputError, match="--model resnet_20: .* says itself what network it holds; leave --model out"):
        load_weights("resnet_20", str(tmp_path), None, 1, None)
    write_folder(tmp_path / "photos", 1, splits=("val",))
    model = create_model("resnet_8", num_classes=2)
    save_pretrained(tmp_path / "net", model, draw_variables(model, np.zeros((1, 32, 32, 3), np.float32)))
    flags = (str(tmp_path / "net"), "--model", "resnet_18", "--workers", "0", "--batch_size", "8", "--eval_size", "8")
    with pytest.raises(InputError, match="--model: .* says itself what network it holds"):
        evaluate((*flags, "--dataset", "folder", "--data_dir", str(tmp_path / "photos")), Console(quiet=True))


def test_names_of_another_number_of_classes_are_refused(tmp_path, draw_variables):
    photos = write_folder(tmp_path / "photos", 1, splits=("val",))
    model = create_model("resnet_8", widths=(4, 4, 4), num_classes=2)
    save_pretrained(tmp_path / "net", model, draw_variables(model, np.zeros((1, 32, 32, 3), np.float32)))
    (tmp_path / "names").write_text("a\nb\nc\n")
    with pytest.raises(InputError, match="--class_names .*names: has 3 names, the network 2 classes"):
        _evaluate(photos, tmp_path / "net", "--class_names", str(tmp_path / "names"))


@pytest.mark.parametrize("mean", [(np.nan, 1.0, 1.0), (np.inf,)])
def test_a_mean_that_is_not_finite_is_refused(mean):
    with pytest.raises(InputError, match="--mean: expected finite numbers, got"):
        load_weights("resnet_20", "w.pth", None, 1, None, mean=mean, std=(1.0, 1.0, 1.0))


def _evaluate(folder, weights, *flags):
    photos = ("--dataset", "folder", "--data_dir", str(folder), "--eval_resize", "32", "--eval_size", "32")
    return evaluate((str(weights), *photos, "--workers", "0", "--batch_size", "8", *flags), Console(quiet=True))


def test_weights_of_another_network_and_images_that_are_all_broken_are_said(tmp_path, draw_variables):
    photos = write_folder(tmp_path / "photos", 1, splits=("val",))
    save_file({"conv1.weight": np.zeros((4, 3, 3, 3), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="say with --model which network these weights are of"):
        _evaluate(photos, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="these weights do not fit this ResNet"):
        _evaluate(photos, tmp_path / "w.safetensors", "--model", "resnet_18")
    model = create_model("resnet_8", widths=(4, 4, 4), num_classes=2)
    save_pretrained(tmp_path / "net", model, draw_variables(model, np.zeros((1, 32, 32, 3), np.float32)))
    for file in photos.rglob("*.jpg"):
        file.write_bytes(file.read_bytes()[:-400])  # still with the first bytes of a JPEG
    with pytest.raises(InputError, match="broken .*, and so is every other image"):
        _evaluate(photos, tmp_path / "net")


def test_a_run_without_a_checkpoint_or_an_epoch_is_said(tmp_path):
    Workdir(tmp_path).make()
    with pytest.raises(InputError, match="latest holds no checkpoint"):
        read_network(str(tmp_path), "latest", create_model("resnet_8"))
    with pytest.raises(InputError, match="no epoch of this run is complete; the command that started it goes on"):
        read_records(str(tmp_path))


@pytest.mark.parametrize("mean", ["red", [0.1, [0.2]]])
def test_a_mean_that_is_no_array_is_said(mean):
    with pytest.raises(InputError, match="^weights: mean and std are no arrays of numbers; save or download"):
        normalization_of("weights", {"mean": mean}, dataset_info("cifar10"))


def _workdir(path, config):
    """A run of `CONFIG` with a checkpoint of a run of `config`; returns the network and its state."""
    workdir = Workdir(path)
    workdir.start(CONFIG.resolved("resnet_20"))
    model, optimizer, _ = problem.build()
    state = problem.new_state(model, optimizer)
    with train.Checkpoints(workdir.checkpoints) as checkpoints:
        checkpoints.save(state.replace(step=state.step + 7), train.Totals.zero(), {"config": config.identity()})
    return model, state


def test_the_checkpoint_of_the_run_is_read_and_a_damaged_one_is_said_with_the_way_out(tmp_path):
    model, state = _workdir(tmp_path, CONFIG)
    variables, step = read_network(str(tmp_path), "latest", model)
    assert step == 7
    problem.assert_same_bits(variables["params"], state.params)
    (tmp_path / "checkpoints" / "latest" / "7" / "train" / "_METADATA").write_text("{}")
    said = "latest/7 is damaged .train/_METADATA is not as it was written.*Give the other --checkpoint, latest or best"
    with pytest.raises(InputError, match=said):
        read_network(str(tmp_path), "latest", model)


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    model, _ = _workdir(tmp_path, dataclasses.replace(CONFIG, seed=4))
    with pytest.raises(InputError, match="a checkpoint of another run lies in this workdir .seed: 4 there, 0 in"):
        read_network(str(tmp_path), "latest", model)
