"""Networks as StableHLO and ONNX: other software computes the same logits, for any number of images."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import linen as nn
from jax import export

import resjax
from resjax.errors import InputError
from resjax.interop.network_input import Preprocessing
from resjax.models import create_segmentation_model, registry

NARROW = {"widths": (4, 8, 8, 8)}
LEVELS = {"widths": ((4, 4), (4, 4), (4, 8), (4, 8), (4, 4, 8), (4, 4, 8)), "stage_sizes": (1, 1, 2, 1, 1, 1)}
NETWORKS = {
    "resnet_8": {"widths": (4, 8, 8)},
    "resnet_18": NARROW,
    "plain_8": {"widths": (4, 4, 8)},
    "preresnet_14": {"widths": (4, 8, 8), "shortcut": "average_pool", "scan": True},
    "preresnet_20": {"widths": (4, 4, 8), "shortcut_variant": resjax.Gating()},
    "wrn_10_1": {"dtype": jnp.bfloat16},
    "resnext_11_4x16d": {"widths": (8, 8, 16), "form": "split_transform_sum"},
    "densenet_bc_16_4": {"stem": "imagenet"},
    "highway_10_2": {},
    "highway_19": {"stage_sizes": (1, 1, 1), "widths": (4, 8, 8)},
    "wider_resnet_38_a": LEVELS | {"stem_width": 4},
    "vgg_15": {"width": 4, "stage_sizes": (1, 1, 1)},
    "speed_resnet": {"widths": (4, 8, 8)},
}
ONE_SIZE = ("highway_10_2",)  # its classifier reads a number of positions
POOLS_BORDERS = ("preresnet_14",)  # windows over the edge, whose pixels ONNX would have to count


@pytest.fixture(scope="module")
def cases(draw_variables):
    """{name: (network, variables, images, logits)}, in float32."""
    found = {}
    for name, fields in NETWORKS.items():
        model = resjax.create_model(name, **fields)
        height, width, channels = registry.input_shape(model)
        shape = (44, 36, channels) if height == 224 else (height, width, channels)
        images = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
        variables = draw_variables(model, images)
        logits = jax.jit(model.clone(dtype=jnp.float32).apply)(variables, images)
        found[name] = model, variables, images, np.asarray(logits)
    return found


def _run_onnx(proto, images):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in proto.graph.output], session.run(None, {"images": images}), strict=True))


def _assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_computes_the_logits_for_any_number_of_images(name, cases):
    model, variables, images, logits = cases[name]
    proto = resjax.to_onnx(model, variables, images.shape[1:])
    _assert_close(_run_onnx(proto, images)["logits"], logits)
    _assert_close(_run_onnx(proto, images[:1])["logits"], logits[:1])
    assert sum(node.op_type == "Transpose" for node in proto.graph.node) <= 2, "the layout is changed once"
    names = {tensor.name for tensor in proto.graph.initializer}
    assert not any(name.startswith("batch_stats") and name.endswith("var") for name in names), "folded into factors"
    assert any(name.endswith("conv_1/kernel") for name in names)


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - set(ONE_SIZE + POOLS_BORDERS)))
def test_onnx_takes_images_of_any_size(name, cases):
    model, variables, images, logits = cases[name]
    proto = resjax.to_onnx(model, variables, (None, None, images.shape[-1]))
    _assert_close(_run_onnx(proto, images)["logits"], logits)


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - set(ONE_SIZE)))
def test_stablehlo_takes_images_of_any_number_and_size_on_three_platforms(name, cases):
    model, variables, images, logits = cases[name]
    model = model.clone(dtype=jnp.float32)
    exported = resjax.to_stablehlo(model, variables, (None, None, images.shape[-1]))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    _assert_close(exported.call(images), logits)


def test_what_has_no_export_says_the_way_out(cases, draw_variables):
    model, variables, images, _ = cases["highway_10_2"]
    for export_to in (resjax.to_onnx, resjax.to_stablehlo):
        with pytest.raises(InputError, match=r"Highway: cannot be exported .*; give a height and width in image_shape"):
            export_to(model, variables, (None, None, images.shape[-1]))
    model, variables, images, _ = cases["resnet_8"]
    part = {name: {key: value for key, value in parts.items() if key != "head"} for name, parts in variables.items()}
    with pytest.raises(InputError, match="variables: are not those of this ResNet"):
        resjax.to_stablehlo(model, part, images.shape[1:])
    model, variables, *_ = cases["preresnet_14"]
    with pytest.raises(InputError, match="is not among the operations that are written here; to_stablehlo exports any"):
        resjax.to_onnx(model, variables, (None, None, 3))


def test_the_normalisation_is_inside_on_request(cases):
    model, variables, images, _ = cases["resnet_8"]
    pixels = np.random.default_rng(2).integers(0, 256, images.shape, np.uint8)
    preprocess = Preprocessing(jnp.array([100.0, 110.0, 120.0]), jnp.array([50.0, 60.0, 70.0]), source="weights")
    expected = np.asarray(model.apply(variables, preprocess(pixels)))
    shape = (None, None, 3)
    _assert_close(_run_onnx(resjax.to_onnx(model, variables, shape, preprocess), pixels)["logits"], expected)
    _assert_close(resjax.to_stablehlo(model, variables, shape, preprocess).call(pixels), expected)
    of_each_pixel = Preprocessing(jnp.full((32, 32, 3), 100.0), jnp.array([50.0]), source="weights")
    with pytest.raises(
        InputError, match=r"weights has a mean for each of 32 x 32 pixels; give image_shape=\(32, 32, 3\)"
    ):
        resjax.to_onnx(model, variables, shape, of_each_pixel)


def test_features_and_segmentation_are_exported_by_name(cases, draw_variables):
    model, variables, images, _ = cases["resnet_8"]
    trunk = model.clone(features_only=True)
    found = _run_onnx(resjax.to_onnx(trunk, variables, images.shape[1:]), images)
    for stage, expected in trunk.apply(variables, images).items():
        _assert_close(found[stage], expected)
    fields = {"widths": (4, 4, 8, 8), "head_width": 8, "head_dilation": 2}
    model = create_segmentation_model("resnet_18", num_classes=3, output_stride=8, **fields)
    images = np.random.default_rng(1).normal(size=(2, 33, 40, 3)).astype(np.float32)
    variables = draw_variables(model, images)
    expected = np.asarray(jax.jit(model.apply)(variables, images))
    _assert_close(_run_onnx(resjax.to_onnx(model, variables, (33, 40, 3)), images)["logits"], expected)
    _assert_close(resjax.to_stablehlo(model, variables, (33, 40, 3)).call(images), expected)


class Odd(nn.Module):
    """Operations that our networks do not have, in the order of a network."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(4, (3, 3), padding=((1, 1), (1, 1)))(images)
        x = nn.silu(x) + jnp.tanh(x) ** 3 + jnp.square(x) / (1 + jnp.abs(x)) - jnp.clip(x, -0.5, 0.5)
        x = jnp.concatenate([x, -x], -1).reshape(x.shape[0], 4, 2, 8, 8).transpose(0, 3, 1, 2, 4)
        x = x * nn.sigmoid(x.mean((1, 2, 3), keepdims=True)) + x.sum((1, 2, 3, 4))[:, None, None, None, None]
        x = jnp.where(x.max(1, keepdims=True) > 0.1, x, jnp.exp(-x)).min((2, 3))
        return nn.Dense(self.num_classes)(jnp.einsum("nij,kj->nik", x, jnp.eye(8)[::-1]).reshape(x.shape[0], -1))


def test_other_operations_are_written_or_named(draw_variables):
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables = draw_variables(Odd(), images)
    _assert_close(
        _run_onnx(resjax.to_onnx(Odd(), variables, (8, 8, 3)), images)["logits"], Odd().apply(variables, images)
    )


def _apply(function):
    """A module that is this function."""

    class Module(nn.Module):
        num_classes: int = 3

        def __call__(self, images, train=False):
            return function(images)

    return Module()


@pytest.mark.parametrize(
    "name, function",
    [
        ("sort", lambda x: jnp.sort(x.mean((1, 2)), axis=-1)),
        ("broadcast_in_dim", lambda x: jnp.broadcast_to(x.mean((0, 1, 2)), x.shape)),
        ("concatenate", lambda x: jnp.concatenate([x, jnp.ones_like(x)], -1)),
        ("conv_general_dilated", lambda x: jax.lax.conv_transpose(x, jnp.ones((3, 3, 3, 1)), (2, 2), "SAME")),
        ("div", lambda x: x / x.shape[1]),
        ("pad", lambda x: jax.lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, 0)))),
        (
            "reduce_window_max",
            lambda x: jax.lax.reduce_window(
                x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", window_dilation=(1, 2, 2, 1)
            ),
        ),
        ("reshape", lambda x: x.reshape(x.shape[0], x.shape[1] * x.shape[2], 3)),
        ("select_n", lambda x: jax.lax.select_n(jnp.int32(x), x, -x, 2 * x)),
        ("slice", lambda x: jax.lax.slice_in_dim(x, 0, x.shape[1] - 1, axis=1)),
    ],
)
def test_an_operation_that_is_not_written_is_named(name, function):
    with pytest.raises(InputError, match=rf"to_onnx: {name} of .* is not among the operations that are written"):
        resjax.to_onnx(_apply(function), {}, (None, None, 3))


def test_the_file_runs_in_a_process_without_this_library(cases, tmp_path):
    model, variables, images, logits = cases["resnet_18"]
    (tmp_path / "network").write_bytes(bytes(resjax.to_stablehlo(model, variables, (None, None, 3)).serialize()))
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, numpy as np; from jax import export;"
        "network = export.deserialize(bytearray(open('network', 'rb').read()));"
        "np.save('logits.npy', network.call(np.load('images.npy')));"
        "assert 'resjax' not in sys.modules and 'flax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    _assert_close(np.load(tmp_path / "logits.npy"), logits)


def test_a_plain_symbolic_shape_needs_no_constraints():
    """A check of the smallest size would have to compare with a symbol."""
    model = resjax.create_model("densenet_bc_10_4")
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    shape = export.symbolic_shape("n, h, w, 3")
    exported = export.export(jax.jit(lambda x: model.apply(variables, x)))(jax.ShapeDtypeStruct(shape, jnp.float32))
    assert exported.call(jnp.zeros((3, 20, 24, 3))).shape == (3, 10)


def test_without_the_package_one_line_says_what_to_install(cases, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "resjax.interop.onnx_graph", raising=False)
    model, variables, images, _ = cases["resnet_8"]
    with pytest.raises(InputError, match="to_onnx: needs a package that is not there .*pip install 'resjax\\[onnx\\]'"):
        resjax.to_onnx(model, variables, images.shape[1:])


def test_a_model_passes_onnx_own_check_and_names_its_sizes(cases):
    model, variables, images, _ = cases["resnet_8"]
    proto = resjax.to_onnx(model, variables, (None, None, 3))
    onnx.checker.check_model(proto, full_check=True)
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["n", "height", "width", 3]
