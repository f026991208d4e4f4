"""The plain network of equal layers: which layers it has, what it computes, and that any but the first can go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from resjax import Gates, InputError, create_model
from resjax.models import VGG

STAGES = (2, 2)
IMAGES = np.random.default_rng(0).normal(size=(2, 9, 6, 3))
LAYERS = [(stage, layer) for stage, size in enumerate(STAGES, 1) for layer in range(1, size + 1)]


def _straight_line(variables, images, layers, train):
    """Logits through `layers`, (stage, layer) each, in evaluation or by the statistics of the batch."""
    params, statistics = variables["params"], variables["batch_stats"]
    x, before = images, 1
    for stage, layer in layers:
        if stage != before:
            n, height, width, channels = x.shape
            x = x[:, : height // 2 * 2, : width // 2 * 2]
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
            before = stage
        own, running = params[f"stage_{stage}"], statistics[f"stage_{stage}"][f"norm_{layer}"]
        x = jax.lax.conv_general_dilated(
            x, own[f"conv_{layer}"]["kernel"], (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (running["mean"], running["var"])
        norm = own[f"norm_{layer}"]
        x = jnp.maximum((x - mean) / jnp.sqrt(var + 1e-5) * norm["scale"] + norm["bias"], 0)
    return x.mean((1, 2)) @ params["head"]["linear"]["kernel"] + params["head"]["linear"]["bias"]


def _without(variables, stage, layer):
    """The variables of the network that lacks a layer."""
    kept = {}
    for path, array in flatten_dict(variables).items():
        if path[1] == f"stage_{stage}":
            kind, number = path[2].split("_")
            if int(number) == layer:
                continue
            path = (*path[:2], f"{kind}_{int(number) - (int(number) > layer)}", path[3])
        node = kept
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = array
    return kept


@pytest.fixture
def variables(draw_variables):
    return draw_variables(VGG(stage_sizes=STAGES, width=4), IMAGES, dtype=np.float64)


def test_network_is_its_layers(variables, in_float64):
    """In evaluation and in training; an odd height loses its last row in pooling."""
    model = VGG(stage_sizes=STAGES, width=4, dtype=jnp.float64)
    logits = jax.jit(lambda v: model.apply(v, IMAGES))(variables)
    trained, _ = jax.jit(lambda v: model.apply(v, IMAGES, train=True, mutable=["batch_stats"]))(variables)
    expected = jax.jit(lambda v: [_straight_line(v, IMAGES, LAYERS, train) for train in (False, True)])(variables)
    np.testing.assert_allclose(logits, expected[0], rtol=1e-10)
    np.testing.assert_allclose(trained, expected[1], rtol=1e-9)


@pytest.mark.parametrize("removed", [(1, 2), (2, 1)])
def test_without_a_layer_it_is_the_others(removed, variables, in_float64):
    """Veit et al. 2016, section 4.1: each layer that goes is one that nothing bypasses."""
    stage, layer = removed
    sizes = tuple(size - (i == stage) for i, size in enumerate(STAGES, 1))
    model = VGG(stage_sizes=sizes, width=4, dtype=jnp.float64)
    logits = jax.jit(lambda v: model.apply(v, IMAGES))(_without(variables, stage, layer))
    layers = [item for item in LAYERS if item != removed]
    np.testing.assert_allclose(logits, _straight_line(variables, IMAGES, layers, False), rtol=1e-10)
    assert np.abs(logits - _straight_line(variables, IMAGES, LAYERS, False)).max() > 0.01


def test_the_published_network_has_15_layers_of_one_width():
    """14 convolutions, all of one shape but the one that reads the image, and the linear layer."""
    model = create_model("vgg_15")
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    kernels = {path: leaf.shape for path, leaf in flatten_dict(variables["params"]).items() if path[-1] == "kernel"}
    assert len(kernels) == 15
    assert kernels.pop(("head", "linear", "kernel")) == (128, 10)
    assert kernels.pop(("stage_1", "conv_1", "kernel")) == (3, 3, 3, 128)
    assert set(kernels.values()) == {(3, 3, 128, 128)}


@pytest.mark.parametrize(
    ("stage", "layer"), [(i, j) for i, size in enumerate((2, 3, 3, 3, 3), 1) for j in range(1, size + 1)][1:]
)
def test_any_layer_but_the_first_can_be_removed(stage, layer):
    model = create_model("vgg_15", width=8)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    sizes = tuple(size - (i == stage) for i, size in enumerate(model.stage_sizes, 1))
    shorter = _without(variables, stage, layer)
    assert shorter == jax.eval_shape(model.clone(stage_sizes=sizes).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def test_the_least_image_ends_in_one_pixel():
    model = create_model("vgg_15", features_only=True)

    def final(size):
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0]["final"], images).shape

    assert model.minimum_size == 16 and final(16) == (1, 1, 1, 128)
    with pytest.raises(InputError, match="at least 16 x 16 pixels"):
        final(15)


def test_it_has_no_branches_to_gate():
    model = VGG(stage_sizes=(1,), width=4)
    assert model.num_blocks == 0
    with pytest.raises(InputError, match="no residual blocks"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), gates=Gates(jnp.ones(1))))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage_sizes": (2, 0)}, r"stage_sizes: expected positive integers, got \(2, 0\)"),
        ({"width": 0}, "width: expected positive integers, got 0"),
    ],
)
def test_wrong_options_are_told_what_is_right(fields, message):
    with pytest.raises(InputError, match=message):
        VGG(**fields)
