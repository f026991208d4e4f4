"""Forward and reverse mode agree, to second order, for the CPU's operators and for every family's networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import Gating
from resjax.layers import max_pool, max_pool_halved, plain_convolutions
from resjax.layers.cpu.conv import Geometry, conv_cpu
from resjax.layers.cpu.norm import moments_of, normalize
from resjax.models import (
    VGG,
    DenseNet,
    Highway,
    PreActResNet,
    ResNet,
    SegmentationNetwork,
    SpeedResNet,
    WideResNet,
    WiderResNet,
)

pytestmark = pytest.mark.usefixtures("in_float64")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 6, 4))


def kernel(*shape):
    return RNG.normal(size=shape)


LINE = np.linspace(0.5, 3, 8), np.linspace(-1, 2, 8)
OPERATORS = {
    "conv": (functools.partial(conv_cpu, geometry=Geometry(((1, 1), (1, 1)))), X, kernel(3, 3, 4, 3)),
    "conv_strided": (functools.partial(conv_cpu, geometry=Geometry(((1, 1), (2, 0)), 2)), X, kernel(3, 3, 4, 20)),
    "conv_dilated": (functools.partial(conv_cpu, geometry=Geometry(((2, 2), (2, 2)), 1, 2)), X, kernel(3, 3, 4, 5)),
    "conv_groups": (
        functools.partial(conv_cpu, geometry=Geometry(((1, 1), (1, 1)), 2, groups=2)),
        X,
        kernel(3, 3, 2, 6),
    ),
    "conv_1x1": (functools.partial(conv_cpu, geometry=Geometry(((0, 0), (0, 0)), 2)), X, kernel(1, 1, 4, 3)),
    "max_pool": (max_pool, X),
    "max_pool_halved": (max_pool_halved, X),
    "moments": (lambda x: moments_of(x, jnp.zeros(4)), X),
    "rectified_norm": (
        lambda x, scale, bias: normalize(x, moments_of(x, jnp.zeros(4)), scale, bias, 1e-3, rectified=True),
        X,
        np.array([0.5, 1, 2, 3]),
        np.array([1.0, 0, -1, 2]),
    ),
    "joined_norm": (
        lambda x, y: normalize(
            [x, y], moments_of(jnp.concatenate([x, y], -1), jnp.zeros(8)), *LINE, 1e-3, rectified=True
        ),
        X,
        X[::-1] ** 2,
    ),
    "norm": (
        lambda x, scale, bias: normalize(x, moments_of(x, jnp.zeros(4)), scale, bias, 1e-3),
        X,
        np.array([0.5, 1, 2, 3]),
        np.array([1.0, 0, -1, 2]),
    ),
}


def close(a, b, tolerance=1e-9):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * max(np.abs(y).max(), 1e-3))


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_has_every_derivative(name):
    """Jacobians, and Hessian-vector products, of each mode over each; also those of `jax.vmap` and under it."""
    operator, *arguments = OPERATORS[name]
    arguments = tuple(map(jnp.asarray, arguments))
    places = tuple(range(len(arguments)))
    tangents = tuple(jnp.asarray(np.random.default_rng(1).normal(size=a.shape)) for a in arguments)

    @jax.jit
    def results(arguments, tangents):
        def loss(*arguments):
            y = operator(*arguments)
            return (jnp.sin(jnp.arange(y.size)) * jnp.square(y).ravel()).sum()

        gradient = jax.grad(loss, places)
        forward_over_reverse = jax.jvp(gradient, arguments, tangents)[1]
        reverse_over_reverse = jax.grad(
            lambda *a: sum((g * t).sum() for g, t in zip(gradient(*a), tangents, strict=True)), places
        )(*arguments)
        reverse_over_forward = jax.grad(lambda *a: jax.jvp(loss, a, tangents)[1], places)(*arguments)
        # Two sets of all arguments; two of the first one alone: one kernel, more images; two of the last alone.
        pairs = [
            tuple(jnp.stack([a, 2 * a - 1]) if i in which else a for i, a in enumerate(arguments))
            for which in (places, (0,), (places[-1],))
        ]
        mapped = []
        for which, pair in zip((places, (0,), (places[-1],)), pairs, strict=True):
            axes = tuple(0 if i in which else None for i in places)
            apart = [tuple(a[j] if i in which else a for i, a in enumerate(pair)) for j in range(2)]
            under = jax.vmap(gradient, axes)(*pair)
            over = jax.grad(lambda *a, axes=axes: jax.vmap(loss, axes)(*a).sum(), places)(*pair)
            each = [gradient(*a) for a in apart]
            stacked = tuple(jnp.stack(parts) for parts in zip(*each, strict=True))
            summed = tuple(s if i in which else s.sum(0) for i, s in enumerate(stacked))
            mapped.append(((under, over), (stacked, summed)))
        jacobians = jax.jacfwd(operator, places)(*arguments), jax.jacrev(operator, places)(*arguments)
        return jacobians, forward_over_reverse, reverse_over_reverse, reverse_over_forward, mapped

    (forward, reverse), *hessians, mapped = results(arguments, tangents)
    close(forward, reverse)
    close(hessians[0], hessians[1])
    close(hessians[2], hessians[1])
    for found, expected in mapped:
        close(found, expected)


TINY = {"dtype": jnp.float64, "num_classes": 3}
NETWORKS = {
    "resnet": ResNet(stage_sizes=(1, 3), widths=(3, 4), shortcut="B", scan=False, **TINY),
    "resnet_scanned": ResNet(stage_sizes=(3,), widths=(3,), scan=True, remat="convs", **TINY),
    "resnext": ResNet(
        stage_sizes=(1,), widths=(64,), block="bottleneck", cardinality=2, base_width=2, stem="imagenet", **TINY
    ),
    "preresnet_scanned": PreActResNet(
        stage_sizes=(3,), widths=(3,), scan=True, shortcut_variant=Gating(bias_init=-1.0), **TINY
    ),
    "wrn": WideResNet(depth=7, widening_factor=1, deepening_factor=1, dropout_rate=0.3, **TINY),
    "densenet": DenseNet(stage_sizes=(1, 1), growth_rate=2, stem_width=3, **TINY),
    "highway": Highway(stage_sizes=(1, 1), widths=(3, 3), head_width=4, **TINY),
    "vgg": VGG(stage_sizes=(1, 1), width=3, **TINY),
    "wider": WiderResNet(stage_sizes=(1,) * 6, widths=((2, 3),) * 4 + ((2, 2, 3),) * 2, stem_width=3, **TINY),
    "speed": SpeedResNet(widths=(3, 4, 4), **TINY),
    "segmentation": SegmentationNetwork(
        ResNet(stage_sizes=(1, 1), widths=(3, 3), features_only=True, output_stride=2, dtype=jnp.float64),
        3,
        head_width=3,
    ),
}


@functools.cache
def loss_along(name, train, draw):
    """(output, loss, parameters, direction) of a network as functions of its parameters alone."""
    network = NETWORKS[name]
    size = 16 if name == "speed" else 9
    images = jnp.asarray(np.random.default_rng(2).normal(size=(3, size, size, 3)))
    variables = draw(network, images, dtype=np.float64)
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)) * 0.1, variables["params"])

    def output(params):
        result = network.apply(
            variables | {"params": params},
            images,
            train=train,
            mutable=["batch_stats"] if train else False,
            rngs={"dropout": jax.random.key(0)},
        )
        return (result[0] if train else result).astype(jnp.float64)

    return output, lambda params: jnp.square(output(params)).sum(), variables["params"], direction


def inner(tree, direction):
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), tree, direction)))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_forward_mode(name, draw_variables):
    """Traced alone, where an operator that knows reverse mode only is refused."""
    for train in (False, True):
        output, _, params, direction = loss_along(name, train, draw_variables)
        y, tangent = jax.eval_shape(lambda p, d, f=output: jax.jvp(f, (p,), (d,)), params, direction)
        assert y.shape == tangent.shape


# Between them every operator of ours: plain and grouped convolutions, both pools, and normalisation; inside scans and
# rematerialised. The other networks are made of these and of JAX's own.
COMPUTED = [
    ("resnet_scanned", True),
    ("resnext", True),
    ("resnext", False),
    ("preresnet_scanned", True),
    ("vgg", True),
    ("segmentation", True),
]


@pytest.mark.parametrize(("name", "train"), COMPUTED)
def test_a_network_has_both_modes(name, train, draw_variables):
    """Its tangents are the finite differences, and forward and reverse mode are each other's transposes."""
    output, loss, params, direction = loss_along(name, train, draw_variables)

    @jax.jit
    def results(params):
        return *jax.jvp(output, (params,), (direction,)), jax.grad(loss)(params)

    y, tangent, gradient = results(params)
    np.testing.assert_allclose(inner(gradient, direction), (2 * y * tangent).sum(), rtol=1e-8)
    step = 1e-6
    ahead, behind = (results(jax.tree.map(lambda p, d, s=s: p + s * d, params, direction))[0] for s in (step, -step))
    difference = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(tangent, difference, atol=1e-5 * np.abs(difference).max())


@pytest.mark.parametrize("name", ["resnet_scanned", "resnext"])
def test_a_network_has_second_derivatives(name, draw_variables):
    """In training: a Hessian-vector product is the same by both modes over reverse mode."""
    _, loss, params, direction = loss_along(name, True, draw_variables)
    forward = jax.jit(lambda p: jax.jvp(jax.grad(loss), (p,), (direction,))[1])(params)
    reverse = jax.jit(jax.grad(lambda p: inner(jax.grad(loss)(p), direction)))(params)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(reverse))
    for a, b in zip(jax.tree.leaves(forward), jax.tree.leaves(reverse), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9 * scale)


def test_the_jacobian_of_a_network_by_its_image(draw_variables):
    """Of both modes, and with XLA's own operators."""
    network = NETWORKS["resnet_scanned"]
    image = jnp.asarray(np.random.default_rng(2).normal(size=(1, 4, 4, 3)))
    variables = draw_variables(network, image, dtype=np.float64)
    forward, reverse = (
        jax.jit(mode(lambda x: network.apply(variables, x)))(image) for mode in (jax.jacfwd, jax.jacrev)
    )
    with plain_convolutions():
        plain = jax.jit(jax.jacrev(lambda x: network.apply(variables, x)))(image)
    close(forward, reverse, 1e-6)
    close(plain, reverse, 1e-6)
