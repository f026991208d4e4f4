"""`--pretrained`: the trunk of trained weights, with any classifier or none; the recipe for their network and input."""

import dataclasses
import functools
import io

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from rich.console import Console
from safetensors.numpy import load_file, save_file

from experiments.configs.base import ModelConfig
from experiments.configs.cifar import CONFIGS as CIFAR_CONFIGS
from experiments.configs.imagenet import CONFIGS as IMAGENET_CONFIGS
from experiments.configs.segmentation import CONFIGS
from experiments.training.pretrained import check_start, named_network, on_weights, start_of
from resjax import InputError, create_model, from_pretrained, list_pretrained, save_pretrained

SHAPE = (16, 16, 3)
_QUICKSTART = CONFIGS["quickstart"].config
CONFIG = dataclasses.replace(_QUICKSTART, model=_QUICKSTART.model.replace(name="resnet_8", shortcut="B", head_width=4))


@functools.cache
def _classifier(classes: int):
    model = create_model("resnet_8", shortcut="B", num_classes=classes)
    return model, jax.jit(model.init)(jax.random.key(7), np.zeros((1, *SHAPE), np.float32))


def _start(pretrained, **fields):
    config = dataclasses.replace(CONFIG, pretrained=str(pretrained), **fields)
    console = Console(record=True, soft_wrap=True, file=io.StringIO())
    return start_of(config, config.create_model(6), SHAPE, console).variables, console.export_text()


def _torch_file(path, classes: int):
    """Weights as PyTorch names and lays them out; without a classifier where `classes` is 0."""
    model, variables = _classifier(classes)
    arrays = {}
    for key, array in flatten_dict(variables).items():
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, range(array.ndim))
        arrays[model.torch_names[0].name(key)] = np.ascontiguousarray(np.transpose(array, axes))
    save_file(arrays, path)
    return path


def _check_trunk(started):
    expected = {key: value for key, value in _classifier(0)[1]["params"].items() if key != "head"}
    jax.tree.map(np.testing.assert_array_equal, started["params"]["trunk"], expected)
    assert started["params"]["head_conv_2"]["bias"].shape == (6,)


# The draws of a network's trunk do not depend on its classifier.
@pytest.mark.parametrize("classes", [0, 7, 10])
def test_the_trunk_is_taken_whatever_classifier_is_there(tmp_path, classes):
    model, variables = _classifier(classes)
    save_pretrained(tmp_path / "saved", model, variables, {"mean": [125.0, 123.0, 114.0]})
    started, said = _start(tmp_path / "saved")
    _check_trunk(started)
    assert "saved expects another normalisation" in said
    started, said = _start(_torch_file(tmp_path / "trunk.safetensors", classes))
    _check_trunk(started)
    assert not said


def test_other_weights_and_missing_ones_are_refused_in_one_line(tmp_path):
    other = create_model("resnet_8", shortcut="B", widths=(8, 8, 8))
    variables = jax.jit(other.init)(jax.random.key(0), np.zeros((1, *SHAPE), np.float32))
    save_pretrained(tmp_path / "saved", other, variables)
    torch_file = tmp_path / "other.safetensors"
    save_file({"conv1.weight": np.zeros((16, 3, 3, 3), np.float32)}, torch_file)
    for pretrained in (tmp_path / "saved", torch_file, tmp_path / "nothing.pth"):
        with pytest.raises(InputError) as raised:
            _start(pretrained)
        message = str(raised.value)
        assert message.startswith(f"--pretrained {pretrained}: ") and "\n" not in message
        assert "num_classes" not in message and "(expected weights of the trunk, resnet_8)" in message


def test_of_several_weights_in_a_file_the_key_chooses_and_what_is_taken_is_said(tmp_path):
    file = _torch_file(tmp_path / "trunk.safetensors", 7)
    arrays = load_file(file)
    both = {f"ema.{name}": array for name, array in arrays.items()}
    both |= {f"model.{name}": np.zeros_like(array) + 0.5 for name, array in arrays.items()}
    save_file(both, file)
    started, said = _start(file, weights_key="ema")
    _check_trunk(started)
    other, _ = _start(file, weights_key="model")
    assert all((leaf == 0.5).all() for leaf in jax.tree.leaves(other["params"]["trunk"]))
    with pytest.raises(InputError, match="--pretrained .*none"):
        _start(file, weights_key="none")
    model, variables = _classifier(0)
    save_pretrained(tmp_path / "saved", model, variables)
    with pytest.raises(InputError, match="leave --weights_key ema out"):
        _start(tmp_path / "saved", weights_key="ema")


def _changed(config, **fields):
    return dataclasses.replace(config, **fields)


FINE_TUNING = IMAGENET_CONFIGS["finetune"].config


def test_the_recipe_takes_the_network_and_the_input_of_the_weights():
    config = on_weights(FINE_TUNING, "resnet_20-cifar10")
    assert config.model == ModelConfig("resnet_20", frozen_statistics=True) and config.normalization == "weights"
    assert (config.image_size, config.eval_size, config.eval_resize) == (32, 32, 32)
    assert (config.epochs, config.optimizer) == (FINE_TUNING.epochs, FINE_TUNING.optimizer)
    # Of another recipe, BN stays as that has it.
    other = on_weights(CIFAR_CONFIGS["quickstart"].config, "wrn_16_2-cifar10")
    assert other.model == ModelConfig("wrn_16_2") and other.normalization == "weights"
    for unchanged in (CONFIG, FINE_TUNING):
        weights = "resnet_20-cifar10" if unchanged is CONFIG else "some.safetensors"
        assert on_weights(unchanged, weights) == unchanged


def test_crop_and_size_of_the_weights_give_the_resizing(tmp_path):
    model, variables = _classifier(7)
    about = {"mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 1.0], "size": [28, 28], "crop": 0.875}
    save_pretrained(tmp_path / "saved", model, variables, about)
    config = on_weights(FINE_TUNING, str(tmp_path / "saved"))
    assert (config.image_size, config.eval_resize) == (28, 32)
    assert config.model.replace(frozen_statistics=False) == named_network(model)
    save_pretrained(tmp_path / "saved", model, variables, about | {"size": [28, 30]})
    with pytest.raises(InputError, match="--pretrained .*saved: its images are 28x30; expected squares"):
        on_weights(FINE_TUNING, str(tmp_path / "saved"))


@pytest.mark.parametrize("name", list_pretrained())
def test_the_name_and_the_fields_give_the_same_network(name):
    model, _ = from_pretrained(name)
    found = named_network(model)
    again = create_model(found.name, **found.overrides())
    assert {field: getattr(again, field) for field in ("num_classes", "dtype")} and again == model


def _start_fine_tuning(weights, **fields):
    config = _changed(on_weights(FINE_TUNING, str(weights)), pretrained=str(weights), **fields)
    console = Console(record=True, soft_wrap=True, file=io.StringIO())
    return start_of(config, config.create_model(3), SHAPE, console), console.export_text()


def test_a_classifier_starts_with_the_trunk_and_is_told_by_its_weights(tmp_path):
    model, variables = _classifier(7)
    about = {"mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 1.0], "size": [16, 16]}
    save_pretrained(tmp_path / "saved", model, variables, about)
    start, said = _start_fine_tuning(tmp_path / "saved")
    trunk = {key: value for key, value in variables["params"].items() if key != "head"}
    jax.tree.map(np.testing.assert_array_equal, dict(start.variables["params"]), dict(trunk))
    assert start.identity["input"] == about | {"crop": 1.0, "interpolation": "bilinear"} and not said
    # Another classifier on the same trunk is nothing else to start from.
    head = jax.tree.map(lambda leaf: leaf + 1, variables["params"]["head"])
    other = {**variables, "params": {**variables["params"], "head": head}}
    save_pretrained(tmp_path / "other", model, other, about)
    assert _start_fine_tuning(tmp_path / "other")[0].identity == start.identity
    moved = {**variables, "batch_stats": jax.tree.map(lambda leaf: leaf + 1, variables["batch_stats"])}
    save_pretrained(tmp_path / "moved", model, moved, about)
    assert _start_fine_tuning(tmp_path / "moved")[0].identity["weights"] != start.identity["weights"]
    _, said = _start_fine_tuning(tmp_path / "saved", normalization="imagenet")
    assert "expects another normalisation; this run normalises by --normalization imagenet" in said


def test_a_network_that_computes_something_else_is_refused():
    model = ModelConfig("resnet_20", shortcut="B")
    with pytest.raises(InputError, match="--pretrained resnet_20-cifar10: it is another network .shortcut A there, B"):
        _start_fine_tuning("resnet_20-cifar10", model=model)
    with pytest.raises(InputError, match="resnet_20-cifar10: freeze: the network has 3 stages, got 'stages:4'"):
        _start_fine_tuning("resnet_20-cifar10", freeze="stages:4")
    with pytest.raises(InputError, match="it is a ResNet, this run's network a WideResNet"):
        _start_fine_tuning("resnet_20-cifar10", model=ModelConfig("wrn_16_2"))


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (FINE_TUNING, {}, "--pretrained is missing: .* with --model.no_frozen_statistics"),
        (CONFIG, {"frozen_statistics": True}, "--pretrained is missing: .* with --no_frozen_statistics"),
        (CONFIG, {"weights_key": "ema"}, "--weights_key ema: is of a file of --pretrained, which is missing"),
        (CIFAR_CONFIGS["quickstart"].config, {"knn": True}, "--knn: needs trained weights"),
        (CIFAR_CONFIGS["quickstart"].config, {"freeze": "trunk"}, "--freeze: needs trained weights"),
        (CIFAR_CONFIGS["quickstart"].config, {"normalization": "weights"}, "--normalization: needs trained weights"),
        (FINE_TUNING, {"pretrained": "x", "freeze": "all"}, "--freeze: expected none, trunk or stages:N"),
        (CIFAR_CONFIGS["quickstart"].config, {"pretrained": "x", "freeze": "trunk"}, "needs --model.frozen_statistics"),
        (CONFIG, {"pretrained": "x", "freeze": "stages:1"}, "needs --frozen_statistics"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(config, fields, message):
    with pytest.raises(InputError, match=message):
        check_start(_changed(config, **fields))
    check_start(_changed(FINE_TUNING, pretrained="x", freeze="stages:2"))
    check_start(_changed(FINE_TUNING, dry_run=True))
    highway = _changed(FINE_TUNING, model=ModelConfig("highway_19"), pretrained="x", freeze="trunk")
    check_start(highway)  # has no BN
