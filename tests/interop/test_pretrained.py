"""A network in a directory: what is read is what was written."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from resjax import InputError, create_model, from_pretrained, pretrained_info, replace_head, save_pretrained
from resjax.models import ResNet, registry, restack
from tests.helpers.pretrained_networks import MODEL, NETWORKS, bits, draw


def test_every_family_is_among_the_networks():
    ours = {family for family in registry.modules().values() if family.__module__.startswith("resjax.")}
    assert {type(model) for model in NETWORKS.values()} == ours


@pytest.mark.quick
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_and_its_variables_come_back_bit_for_bit(name, channels, tmp_path, draw_variables):
    model, variables = NETWORKS[name], draw(draw_variables, NETWORKS[name], channels)
    save_pretrained(str(tmp_path / "new" / "folder"), model, variables)
    again, loaded = from_pretrained(str(tmp_path / "new" / "folder"))
    assert again == model
    assert bits(loaded) == bits(variables)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_every_bit_pattern_of_a_number_survives(dtype, tmp_path, variables):
    """Random bits: subnormals and negative zeros among them."""
    rng = np.random.default_rng(0)
    width = jnp.dtype(dtype).itemsize

    def draw(leaf):
        drawn = np.frombuffer(rng.bytes(leaf.size * width), dtype).reshape(leaf.shape)
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(drawn), drawn, jnp.finfo(dtype).smallest_subnormal).astype(dtype)

    raw = jax.tree.map(draw, variables)
    save_pretrained(tmp_path, MODEL, raw)
    assert bits(from_pretrained(tmp_path)[1]) == bits(raw)


def test_float64_survives_where_jax_has_it(tmp_path, draw_variables, in_float64):
    images = np.zeros((1, 4, 4, 3))
    model = MODEL.clone(dtype=jnp.float64)
    variables = draw_variables(model, images, dtype=np.float64)
    save_pretrained(tmp_path, model, variables)
    again, loaded = from_pretrained(tmp_path)
    assert again == model and bits(loaded) == bits(variables)


def test_variables_lie_anywhere_in_memory_and_on_any_devices(tmp_path, variables):
    """Transposed in NumPy, frozen, in a mapping that is no dict, and split over eight devices."""
    save_pretrained(tmp_path / "mapping", MODEL, types.MappingProxyType(variables))
    save_pretrained(tmp_path / "strides", MODEL, freeze(jax.tree.map(np.asfortranarray, variables)))
    mesh = jax.make_mesh((2,), ("devices",))
    spread = jax.device_put(
        variables,
        jax.tree.map(
            lambda leaf: jax.NamedSharding(mesh, jax.P("devices" if leaf.shape[0] % 2 == 0 else None)), variables
        ),
    )
    save_pretrained(tmp_path / "devices", MODEL, spread)
    for name in ("mapping", "strides", "devices"):
        assert bits(from_pretrained(tmp_path / name)[1]) == bits(variables)


@pytest.mark.parametrize(("written", "read"), [(True, True), (True, False), (False, True)])
def test_blocks_that_are_scanned_are_written_apart_and_read_as_asked(written, read, tmp_path, draw_variables):
    model = ResNet(stage_sizes=(1, 3), widths=(4, 6), num_classes=0, scan=written)
    variables = draw(draw_variables, model)
    save_pretrained(tmp_path, model, variables)
    assert "params/stage_2/block_3/conv_1/kernel" in load_file(tmp_path / "model.safetensors")
    again, loaded = from_pretrained(tmp_path, scan=read)
    assert again == model.clone(scan=read)
    assert bits(loaded) == bits(restack(variables, again.stacked_stages))
    assert ("blocks" in loaded["params"]["stage_2"]) == read


def test_files_are_plain(saved, variables):
    """Arrays under their paths in an open format; fields, nested ones too, as JSON."""
    arrays = load_file(saved / "model.safetensors")
    assert bits(unflatten_dict(arrays, sep="/")) == bits(variables)
    assert "params/stage_2/block_2/conv_1/kernel" in arrays
    config = json.loads((saved / "config.json").read_text())
    assert config["format_version"] == 1 and config["network"] == "ResNet" and "resjax_version" in config
    fields = config["fields"]
    assert fields["stage_sizes"] == [1, 2] and fields["dtype"] == "float32" and fields["kernel_init"] == "xavier"
    assert fields["stochastic_depth"] == {
        "class": "StochasticDepth",
        "survival_probability": 0.7,
        "decay": "constant",
        "per_sample": True,
        "rescale": True,
    }
    assert {file.name for file in saved.iterdir()} == {"config.json", "model.safetensors"}


def test_initialisers_that_are_functions_are_left_out(tmp_path, variables):
    model = MODEL.clone(kernel_init=jax.nn.initializers.ones, norm_scale_init=jax.nn.initializers.zeros)
    save_pretrained(tmp_path, model, variables)
    again, loaded = from_pretrained(tmp_path)
    assert again == MODEL.clone(kernel_init="he_normal_fan_out", norm_scale_init="ones")
    assert bits(loaded) == bits(variables)


def test_a_later_save_replaces_the_earlier(saved, draw_variables):
    other = NETWORKS["vgg"]
    expected = draw(draw_variables, other)
    (saved / "notes.txt").write_text("mine")
    save_pretrained(saved, other, expected)
    model, loaded = from_pretrained(saved)
    assert model == other and bits(loaded) == bits(expected)
    assert (saved / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("override", [{"dtype": jnp.bfloat16}, {"stochastic_depth": None}, {"num_classes": 3}])
def test_overrides_stand_in_for_saved_fields(override, saved, variables):
    model, loaded = from_pretrained(saved, **override)
    assert model == MODEL.clone(**override)
    assert bits(loaded) == bits(variables)


@pytest.mark.parametrize("override", [{"features_only": True}, {"num_classes": 0}])
def test_without_a_head_its_arrays_are_left_behind(override, saved, variables):
    model, loaded = from_pretrained(saved, **override)
    params = {name: value for name, value in variables["params"].items() if name != "head"}
    assert bits(loaded) == bits({**variables, "params": params})
    # They may be given all the same, and then come back with the head.
    save_pretrained(saved, model, variables)
    assert bits(from_pretrained(saved)[1]) == bits(loaded)
    if model.features_only:
        assert bits(from_pretrained(saved, features_only=False)[1]) == bits(variables)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"num_classes": 10}, "num_classes: .*saved was saved with 3, .* fit 10; num_classes=0 gives pooled features"),
        ({"num_class": 3}, "ResNet takes no 'num_class'; did you mean 'num_classes'"),
        ({"parent": None}, "ResNet takes no 'parent'"),
        ({"dtype": "int8"}, "dtype: expected a floating-point dtype"),
        ({"shortcut": "D"}, "shortcut: expected one of"),
        ({"widths": (4, 8)}, r"model.safetensors: .*shape \(6,\), the network \(8,\).* leave out overrides"),
    ],
)
def test_wrong_overrides_are_told_what_is_right(override, message, saved):
    with pytest.raises(InputError, match=message):
        from_pretrained(saved, **override)


def test_a_network_without_classes_gets_none_by_an_override(tmp_path, draw_variables):
    save_pretrained(tmp_path, NETWORKS["densenet"], draw(draw_variables, NETWORKS["densenet"]))
    with pytest.raises(InputError, match="saved with 0, .* fit 10"):
        from_pretrained(tmp_path, num_classes=10)


@pytest.mark.parametrize("name", ["resnet", "highway_flat", "speed"])
def test_a_new_head_stands_on_the_old_trunk(name, draw_variables):
    old = NETWORKS[name]
    channels = 1 if "highway" in name else 3
    variables = draw(draw_variables, old, channels)
    model, new = replace_head(old, variables, num_classes=7, key=jax.random.key(0))
    images = np.random.default_rng(0).normal(size=(2, model.minimum_size, model.minimum_size, channels))
    images = images.astype(np.float32)
    assert jax.eval_shape(model.apply, new, images).shape == (2, 7)
    trunk = {path: kept for path, kept in bits(variables).items() if not path.startswith("params/head/")}
    assert trunk.items() <= bits(new).items()
    expected = jax.eval_shape(model.init, jax.random.key(0), images)["params"]["head"]
    assert jax.tree.map(jnp.shape, new["params"]["head"]) == jax.tree.map(jnp.shape, expected)
    for key, same in (0, True), (1, False):
        _, again = replace_head(old, variables, num_classes=7, key=jax.random.key(key))
        assert (bits(again) == bits(new)) is same


def test_a_head_is_replaced_on_fitting_variables_alone(variables):
    with pytest.raises(InputError, match="expected an integer >= 1, got 0"):
        replace_head(MODEL, variables, num_classes=0, key=jax.random.key(0))
    with pytest.raises(InputError, match="key: expected jax.random.key"):
        replace_head(MODEL, variables, num_classes=3, key=0)
    with pytest.raises(InputError, match="no classifier"):
        replace_head(MODEL.clone(features_only=True), variables, num_classes=3, key=jax.random.key(0))
    with pytest.raises(InputError, match="params/stage_1/block_1/conv_1/kernel is missing"):
        broken = {**variables, "params": {**variables["params"], "stage_1": {}}}
        replace_head(MODEL, broken, num_classes=3, key=jax.random.key(0))


@pytest.mark.parametrize("name", ["resnet20-cifar10", "ResNet-20-CIFAR10"])
def test_shipped_weights_are_found_by_the_names_of_other_libraries(name):
    np.testing.assert_equal(pretrained_info(name), pretrained_info("resnet_20-cifar10"))


@pytest.mark.quick
def test_a_mean_of_every_pixel_is_an_array_that_prints_its_shape(tmp_path):
    model = create_model("resnet_8", widths=(4, 4, 4))
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    mean = np.random.default_rng(0).uniform(0, 255, (8, 8, 3)).astype(np.float32)
    save_pretrained(tmp_path, model, variables, {"mean": mean.tolist(), "std": [1.0, 2.0, 3.0]})
    about = pretrained_info(tmp_path)
    np.testing.assert_array_equal(about["mean"], mean)
    assert repr(about["mean"]) == f"<float32 [8, 8, 3] from {mean.min():.4g} to {mean.max():.4g}>"
    assert about["std"] == [1.0, 2.0, 3.0] and len(str(about)) < 200
    save_pretrained(tmp_path / "again", model, variables, about)
    np.testing.assert_array_equal(pretrained_info(tmp_path / "again")["mean"], mean)
    assert repr(about["mean"][0, 0]).startswith("PixelConstants([")  # three numbers are shown
