"""A scanned stage, and one that computes parts again, are the same function as the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resjax
from resjax import Gates, InputError, StochasticDepth
from resjax.models import multiply_adds, parameter_count, restack, stacked_stages

NAMES = {
    "resnet_44": {"stage_sizes": (4, 3), "widths": (4, 6)},
    "preresnet_56": {"stage_sizes": (3,), "widths": (4,)},
    "wrn_28_1": {"depth": 22},
    "resnext_50_8x4d": {"stage_sizes": (3,), "widths": (16,), "num_classes": 10, "form": "split_transform_sum"},
}


def network(name, **options):
    return resjax.create_model(name, **(NAMES[name] | options))


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (4, 8, 8, 3))


def step(model, variables, images, **options):
    """Loss, gradients and new statistics of a training step."""

    def loss(params):
        logits, new = model.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"], **options
        )
        return jnp.square(logits).mean(), new

    (value, new), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    return {"loss": value, "params": gradients, **new}


def assert_close(found, wanted, rtol=2e-4):
    wanted_leaves, structure = jax.tree.flatten(wanted)
    largest = max(float(jnp.abs(leaf).max()) for leaf in wanted_leaves)
    for a, b in zip(structure.flatten_up_to(found), wanted_leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * 1e-2 * largest)


@pytest.mark.parametrize("name", NAMES)
def test_scanned_is_unrolled(name, images, draw_variables):
    plain, scanned = network(name, scan=False), network(name, scan=True)
    variables = draw_variables(plain, images)
    stacked = restack(variables, scanned.stacked_stages)
    assert stacked_stages(stacked) == scanned.stacked_stages != set()
    wanted, found = step(plain, variables, images), step(scanned, stacked, images)
    assert_close(restack(found, ()), wanted)
    found, wanted = jax.jit(scanned.apply)(stacked, images), jax.jit(plain.apply)(variables, images)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_each_scanned_block_has_its_own_gates(images, draw_variables):
    plain, scanned = network("resnet_44", scan=False), network("resnet_44", scan=True)
    variables = draw_variables(plain, images)
    stacked = restack(variables, scanned.stacked_stages)
    rng = np.random.default_rng(3)
    gates = Gates(
        branch=jnp.asarray(rng.uniform(0, 1, plain.num_blocks), jnp.float32),
        skip=jnp.asarray(rng.uniform(0.5, 1, plain.num_blocks), jnp.float32),
        active=jnp.asarray(rng.random(plain.num_blocks) < 0.6),
    )
    wanted = step(plain, variables, images, gates=gates)
    assert_close(restack(step(scanned, stacked, images, gates=gates), ()), wanted)


def test_stochastic_depth_draws_the_same_blocks_scanned(images, draw_variables):
    options = {"stochastic_depth": StochasticDepth(0.3)}
    plain, scanned = network("resnet_44", scan=False, **options), network("resnet_44", scan=True, **options)
    variables = draw_variables(plain, images)
    stacked = restack(variables, scanned.stacked_stages)
    rngs = {"dropout": jax.random.key(5)}
    wanted = step(plain, variables, images, rngs=rngs)
    assert_close(restack(step(scanned, stacked, images, rngs=rngs), ()), wanted)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", ["convs", "full"])
def test_computing_again_changes_nothing(remat, scan, images, draw_variables):
    plain = network("resnet_44", scan=scan)
    variables = draw_variables(plain, images)
    assert_close(step(plain.clone(remat=remat), variables, images), step(plain, variables, images))


def kept(model, variables, images):
    """Bytes that the backward pass holds on to."""

    def backward(variables, images):
        return jax.vjp(lambda params: loss(params, variables, images), variables["params"])[1]

    def loss(params, variables, images):
        return model.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])[0].sum()

    residuals = jax.eval_shape(backward, variables, images)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))


def test_remat_policies_keep_less_and_less():
    model = resjax.create_model("resnet_44", scan=False)
    images = jax.ShapeDtypeStruct((32, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    sizes = [kept(model.clone(remat=remat), variables, images) for remat in ("none", "convs", "full")]
    assert sizes[0] > 1.5 * sizes[1] > 1.5 * 1.5 * sizes[2]


def test_scanned_blocks_keep_what_costs_more_than_a_copy():
    model = resjax.create_model("resnet_110")
    images = jax.ShapeDtypeStruct((32, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    sizes = [kept(model.clone(remat=remat), variables, images) for remat in ("none", "convs", "full")]
    assert sizes[0] == sizes[1] > 1.5 * sizes[2]
    # The input of each block and little else: 54 blocks, a third of them at each resolution.
    inputs = 18 * 32 * 32 * 32 * (16 + 32 / 4 + 64 / 16) * 4
    assert sizes[2] < 1.3 * inputs


def test_depth_does_not_grow_the_program():
    def operations(depth):
        model = resjax.create_model(f"resnet_{depth}")
        images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        return str(jax.make_jaxpr(model.apply)(variables, images)).count("\n")

    assert operations(1202) == operations(110)
    assert network("resnet_44").stacked_stages == set()
    assert resjax.create_model("resnet_101").stacked_stages == {"stage_3"}


def test_counts_are_those_of_the_unrolled_network():
    scanned, plain = (resjax.create_model("preresnet_110", scan=scan) for scan in (True, False))
    assert parameter_count(scanned, (32, 32, 3)) == parameter_count(plain, (32, 32, 3)) == 1_727_962
    assert multiply_adds(scanned, (32, 32, 3)) == multiply_adds(plain, (32, 32, 3))


def test_restacking_is_lossless(images, draw_variables):
    model = network("resnet_44", scan=True)
    variables = draw_variables(model, images)
    there = restack(variables, ())
    assert stacked_stages(there) == set()
    back = restack(there, model.stacked_stages)
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    # Blocks keep their order beyond the ninth, where names no longer sort as numbers do.
    deep = network("resnet_44", scan=False, stage_sizes=(12, 2))
    apart = draw_variables(deep, images)
    stacked = restack(apart, {"stage_1"})
    for i in range(11):
        np.testing.assert_array_equal(
            stacked["params"]["stage_1"]["blocks"]["conv_1"]["kernel"][i],
            apart["params"]["stage_1"][f"block_{i + 2}"]["conv_1"]["kernel"],
        )


def test_errors():
    with pytest.raises(InputError, match="scan: expected one of True, False, 'auto', got 'deep'"):
        network("resnet_44", scan="deep")
    with pytest.raises(InputError, match="remat: expected one of 'none', 'full', 'convs', got 'all'"):
        network("resnet_44", remat="all")
