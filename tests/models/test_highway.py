"""Highway networks against a straight-line computation; carrying; the released network of 19 layers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from resjax import Gates, InputError, StochasticDepth, create_model
from resjax.models import Highway, parameter_count

SMALL = {"stage_sizes": (1, 2), "widths": (3, 5), "head_width": 4, "num_classes": 3, "dropout_rate": 0.0}
IMAGES = np.random.default_rng(0).normal(size=(2, 7, 6, 3))
KEY = jax.random.key(0)


def _conv(x, node):
    """A convolution that keeps the size."""
    kernel, (height, width) = node["kernel"], x.shape[1:3]
    pad = kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    taps = ((i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1]))
    return sum(x[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in taps) + node["bias"]


def _highway_layer(x, node):
    """y = H(x) T(x) + x (1 - T(x))."""
    transform = 1 / (1 + np.exp(-_conv(x, node["transform_conv"])))
    return np.maximum(_conv(x, node["conv"]), 0) * transform + x * (1 - transform)


def _straight_line(params, images, stage_sizes):
    """Logits of Srivastava et al. 2015 in NumPy."""
    x = images
    for i, layers in enumerate(stage_sizes, start=1):
        if i > 1:
            n, height, width, channels = x.shape
            x = x[:, : height // 2 * 2, : width // 2 * 2]
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
        x = np.maximum(_conv(x, params[f"conv_{i}"]), 0)
        for j in range(1, layers + 1):
            x = _highway_layer(x, params[f"stage_{i}"][f"block_{j}"])
    pooled = np.maximum(_conv(x, params["final_conv"]), 0).mean((1, 2))
    return pooled @ params["head"]["linear"]["kernel"] + params["head"]["linear"]["bias"]


@pytest.fixture(scope="module")
def variables(draw_variables):
    return draw_variables(Highway(**SMALL), IMAGES)


def test_network_is_the_papers_equations(draw_variables, in_float64):
    """Heights that are odd lose their last row in pooling; without dropout, training is evaluation."""
    model = Highway(**SMALL, dtype=jnp.float64)
    variables = draw_variables(model, IMAGES, dtype=np.float64)
    logits = jax.jit(lambda v: [model.apply(v, IMAGES, train=train) for train in (False, True)])(variables)
    expected = _straight_line(variables["params"], IMAGES, SMALL["stage_sizes"])
    np.testing.assert_allclose(logits[0], expected, rtol=1e-10)
    np.testing.assert_allclose(logits[1], expected, rtol=1e-10)


@pytest.fixture(scope="module")
def layers(draw_variables):
    """layers(gates) -> outputs by name of a stem and two highway layers."""
    model = Highway(**SMALL | {"stage_sizes": (2,), "widths": (3,)}, features_only=True)
    variables, images = draw_variables(model, IMAGES), IMAGES.astype(np.float32)
    return jax.jit(lambda gates: model.apply(variables, images, gates=gates))


def test_a_closed_branch_carries(layers):
    """With every gate 0 a stage puts out what it was given, to the last bit; so does an inactive branch."""
    for gates in (Gates(branch=jnp.zeros(2)), Gates(active=jnp.zeros(2, bool))):
        outputs = layers(gates)
        np.testing.assert_array_equal(outputs["stage_1"], outputs["stem"])
    assert np.all(np.any(layers(Gates())["stage_1"] != outputs["stem"], axis=(1, 2, 3)))


def test_each_layer_reads_its_own_gate(variables):
    """Closing one changes the logits, each in its own way."""
    model, images = Highway(**SMALL), IMAGES.astype(np.float32)
    run = jax.jit(jax.vmap(lambda branch: model.apply(variables, images, gates=Gates(branch))))
    logits = np.asarray(run(np.float32([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]]))).reshape(4, -1)
    distances = np.abs(logits[:, None] - logits[None]).max(-1)
    assert np.all(distances[~np.eye(4, dtype=bool)] > 1e-4)


def test_the_branch_gate_is_a_factor_of_the_transform_and_the_skip_gate_one_of_the_carry(layers):
    """b T H + s x (1 - b T) of the last layer, behind one that carries."""

    def last(branch, skip):
        return np.asarray(layers(Gates(jnp.float32([0, branch]), jnp.float32([1, skip])))["stage_1"])

    x, transformed = layers(Gates())["stem"], last(1, 0)
    carried = last(1, 1) - transformed
    np.testing.assert_allclose(last(0.5, 0), transformed / 2, atol=1e-6)
    np.testing.assert_allclose(last(0.5, 1) - last(0.5, 0), (x + carried) / 2, atol=1e-6)
    np.testing.assert_allclose(last(1, 0.3), transformed + 0.3 * carried, atol=1e-6)


def test_layers_start_as_carriers():
    """All biases begin at 0 but those of T, which are negative."""
    model = Highway(stage_sizes=(2,), widths=(3,), head_width=4, transform_bias=-3.0)
    variables = jax.jit(model.init)(KEY, jnp.zeros((1, 2, 2, 3)))
    biases = {path: leaf for path, leaf in flatten_dict(variables["params"]).items() if path[-1] == "bias"}
    assert len(biases) == 1 + 2 * 2 + 1 + 1
    for path, bias in biases.items():
        np.testing.assert_array_equal(bias, -3.0 if path[-2] == "transform_conv" else 0.0)
    assert create_model("highway_19").transform_bias == -2.0


def test_the_released_network_has_19_layers_and_no_normalisation():
    """3 convolutions, 14 highway layers, a 1x1 convolution, the linear layer; 2,256,838 parameters."""
    model = create_model("highway_19")
    variables = jax.eval_shape(model.init, KEY, jnp.zeros((1, 32, 32, 3)))
    assert set(variables) == {"params"}
    kernels = {
        path[:-1]: leaf.shape for path, leaf in flatten_dict(variables["params"]).items() if path[-1] == "kernel"
    }
    transforms = [path for path in kernels if path[-1] == "transform_conv"]
    assert len(transforms) == model.num_blocks == 14
    assert len(kernels) - len(transforms) == 19
    assert kernels[("final_conv",)] == (1, 1, 128, 100) and kernels[("head", "linear")] == (100, 10)
    assert all(kernels[path] == kernels[(*path[:-1], "conv")] for path in transforms)
    by_hand, inputs = 0, 3
    for layers, width in ((4, 32), (5, 80), (5, 128)):
        by_hand += (9 * inputs + 1) * width + layers * 2 * (9 * width + 1) * width
        inputs = width
    by_hand += (128 + 1) * 100 + (100 + 1) * 10
    assert parameter_count(model, (32, 32, 3)) == by_hand == 2_256_838


def test_the_released_network_for_mnist_is_its_caffe_file(draw_variables, in_float64):
    """A 5x5 convolution without padding, 2, 3 and 3 highway layers, overlapping pooling as Caffe cuts it off at the
    border, and a linear layer of nine positions; in NumPy."""
    images = np.random.default_rng(1).normal(size=(2, 28, 28, 1))
    model = create_model("highway_10_16", num_classes=3, dtype=jnp.float64)
    variables = draw_variables(model, images, dtype=np.float64)
    params = variables["params"]
    assert set(params) == {"conv_1", "stage_1", "stage_2", "stage_3", "head"}

    def pooled(x, window):
        """Caffe's: ceil((n - window) / 2) + 1 windows, the last of them cut off."""
        count = math.ceil((x.shape[1] - window) / 2) + 1
        rows = [x[:, 2 * i : 2 * i + window].max(1) for i in range(count)]
        return np.stack([np.stack(rows, 1)[:, :, 2 * j : 2 * j + window].max(2) for j in range(count)], 2)

    kernel, bias = params["conv_1"]["kernel"], params["conv_1"]["bias"]
    windows = np.lib.stride_tricks.sliding_window_view(images, (5, 5), (1, 2))
    x = np.maximum(np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias, 0)
    sizes = [x.shape[1]]
    for stage, (layers, window) in enumerate([(2, 3), (3, 3), (3, 2)], start=1):
        for layer in range(1, layers + 1):
            x = _highway_layer(x, params[f"stage_{stage}"][f"block_{layer}"])
        x = pooled(x, window)
        sizes.append(x.shape[1])
    assert sizes == [24, 12, 6, 3]
    linear = params["head"]["linear"]
    expected = x.reshape(2, -1) @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), expected, rtol=1e-9)


def test_its_dropout_grows_and_it_carries_less():
    model = create_model("highway_10_32")
    assert (model.dropout_rates, model.transform_bias) == ((0.2, 0.3, 0.4, 0.5), -1.0)
    assert create_model("highway_19").dropout_rates == (0.2,) * 4
    with pytest.raises(InputError, match=r"dropout_rate: expected a number, or 4 of them .*got \(0.1, 0.2\)"):
        create_model("highway_10_32", dropout_rate=(0.1, 0.2))
    with pytest.raises(InputError, match=r"flat_head: expected \(rows, columns\), got 3"):
        create_model("highway_10_32", flat_head=3)
    with pytest.raises(InputError, match="at least 28 x 28 pixels"):
        model.init(KEY, jnp.zeros((1, 27, 28, 1)))


def test_stochastic_depth_scales_transforms_in_evaluation_and_draws_layers_in_training(variables):
    depth = StochasticDepth(0.5)
    model = Highway(**SMALL, stochastic_depth=depth)
    plain, images = model.clone(stochastic_depth=None), IMAGES.astype(np.float32)
    expected = Gates(branch=jnp.array([5 / 6, 4 / 6, 3 / 6], jnp.float32))
    given = jax.jit(lambda gates: plain.apply(variables, images, gates=gates))
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), given(expected), rtol=1e-6)
    train = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={"dropout": key}))
    subsets = [given(Gates(branch=jnp.array([i & 1, i >> 1 & 1, i >> 2], jnp.float32))) for i in range(8)]
    drawn = set()
    for seed in range(12):
        distances = [np.abs(train(jax.random.key(seed)) - subset).max() for subset in subsets]
        assert min(distances) < 1e-5
        drawn.add(int(np.argmin(distances)))
    assert len(drawn) > 2


def test_dropout_comes_before_each_stage_and_before_the_linear_layer(variables):
    """The share of zeros in what each convolution, and the linear layer, reads."""
    model, images = Highway(**SMALL | {"dropout_rate": 0.5}), np.abs(IMAGES).astype(np.float32)
    rngs = {"dropout": jax.random.key(3)}
    filters = {"capture_intermediates": lambda module, _: module.name and "dropout" in module.name}
    _, seen = jax.jit(lambda v: model.apply(v, images, train=True, rngs=rngs, mutable=["intermediates"], **filters))(
        variables
    )
    outputs = {"/".join(path[:-1]): np.asarray(value[0]) for path, value in flatten_dict(seen["intermediates"]).items()}
    assert outputs.keys() == {"dropout_1", "dropout_2", "head/dropout"}
    kept = outputs["dropout_1"] != 0
    np.testing.assert_allclose(outputs["dropout_1"][kept], images[kept] / 0.5, rtol=1e-6)
    assert abs(kept.mean() - 0.5) < 5 * math.sqrt(0.25 / kept.size)
    assert 0 < (outputs["head/dropout"] == 0).mean() < 1
    with pytest.raises(InputError, match=r"dropout_rate=0.5 with train=True draws: pass rngs=\{'dropout': key\}"):
        jax.eval_shape(lambda v: model.apply(v, images, train=True), variables)


def test_without_a_1x1_convolution_the_last_stage_is_pooled():
    model = Highway(**SMALL | {"head_width": None})
    params = jax.eval_shape(model.init, KEY, jnp.asarray(IMAGES))["params"]
    assert "final_conv" not in params and params["head"]["linear"]["kernel"].shape == (5, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (3,)}, r"stage_sizes \(4, 5, 5\) and widths \(3,\): expected one width"),
        ({"head_width": 0}, "head_width: expected positive integers, got 0"),
        ({"dropout_rate": 1}, r"dropout_rate: expected a number in \[0, 1\), got 1"),
    ],
)
def test_wrong_options_are_told_what_is_right(fields, message):
    with pytest.raises(InputError, match=message):
        Highway(**fields)
