"""Which operators a program gets: those of the platform that it is lowered for, whichever one traces it."""

import collections
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.extend.mlir import ir

from resjax.layers import activation, plain_convolutions
from resjax.layers.cpu import conv, norm
from resjax.layers.cpu.conv import Geometry
from resjax.models import VGG, ResNet

PLATFORMS = ("cpu", "cuda", "tpu")
# Between them both pools, plain and grouped convolutions, 1x1 and strided ones, normalisation, and a scanned stage.
NETWORKS = {
    "resnext": ResNet(
        stage_sizes=(1, 3),
        widths=(64, 64),
        block="bottleneck",
        cardinality=16,
        base_width=2,
        stem="imagenet",
        scan=True,
    ),
    "vgg": VGG(stage_sizes=(1, 1), width=8),
}
# Where a module says which platform it is on, rather than what it computes.
_STRUCTURE = {"stablehlo.constant", "stablehlo.return", "func.return"}
# A branch returns zeros, broadcast, in the place of what another platform's would keep for the gradient, and is given
# arrays, reshaped, that another's reads.
_STRUCTURE |= {"stablehlo.broadcast_in_dim", "stablehlo.reshape"}


def _program(name, train, dtype=jnp.float32):
    """(a function, the shapes of its arguments): a training step's gradient, or inference.

    The function is a new one in each call: what is traced is remembered by function, not by the choice of operators.
    """
    network = NETWORKS[name].clone(dtype=dtype)
    images = jax.ShapeDtypeStruct((32, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    if not train:
        return lambda variables, images: network.apply(variables, images), (variables, images)

    def loss(params, statistics, images):
        variables = {"params": params, "batch_stats": statistics}
        logits, new = network.apply(variables, images, train=True, mutable=["batch_stats"])
        return jnp.square(logits).mean(), new

    return jax.grad(loss, has_aux=True), (variables["params"], variables["batch_stats"], images)


def _operations(module, platform):
    """How often each operation is in a module of StableHLO where it runs on `platform`.

    A module for several platforms has a branch for a CPU, the first, and one for the others, wherever they differ.
    """
    found: collections.Counter[str] = collections.Counter()
    root = module.operation.regions[0].blocks[0]
    functions = {ir.StringAttr(op.attributes["sym_name"]).value: op for op in root.operations}

    def walk(region):
        for op in (view.operation for view in region.blocks[0].operations):
            if op.name == "func.call":
                walk(functions[ir.FlatSymbolRefAttr(op.attributes["callee"]).value].regions[0])
            elif op.name == "stablehlo.case":
                walk(op.regions[0 if platform == "cpu" else len(op.regions) - 1])
            else:
                found[op.name] += 1
                for inner in op.regions:
                    walk(inner)

    walk(functions["main"].regions[0])
    return collections.Counter({name: count for name, count in found.items() if name not in _STRUCTURE})


@pytest.mark.parametrize("train", [True, False], ids=["gradient", "inference"])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_export_holds_each_platforms_operators(name, train):
    """The CPU's loops are in its own branch; an accelerator gets what XLA's operators are, and no more.

    In training, bottlenecks have other operators on each platform (`resjax.layers.folded`), but no loops there, either.
    """

    def lowered(platforms):
        function, arguments = _program(name, train)
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=platforms).compiler_ir()

    exported = lowered(PLATFORMS)
    with plain_convolutions():
        plain = lowered(("tpu",))
    own, folded = lowered(("cpu",)), lowered(("tpu",)) if train and name == "resnext" else plain
    assert _operations(exported, "tpu") == _operations(folded, "tpu")
    assert _operations(folded, "tpu")["stablehlo.while"] == _operations(plain, "tpu")["stablehlo.while"]
    assert _operations(exported, "cpu") == _operations(own, "cpu") != _operations(plain, "cpu")
    for operation in ("stablehlo.convolution", "stablehlo.dot_general", "stablehlo.while"):
        assert _operations(exported, "cuda")[operation] == _operations(folded, "tpu")[operation]


X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 7, 4)), jnp.float32)
KERNEL, DY = X[:1, :1, :4, :4], X[:, :3, :4]
HOW = {"geometry": Geometry(((0, 0), (0, 0)), strides=2)}
STATISTICS = jnp.float32([0, 1, -1, 0.5]), jnp.float32([1, -1, 2, 0.5]), jnp.float32([0.1, 0, -0.3, 1])


@pytest.mark.parametrize(
    ("form", "other", "arguments"),
    [
        (activation._largest, activation._chosen, (X.at[0, 0].set(jnp.float32([np.nan, np.inf, -np.inf, 0])),)),
        (partial(norm._is_cut_once, by_x=False), partial(norm._is_cut_on_gpu, by_x=False), (X, *STATISTICS)),
        (partial(norm._is_cut_once, by_x=True), partial(norm._is_cut_on_gpu, by_x=True), (X, *STATISTICS)),
        (partial(conv._conv_plain, mesh=None, **HOW), partial(conv._conv_on_gpu, mesh=None, **HOW), (X, KERNEL)),
        *(
            (partial(gradient, **how), partial(gradient, conv=conv._conv_on_gpu, **how), arguments)
            for gradient, how, arguments in (
                (conv._input_gradient_plain, HOW | {"size": (5, 7), "mesh": None}, (KERNEL, DY)),
                (conv._kernel_gradient_plain, HOW | {"size": (1, 1), "may_be_split": False}, (X, DY)),
            )
        ),
    ],
    ids=["relu", "where it cuts, for sums", "and by x", "1x1 at stride 2", "its input's gradient", "its kernel's"],
)
def test_the_forms_of_a_gpu_and_a_tpu_are_equal(form, other, arguments):
    """No such machine is here: the forms themselves are called."""
    np.testing.assert_allclose(np.float32(form(*arguments)), np.float32(other(*arguments)), rtol=1e-6, atol=1e-6)


def test_a_tpu_repeats_relu_in_the_convolutions_that_read_it_and_a_gpu_takes_the_pixels_of_a_stride_first():
    def count(platform, *operations):
        function, arguments = _program("resnext", train=True, dtype=jnp.bfloat16)
        module = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).compiler_ir()
        found = _operations(module, platform)
        return tuple(found[f"stablehlo.{name}"] for name in operations)

    (tpu, tpu_slices), (gpu, gpu_slices) = (count(name, "maximum", "slice") for name in ("tpu", "cuda"))
    assert tpu > gpu and gpu_slices > tpu_slices


def test_a_training_step_exported_for_every_platform_runs_on_this_one():
    """Cut out of the process: the program as bytes, read again, gives the gradients of the function."""
    function, (params, statistics, images) = _program("resnext", train=True)
    rng = np.random.default_rng(0)
    arguments = jax.tree.map(lambda leaf: rng.uniform(0.5, 1, leaf.shape).astype(leaf.dtype), (params, statistics))
    arguments += (rng.normal(size=images.shape).astype(images.dtype),)
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(params, statistics, images)
    found, expected = export.deserialize(exported.serialize()).call(*arguments), jax.jit(function)(*arguments)
    assert set(exported.platforms) == set(PLATFORMS)
    for ours, plain in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-6 * np.abs(plain).max())


def test_what_runs_on_a_cpu_gets_its_operators_beside_another_default(monkeypatch):
    function, arguments = _program("vgg", train=True)
    expected = _operations(jax.jit(function).lower(*arguments).compiler_ir(), "cpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    function, arguments = _program("vgg", train=True)
    assert _operations(jax.jit(function).lower(*arguments).compiler_ir(), "cpu") == expected
