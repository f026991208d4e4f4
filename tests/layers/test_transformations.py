"""JAX's transformations of a whole network, with this library's operators and with XLA's: they give the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from resjax.layers import plain_convolutions
from resjax.models import ResNet

pytestmark = pytest.mark.usefixtures("in_float64")

NETWORK = ResNet(
    stage_sizes=(1,),
    widths=(8,),
    block="bottleneck",
    cardinality=4,
    base_width=32,
    shortcut="B",
    num_classes=3,
    stem="cifar_max_pool",
    dtype=jnp.float64,
)
IMAGES = np.random.default_rng(0).normal(size=(4, 6, 6, 3))


def _gradient(loss, params, images):
    return jax.jit(jax.grad(loss))(params, images)


def _jvp(loss, params, images):
    return jax.jit(lambda p: jax.jvp(loss, (p, images), (p, jnp.cos(images))))(params)


def _jacfwd(loss, params, images):
    return jax.jit(jax.jacfwd(lambda colours: loss(params, images * colours)))(jnp.arange(1.0, 4))


def _hessian_vector(loss, params, images):
    return jax.jit(lambda p: jax.jvp(jax.grad(lambda p: loss(p, images)), (p,), (p,))[1])(params)


def _linearize(loss, params, images):
    return jax.jit(lambda p: jax.linearize(lambda p: loss(p, images), p)[1](p))(params)


def _vmap(loss, params, images):
    return jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, jnp.stack([images, images[::-1] * 2]))


def _remat(loss, params, images):
    return _gradient(jax.checkpoint(loss), params, images)


def _scan(loss, params, images):
    def step(params, images):
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params, images)), None

    return jax.jit(lambda p: jax.lax.scan(step, p, jnp.stack([images, images[::-1] * 2]))[0])(params)


def _shard_map(loss, params, images):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    split, whole = PartitionSpec("data"), PartitionSpec()
    own = lambda p, x: jax.tree.map(lambda g: g[None], jax.grad(loss)(p, x))  # noqa: E731
    return jax.jit(jax.shard_map(own, mesh=mesh, in_specs=(whole, split), out_specs=split, check_vma=False))(
        params, images
    )


def _on_a_mesh(axis_type, loss, params, images):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        return _gradient(loss, params, jax.device_put(images, NamedSharding(mesh, PartitionSpec("data"))))


WAYS = {
    "gradient": _gradient,
    "jvp": _jvp,
    "jacfwd": _jacfwd,
    "hessian_vector": _hessian_vector,
    "linearize": _linearize,
    "vmap": _vmap,
    "remat": _remat,
    "scan": _scan,
    "shard_map": _shard_map,
    "auto_mesh": functools.partial(_on_a_mesh, AxisType.Auto),
    "explicit_mesh": functools.partial(_on_a_mesh, AxisType.Explicit),
}


def _loss(variables):
    """A new function in each call: what is traced is remembered by function, not by the choice of operators."""

    def loss(params, images):
        logits, new = NETWORK.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.square(logits).sum() + sum(jax.tree.map(jnp.sum, jax.tree.leaves(new)))

    return loss


@pytest.mark.parametrize("way", WAYS)
def test_a_network_under_a_transformation_is_that_of_xlas_operators(way, draw_variables):
    variables = draw_variables(NETWORK, IMAGES, dtype=np.float64)
    images = jnp.asarray(IMAGES)
    found = WAYS[way](_loss(variables), variables["params"], images)
    # A mesh changes nothing, and XLA's operators know no explicit one where they have groups.
    wanted = _gradient if "mesh" in way else WAYS[way]
    with plain_convolutions():
        expected = wanted(_loss(variables), variables["params"], images)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-9 * np.abs(theirs).max())


def test_a_network_is_exported_for_images_of_any_number_and_size(draw_variables):
    """Of two platforms at once, from one trace."""
    variables = draw_variables(NETWORK, IMAGES, dtype=np.float64)
    shape = export.symbolic_shape("n, h, w, 3", constraints=["h >= 4", "w >= 4"])
    exported = export.export(jax.jit(lambda x: NETWORK.apply(variables, x)), platforms=("cpu", "tpu"))(
        jax.ShapeDtypeStruct(shape, jnp.float64)
    )
    for images in (IMAGES, np.tile(IMAGES, (2, 2, 1, 1))):
        np.testing.assert_allclose(exported.call(images), NETWORK.apply(variables, images), rtol=1e-9)
