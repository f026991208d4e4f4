"""Initial parameters: the distributions of the papers' code."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn

from resjax import InputError, create_model
from resjax.models import VGG, DenseNet, Highway, PreActResNet, ResNeXt, WideResNet, WiderResNet, convert_form

IMAGES = np.zeros((1, 32, 32, 3), np.float32)


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, how many convolutions it has, and how its code starts it."""

    model: nn.Module
    convolutions: int
    fan: str = "out"
    scales: str = "ones"
    head_bias: str = "zeros"


WIDER_WIDTHS = ((16, 24), (24, 32), (32, 32), (32, 48), (32, 48, 64), (48, 64, 96))
RESNEXT = ResNeXt(stage_sizes=(1, 1), widths=(64, 128), cardinality=4, base_width=16)
CASES = {
    "resnet_8": Case(create_model("resnet_8"), 7),
    "wrn_10_2": Case(create_model("wrn_10_2"), 7 + 3, fan="in", scales="uniform"),
    "preresnet": Case(PreActResNet(stage_sizes=(1, 1, 1)), 7),
    "resnext": Case(RESNEXT, 1 + 2 * 4),
    "resnext_paths": Case(RESNEXT.clone(form="split_transform_sum"), 1 + 2 * 4),
    "densenet": Case(DenseNet(stage_sizes=(2, 2), growth_rate=24), 1 + 2 * 4 + 1),
    "vgg": Case(VGG(stage_sizes=(1, 1), width=96), 2),
    "wider": Case(
        WiderResNet(stage_sizes=(1,) * 6, widths=WIDER_WIDTHS, stem_width=16),
        1 + 4 * 3 + 2 * 4,
        fan="in",
        head_bias="torch_linear",
    ),
}


def _draws(model, seeds) -> list[dict[str, Any]]:
    """{path: initial parameter} for each seed; of RngBitGenerator, which compiles five times as fast as Threefry."""
    init = jax.jit(lambda key: model.init(key, IMAGES)["params"])
    params = [init(jax.random.key(seed, impl="rbg")) for seed in seeds]
    if isinstance(model, ResNeXt):
        params = [convert_form(p, "grouped_convolution", model.cardinality) for p in params]
    return [
        {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(p)}
        for p in params
    ]


@pytest.fixture(scope="module", params=CASES)
def network(request):
    """(case, {path: initial parameter}, the same of another key)."""
    case = CASES[request.param]
    return case, *_draws(case.model, (3, 4))


def _named(params, *names):
    return {path: leaf for path, leaf in params.items() if path.endswith(names) and not path.startswith("head")}


def test_convolutions_are_he_normal(network):
    """Standard deviation sqrt(2 / (k k C)), not truncated; C = C_out (fan-out) or C_in (fan-in); a group's C_out is
    that of all groups."""
    case, params, _ = network
    kernels = _named(params, "kernel")
    assert len(kernels) == case.convolutions
    standardised = []
    for path, kernel in kernels.items():
        height, width, inputs, outputs = kernel.shape
        fan = height * width * (outputs if case.fan == "out" else inputs)
        z = kernel.ravel() / np.sqrt(2 / fan)
        assert abs(z.std() - 1) < 5 / np.sqrt(2 * z.size), path
        assert abs(z.mean()) < 5 / np.sqrt(z.size), path
        standardised.append(z)
    z = np.concatenate(standardised)
    assert z.size > 70_000
    assert 3.8 < np.abs(z).max() < 6  # a truncated normal stops at 2.3
    assert abs((z**4).mean() - 3) < 0.15  # kurtosis of a normal distribution


def test_linear_layer_is_torchs(network):
    """Weights U(-1/sqrt(fan_in), 1/sqrt(fan_in)), bias 0; of Wider ResNet the bias is as the weights."""
    case, params, other = network
    kernel = params["head/linear/kernel"]
    bound = 1 / np.sqrt(kernel.shape[0])
    assert 0.98 * bound < np.abs(kernel).max() <= bound
    assert abs(kernel.std() / (bound / np.sqrt(3)) - 1) < 0.1
    bias = np.concatenate([drawn["head/linear/bias"] for drawn in (params, other)])
    if case.head_bias == "zeros":
        np.testing.assert_array_equal(bias, np.zeros(20))
    else:
        assert 0.7 * bound < np.abs(bias).max() <= bound and bias.min() < 0 < bias.max()


def test_norms_start_as_the_papers_code_starts_them(network):
    """Scale 1, or U(0, 1) for Wide ResNet; shift 0."""
    case, params, _ = network
    scale, bias = (np.concatenate(list(_named(params, leaf).values())) for leaf in ("scale", "bias"))
    np.testing.assert_array_equal(bias, np.zeros_like(bias))
    if case.scales == "ones":
        np.testing.assert_array_equal(scale, np.ones_like(scale))
    else:
        assert 0 <= scale.min() < 0.02 and 0.98 < scale.max() <= 1
        assert abs(scale.mean() - 0.5) < 5 / np.sqrt(12 * scale.size)
        assert abs(scale.std() * np.sqrt(12) - 1) < 0.1


def test_parameters_differ_between_layers_groups_and_keys(network):
    case, params, other = network
    kernels = _named(params, "kernel")
    for first, second in itertools.combinations(kernels.values(), 2):
        n = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
        if first.shape[:2] == second.shape[:2]:
            ours, theirs = (kernel[:, :, : n[0], : n[1]] for kernel in (first, second))
            assert abs(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]) < 0.5
    for path, kernel in kernels.items():
        assert np.abs(kernel - other[path]).max() > 0.01, path
        if isinstance(case.model, ResNeXt) and path.endswith("conv_2/kernel"):
            assert all(np.any(a != b) for a, b in itertools.pairwise(np.split(kernel, 4, axis=-1)))


def test_highway_starts_as_the_authors_caffe_files_say_and_as_carriers():
    """Kernels U(-sqrt(3 / fan_in), sqrt(3 / fan_in)), but N(0, 1) of the first and N(0, 0.05^2) of the linear layer;
    biases 0, but those of the transform gates: -2."""
    model = Highway(stage_sizes=(2, 1), widths=(24, 32), head_width=40)
    (params,) = _draws(model, [0])
    kernels = {path: leaf for path, leaf in params.items() if path.endswith("kernel")}
    assert len(kernels) == 2 + 2 * 3 + 1 + 1
    for path, std in {"conv_1/kernel": 1, "head/linear/kernel": 0.05}.items():
        kernel = kernels.pop(path)
        assert abs(kernel.std() / std - 1) < 5 / np.sqrt(2 * kernel.size), path
        assert np.abs(kernel).max() > 2.5 * std, path
    for path, kernel in kernels.items():
        bound = np.sqrt(3 / np.prod(kernel.shape[:-1]))
        assert 0.97 * bound < np.abs(kernel).max() <= bound, path
        assert abs(kernel.std() / (bound / np.sqrt(3)) - 1) < 5 / np.sqrt(5 * kernel.size), path
        assert abs(kernel.mean()) < 5 * bound / np.sqrt(3 * kernel.size), path
    for path, bias in params.items():
        if path.endswith("bias"):
            np.testing.assert_array_equal(bias, np.full(bias.shape, -2.0 if "transform_conv" in path else 0.0))
    assert sum("transform_conv/bias" in path for path in params) == 3


@pytest.mark.parametrize(("norm_scale_init", "is_one"), [("ones", True), ("uniform", False)])
@pytest.mark.parametrize("network_type", [WideResNet, PreActResNet])
def test_norm_scales_of_every_network_can_start_at_one_or_uniformly(network_type, norm_scale_init, is_one):
    small = {"depth": 10, "widening_factor": 1} if network_type is WideResNet else {"stage_sizes": (1, 1, 1)}
    (params,) = _draws(network_type(**small, norm_scale_init=norm_scale_init), [0])
    scales = np.concatenate(list(_named(params, "scale").values()))
    assert np.all(scales == 1) == is_one and (scales.min() < 0.05) != is_one


def test_initialisation_does_not_read_the_images():
    """Nor does it move the running statistics: mean 0, variance 1."""
    model = create_model("resnet_8")
    init = jax.jit(functools.partial(model.init, train=True))
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    first, second = (init(jax.random.key(0, impl="rbg"), array) for array in (images, 2 * images))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    for norm in jax.tree.leaves(first["batch_stats"], is_leaf=lambda node: "mean" in node):
        np.testing.assert_array_equal(norm["mean"], np.zeros_like(norm["mean"]))
        np.testing.assert_array_equal(norm["var"], np.ones_like(norm["var"]))


@pytest.mark.parametrize("field", [{"norm_scale_init": "xavier"}, {"head_kernel_init": "dirac"}])
def test_an_initialiser_of_kernels_for_another_array_is_said(field):
    with pytest.raises(InputError, match="not for an array of shape .*; choose another"):
        jax.eval_shape(create_model("resnet_8", **field).init, jax.random.key(0), IMAGES)
