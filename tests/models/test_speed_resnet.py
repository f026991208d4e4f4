"""The fast network: what it computes, that its stem is no parameter, and what the images decide of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import erf

from resjax import Gates, InputError, create_model
from resjax.models import SpeedResNet, parameter_count

IMAGES = np.random.default_rng(0).normal(size=(4, 10, 11, 3))
MODEL = SpeedResNet(widths=(4, 6), dtype=jnp.float64)


def _gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def _conv(x, kernel, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((padding, padding),) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _by_hand(variables, images, train, branches):
    """Logits, written out: the block's branch `i` is there where `branches[i]`."""
    params, statistics = variables["params"], variables["batch_stats"]

    def norm(x, path):
        own, running = params, statistics
        for key in path:
            own, running = own[key], running[key]
        mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (running["mean"], running["var"])
        return (x - mean) / jnp.sqrt(var + 1e-5) * own["scale"] + own["bias"]

    x = _gelu(_conv(images, statistics["stem"]["kernel"], 0))
    for i, open_ in enumerate(branches, start=1):
        stage = f"stage_{i}"
        x = _conv(x, params[stage]["conv_1"]["kernel"], 1)
        n, height, width, channels = x.shape
        x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
        x = _gelu(norm(x, (stage, "norm_1")))
        branch = norm(_conv(x, params[stage]["block_1"]["conv_1"]["kernel"], 1), (stage, "block_1", "norm_1"))
        x = _gelu(x + open_ * branch)
    return x.max((1, 2)) @ params["head"]["linear"]["kernel"] / 9


@pytest.mark.parametrize("train", [False, True])
def test_network_is_its_layers(train, draw_variables, in_float64):
    variables = draw_variables(MODEL, IMAGES, dtype=np.float64)
    expected = jax.jit(lambda v: _by_hand(v, IMAGES, train, (1, 1)))(variables)
    logits, _ = jax.jit(lambda v: MODEL.apply(v, IMAGES, train=train, mutable=["batch_stats"]))(variables)
    np.testing.assert_allclose(logits, expected, rtol=1e-9)


def test_gates_take_a_branch_away(draw_variables, in_float64):
    variables = draw_variables(MODEL, IMAGES, dtype=np.float64)
    gates = Gates(branch=jnp.array([1.0, 0.0]))
    logits = jax.jit(lambda v: MODEL.apply(v, IMAGES, gates=gates))(variables)
    np.testing.assert_allclose(logits, _by_hand(variables, IMAGES, False, (1, 0)), rtol=1e-9)


def test_the_stem_is_kept_beside_the_statistics_and_given_by_its_initialiser():
    kernel = np.random.default_rng(1).normal(size=(2, 2, 3, 24)).astype(np.float32)
    model = SpeedResNet(widths=(4,), whitening_init=lambda key, shape, dtype: jnp.asarray(kernel, dtype))
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    np.testing.assert_array_equal(variables["batch_stats"]["stem"]["kernel"], kernel)
    assert "stem" not in variables["params"]
    _, new = model.apply(variables, jnp.asarray(IMAGES, jnp.float32), train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(new["batch_stats"]["stem"]["kernel"], kernel)


def test_convolutions_begin_by_handing_their_input_on():
    kernel = create_model("speed_resnet").init(jax.random.key(0), jnp.zeros((1, 9, 9, 3)))["params"]["stage_2"]
    x = np.random.default_rng(0).normal(size=(1, 5, 5, 64)).astype(np.float32)
    y = _conv(x, kernel["conv_1"]["kernel"], 1)
    np.testing.assert_array_equal(y[..., :64], x)
    assert np.std(y[..., 64:]) > 0.1


def test_its_parameters_are_those_of_the_layers():
    """The convolutions' widths are airbench94's; skips add none."""
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 256 * 256 * 3)
    norms = 2 * (2 * 64 + 4 * 256)
    assert parameter_count(create_model("speed_resnet"), (32, 32, 3)) == convolutions + 2560 + norms


def test_too_small_images_and_wrong_fields_are_told():
    model = create_model("speed_resnet")
    with pytest.raises(InputError, match="at least 9 x 9 pixels"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    with pytest.raises(InputError, match="widths: expected positive integers"):
        SpeedResNet(widths=(4, 0))
    with pytest.raises(InputError, match="whitening_init"):
        SpeedResNet(whitening_init="white")
