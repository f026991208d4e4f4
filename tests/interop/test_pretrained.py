"""A network in a directory: what is read is what was written."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze
from flax.traverse_util import unflatten_dict
from pretrained_networks import MODEL, NETWORKS, bits, draw
from safetensors.numpy import load_file

from resjax import InputError, from_pretrained, save_pretrained
from resjax.models import ResNet, restack
from resjax.models.families import FAMILIES


def test_every_family_is_among_the_networks():
    assert {type(model) for model in NETWORKS.values()} == {family.module for family in FAMILIES}


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
def test_every_bit_pattern_survives(dtype, tmp_path, variables):
    """Random bits: subnormals, infinities, negative zeros and NaN with their payloads among them."""
    rng = np.random.default_rng(0)
    width = jnp.dtype(dtype).itemsize
    raw = jax.tree.map(lambda leaf: np.frombuffer(rng.bytes(leaf.size * width), dtype).reshape(leaf.shape), variables)
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
    """Transposed in NumPy, frozen, and split over eight devices."""
    save_pretrained(tmp_path / "strides", MODEL, freeze(jax.tree.map(np.asfortranarray, variables)))
    mesh = jax.make_mesh((2,), ("devices",))
    spread = jax.device_put(
        variables,
        jax.tree.map(
            lambda leaf: jax.NamedSharding(mesh, jax.P("devices" if leaf.shape[0] % 2 == 0 else None)), variables
        ),
    )
    save_pretrained(tmp_path / "devices", MODEL, spread)
    for name in ("strides", "devices"):
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
