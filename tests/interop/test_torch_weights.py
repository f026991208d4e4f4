"""Weights of PyTorch repositories as variables of ours, without PyTorch."""

import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from resjax import InputError, create_model, load_torch_weights
from resjax.models import VGG, ResNet, convert_form
from tests.helpers.repositories import (
    DENSE,
    POST_ACTIVATION,
    PRE_ACTIVATION,
    REPOSITORIES,
    RESNEXT,
    post_activation,
    pre_activation,
    prlz77,
)


def _flat(variables):
    return {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(variables).items()}


def _assert_same(one, other):
    one, other = _flat(one), _flat(other)
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)


def _loaded():
    return load_torch_weights(POST_ACTIVATION, post_activation().entries)


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_every_entry_arrives_in_its_place(repository):
    model, listing = REPOSITORIES[repository]
    ours = _flat(load_torch_weights(model, listing.entries))
    assert ours.keys() == set(listing.paths.values())
    for name, path in listing.paths.items():
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(listing.entries[name].ndim)
        np.testing.assert_array_equal(ours[path], listing.entries[name].transpose(axes), err_msg=name)
        assert ours[path].dtype == np.float32


@pytest.mark.quick
def test_loaded_variables_are_those_of_the_model():
    """The tree, shapes and types of `model.init`, of one color where the weights are, and it runs."""
    model, listing = REPOSITORIES["torchvision, one channel"]
    variables, images = load_torch_weights(model, listing.entries), jnp.zeros((2, 8, 8, 1))
    expected = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), variables) == jax.tree.map(lambda a: (a.shape, a.dtype), expected)
    assert np.all(np.isfinite(jax.jit(model.apply)(variables, images)))


@pytest.mark.parametrize("form", ["split_transform_sum", "early_concatenation"])
def test_other_forms_of_resnext_hold_the_same_weights(form):
    grouped = load_torch_weights(RESNEXT, prlz77().entries)
    split = load_torch_weights(RESNEXT.clone(form=form), prlz77().entries)
    assert any("/paths/" in path for path in _flat(split))
    _assert_same(convert_form(split, "grouped_convolution", 4), grouped)


def _container(*keys, prefix=""):
    tree = {prefix + name: array for name, array in post_activation().entries.items()}
    for key in keys:
        tree = {key: tree, "epoch": 3}
    return tree


@pytest.mark.parametrize(
    "state_dict",
    [
        _container("state_dict", prefix="module."),
        _container("model"),
        _container("net", prefix="module."),
        _container("state_dict", "model"),
        {name: jnp.asarray(array) for name, array in post_activation().entries.items()},
    ],
    ids=["state_dict of DataParallel", "model", "net of DataParallel", "nested", "jax"],
)
def test_containers_and_prefixes_of_checkpoints(state_dict):
    _assert_same(load_torch_weights(POST_ACTIVATION, state_dict), _loaded())


def test_parameters_and_statistics_apart():
    """As the first PyTorch version of szagoruyko's code saved them."""
    model, listing = REPOSITORIES["szagoruyko"]
    stats = {name: array for name, array in listing.entries.items() if "running" in name}
    params = {name: array for name, array in listing.entries.items() if name not in stats}
    checkpoint = {"params": params, "stats": stats, "optimizer": {"state": {}}, "epoch": 200}
    _assert_same(load_torch_weights(model, checkpoint), load_torch_weights(model, listing.entries))


def test_bfloat16_becomes_float32():
    halves = {name: array.astype(ml_dtypes.bfloat16) for name, array in post_activation().entries.items()}
    for loaded, exact in zip(
        jax.tree.leaves(load_torch_weights(POST_ACTIVATION, halves)), jax.tree.leaves(_loaded()), strict=True
    ):
        assert loaded.dtype == jnp.float32
        np.testing.assert_allclose(loaded, exact, rtol=2**-8)


def test_float64_stays_where_jax_has_it(float64):
    entries = {name: array.astype(np.float64) for name, array in post_activation().entries.items()}
    assert {leaf.dtype for leaf in jax.tree.leaves(load_torch_weights(POST_ACTIVATION, entries))} == {jnp.dtype("f4")}
    with float64():
        loaded = load_torch_weights(POST_ACTIVATION, entries)
        assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("f8")}
        assert {leaf.dtype for leaf in jax.tree.leaves(_loaded())} == {jnp.dtype("f4")}


@pytest.mark.parametrize("fields", [{"num_classes": 0}, {"features_only": True}], ids=str)
def test_a_network_without_classifier_leaves_it_behind(fields):
    expected = _loaded()
    del expected["params"]["head"]
    _assert_same(load_torch_weights(POST_ACTIVATION.clone(**fields), post_activation().entries), expected)


def _message(model, state_dict):
    with pytest.raises(InputError) as raised:
        load_torch_weights(model, state_dict)
    return str(raised.value)


def test_one_error_with_everything_that_does_not_fit():
    entries = post_activation().entries
    del entries["layer1.0.conv1.weight"], entries["bn1.running_mean"]
    entries["conv1.bias"] = np.zeros(4, np.float32)
    entries["se.weight"] = np.zeros((3, 5), np.float32)
    entries["layer2.0.conv1.weight"] = np.zeros((8, 4, 5, 5), np.float32)
    entries["bn1.bias"] = np.zeros(4, np.int8)
    message = _message(POST_ACTIVATION, entries)
    for part in (
        "ResNet, by the names of torchvision",
        "2 missing: ",
        "layer1.0.conv1.weight [4, 4, 3, 3]",
        "bn1.running_mean [4]",
        "2 left over: ",
        "conv1.bias [4] (this network has no such bias)",
        "se.weight [3, 5]",
        "2 of another shape: ",
        "layer2.0.conv1.weight [8, 4, 5, 5], expected [8, 4, 3, 3] for params/stage_2/block_1/conv_1/kernel",
        "bn1.bias of int8",
    ):
        assert part in message, (part, message)
    assert "num_classes" not in message


def test_hundreds_of_entries_are_counted_but_not_all_shown():
    """The 53 convolutions, 53 BNs and the linear layer of ResNet-50, of which one array is there."""
    entries = {f"blocks.{i}.weight": np.zeros(1, np.float32) for i in range(300)}
    message = _message(create_model("resnet_50"), {**entries, "conv1.weight": np.zeros((64, 3, 7, 7), np.float32)})
    assert f"{53 + 4 * 53 + 2 - 1} missing" in message and "300 left over" in message and "and 294 more" in message
    assert len(message) < 2000


def test_weights_without_running_statistics_miss_them():
    entries = {name: array for name, array in post_activation().entries.items() if "running" not in name}
    assert "20 missing: layer1.0.bn1.running_mean [4]; " in _message(POST_ACTIVATION, entries)


def test_another_number_of_classes_is_named():
    message = _message(POST_ACTIVATION.clone(num_classes=1000), post_activation().entries)
    assert "fc.weight [10, 8], expected [1000, 8]" in message and "num_classes=10, or num_classes=0" in message


def test_a_classifier_of_other_features_is_not_one_of_other_classes():
    entries = post_activation().entries | {"fc.weight": np.zeros((10, 5), np.float32)}
    message = _message(POST_ACTIVATION, entries)
    assert "fc.weight [10, 5], expected [10, 8]" in message and "num_classes" not in message


def test_a_network_without_last_norm_is_not_taken_for_one():
    """kuangliu's pre-activation network."""
    listing = pre_activation("conv1", "layer{i}.0", "conv", "bn", "shortcut.0", None, (16, 32, 64))
    message = _message(PRE_ACTIVATION, listing.entries)
    assert "4 missing" in message and "params/final_norm/scale (these repositories have none)" in message
    assert "left over" not in message and "another shape" not in message


def test_zero_channels_of_a_headless_option_a_are_ambiguous():
    """akamaster's and an appending network differ in function, and without the classifier not in names."""
    entries = {
        name: array
        for name, array in post_activation().entries.items()
        if "downsample" not in name and not name.startswith("fc")
    }
    message = _message(ResNet(stage_sizes=(2, 2), widths=(4, 8), shortcut="A", num_classes=0), entries)
    assert "fc.weight or linear.weight" in message


class _OnMeta(np.ndarray):
    """What PyTorch's meta tensors say of themselves."""

    is_meta = True

    def __new__(cls):
        return np.zeros((4, 3, 3, 3), np.float32).view(cls)

    def detach(self):
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")


@pytest.mark.parametrize(
    "model, state_dict, named",
    [
        (POST_ACTIVATION, REPOSITORIES["gpleiss"][1].entries, "conv_1_3x3.weight, classifier.weight (prlz77"),
        (DENSE, REPOSITORIES["xternalz"][1].entries, "DenseNet, by the names of andreasveit"),
        (POST_ACTIVATION, {}, "conv1.weight, fc.weight (torchvision"),
        (VGG(), post_activation().entries, "VGG, only for DenseNet, ResNet, PreActResNet, ResNeXt, WideResNet"),
        (POST_ACTIVATION.clone(normalization="none"), post_activation().entries, "known PyTorch names have BN"),
        (POST_ACTIVATION, [1, 2], "got list"),
        (POST_ACTIVATION, {1: np.zeros(3)}, "found '1'"),
        (POST_ACTIVATION, types.SimpleNamespace(state_dict=dict), "got a SimpleNamespace; give its state_dict()"),
        (POST_ACTIVATION, {"a.b": np.zeros(3), "a": {"b": np.zeros(3)}}, "two entries are named 'a.b'"),
        (POST_ACTIVATION, {"a": [np.zeros(1)] * 1_000_000}, "more than 1,000,000 entries"),
        (
            POST_ACTIVATION,
            post_activation().entries | {"conv1.weight": _OnMeta()},
            "conv1.weight: a tensor on PyTorch's",
        ),
    ],
    ids=[
        "densenet for resnet",
        "wrn for densenet",
        "empty",
        "vgg",
        "without_norm",
        "list",
        "numbers",
        "module",
        "twice",
        "many",
        "meta",
    ],
)
def test_what_cannot_be_weights_of_the_model(model, state_dict, named):
    assert named in _message(model, state_dict)
