"""What every network of the registry must do, on an instance of each that is small enough to compile in a second."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import resjax
from resjax import Gates, InputError
from resjax.models import VGG, DenseNet, Highway, Network, PreActResNet, SpeedResNet, WideResNet, WiderResNet

TINY = {
    VGG: {"stage_sizes": (2, 1), "width": 8},
    DenseNet: {"stage_sizes": (2, 1), "growth_rate": 4, "stem_width": 6},
    Highway: {"stage_sizes": (2, 1), "widths": (4, 6), "head_width": 5, "dropout_rate": 0.2},
    SpeedResNet: {"widths": (4, 6)},
    WiderResNet: {"stage_sizes": (2, 1, 1, 1, 1, 1), "widths": ((4, 4),) * 4 + ((4, 4, 8),) * 2, "stem_width": 4},
}


def tiny(name: str) -> Network:
    """A network of a name's family and kind of block with two stages, few channels and seven classes."""
    model = resjax.create_model(name)
    if isinstance(model, WideResNet):
        # The paper's narrowest: its block type and dropout are tested elsewhere.
        return model.clone(depth=16, widening_factor=1 if model.widening_factor == 1 else 2, num_classes=7)
    if type(model) in TINY:
        return model.clone(**TINY[type(model)], num_classes=7)
    options = {"stage_sizes": (2, 1), "widths": (8, 16), "num_classes": 7, "scan": False}
    if getattr(model, "cardinality", 1) > 1:
        options |= {"cardinality": 2, "base_width": 16}
    elif getattr(model, "base_width", 64) > 64:
        options |= {"base_width": 128}
    if getattr(model, "stem_width", None):
        options |= {"stem_width": 4}
    return model.clone(**options)


NETWORKS = {tiny(name): name for name in reversed(resjax.list_models())}
# Operation by operation, each shape compiles for itself: one network of each family.
EAGER = {type(model): model for model in NETWORKS}.values()
SWEEP = pytest.mark.parametrize("model", NETWORKS, ids=NETWORKS.values())
IMAGES = np.random.default_rng(0).normal(size=(3, 17, 16, 3)).astype(np.float32)


def one_hot(labels):
    return jax.nn.one_hot(labels, 7)


def test_every_name_has_its_instance():
    assert {type(model) for model in NETWORKS} == {type(resjax.create_model(name)) for name in resjax.list_models()}
    assert 15 <= len(NETWORKS) <= 40


@SWEEP
def test_trains_with_finite_gradients_and_evaluates_in_both_precisions(model, draw_variables):
    variables = draw_variables(model, IMAGES)
    collections = set(variables)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(variables))

    @jax.jit
    def step(params):
        def loss(params):
            logits, new = model.apply(
                variables | {"params": params},
                IMAGES,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return -(nn.log_softmax(logits) * one_hot(jnp.arange(3))).sum(), (logits, new)

        return jax.grad(loss, has_aux=True)(params)

    gradients, (logits, new) = step(variables["params"])
    assert logits.shape == (3, 7) and logits.dtype == jnp.float32
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, variables["params"])
    for path, gradient in jax.tree_util.tree_flatten_with_path(gradients)[0]:
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, jax.tree_util.keystr(path)
    assert set(new) == collections - {"params"}
    # The same step without compilation of the whole is in tests/layers/test_compiled_step.py: here the forward pass.
    headless = model.clone(num_classes=0)
    compiled, features = jax.jit(lambda *args: (model.apply(*args), headless.apply(*args)))(variables, IMAGES)
    lower = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, IMAGES)
    assert lower.dtype == jnp.float32
    assert np.linalg.norm(lower - compiled) < 0.1 * np.linalg.norm(compiled)
    if model in EAGER:
        np.testing.assert_allclose(model.apply(variables, IMAGES), compiled, rtol=1e-4, atol=1e-4)
    head = variables["params"]["head"]["linear"]
    np.testing.assert_allclose(features @ head["kernel"] + head.get("bias", 0), compiled, rtol=1e-4, atol=1e-4)


@SWEEP
def test_gates(model, draw_variables):
    variables = draw_variables(model, IMAGES)
    count = model.num_blocks
    if count == 0:
        with pytest.raises(InputError, match="no residual blocks"):
            model.apply(variables, IMAGES, gates=Gates(branch=np.ones(3)))
        return
    apply = jax.jit(model.clone(features_only=True).apply)
    plain = apply(variables, IMAGES)
    ones = Gates(branch=jnp.ones(count), skip=jnp.ones(count), active=jnp.ones(count, bool))
    # GELU is compiled with what is around it, and rounds accordingly.
    rounding = {"rtol": 1e-4, "atol": 1e-5} if isinstance(model, SpeedResNet) else {"rtol": 0}
    for name, stage in apply(variables, IMAGES, gates=ones).items():
        np.testing.assert_allclose(stage, plain[name], **rounding)
    # Every block of a stage but its first keeps the shape. Without their branches the stage is its first block alone.
    closed = Gates(branch=jnp.ones(count).at[1 : _blocks_of_first_stage(model)].set(0))
    first = _first_block_alone(model, variables)
    np.testing.assert_allclose(apply(variables, IMAGES, gates=closed)["stage_1"], first, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=rf"gates.branch: expected an array of shape \({count},\)"):
        model.apply(variables, IMAGES, gates=Gates(branch=jnp.ones(count + 1)))


def _blocks_of_first_stage(model):
    if isinstance(model, SpeedResNet):
        return 1
    return model.blocks_per_group if isinstance(model, WideResNet) else model.stage_sizes[0]


def _first_block_alone(model, variables):
    if isinstance(model, WideResNet):
        shorter = model.clone(depth=10)
    elif isinstance(model, SpeedResNet):
        shorter = model
    else:
        shorter = model.clone(stage_sizes=(1, *model.stage_sizes[1:]))
    if shorter is not model:  # a network takes no variables of a deeper one
        stages = ("stage_1",) if hasattr(model, "stage_sizes") else ("stage_1", "stage_2", "stage_3")
        variables = {name: dict(collection) for name, collection in variables.items()}
        for collection in variables.values():
            collection |= {stage: {"block_1": collection[stage]["block_1"]} for stage in stages}
    return jax.jit(shorter.clone(features_only=True).apply)(variables, IMAGES)["stage_1"]


@SWEEP
def test_bad_input_is_named(model):
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    with pytest.raises(InputError, match=r"expected \[N, H, W, 3\]"):
        jax.eval_shape(model.apply, variables, np.zeros((2, 32, 32, 4), np.float32))
    with pytest.raises(InputError, match="floating point"):
        jax.eval_shape(model.apply, variables, np.zeros((2, 32, 32, 3), np.uint8))
    least = model.minimum_size
    other_size = np.zeros((2, least, least + 8, 3), np.float32)
    if getattr(model, "flat_head", None):
        with pytest.raises(InputError, match=r"3 x 5 positions, and .* for 3 x 3; .* flat_head=\(3, 5\)"):
            jax.eval_shape(model.apply, variables, other_size)
    else:
        jax.eval_shape(model.apply, variables, other_size)
    if least > 1:
        with pytest.raises(InputError, match=f"at least {least} x {least} pixels"):
            jax.eval_shape(model.apply, variables, np.zeros((2, least, least - 1, 3), np.float32))
    with pytest.raises(InputError, match="num_classes"):
        model.clone(num_classes=-1)


@SWEEP
def test_table_names_the_stages(model):
    table = model.tabulate(jax.random.key(0), jnp.asarray(IMAGES), console_kwargs={"width": 200})
    assert "stage_1" in table and "stage_2" in table and "Total Parameters" in table


@SWEEP
def test_stages_by_name(model):
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    stages = jax.eval_shape(model.clone(features_only=True).apply, variables, IMAGES)
    sizes = model.widths if isinstance(model, SpeedResNet) else getattr(model, "stage_sizes", (0, 0, 0))
    stem = set() if isinstance(model, VGG) else {"stem"}
    assert set(stages) == {f"stage_{i + 1}" for i in range(len(sizes))} | stem | {"final"}
    heights = [stages[f"stage_{i + 1}"].shape[1] for i in range(len(sizes))]
    assert heights == sorted(heights, reverse=True)
    head = variables["params"]["head"]["linear"]["kernel"]
    _, height, width, channels = stages["final"].shape
    positions = height // 2 * (width // 2) if getattr(model, "flat_head", None) else 1
    assert positions * channels == head.shape[0]


@pytest.mark.parametrize("kind", [Network, PreActResNet])
def test_fields_are_documented(kind):
    documented = " ".join(base.__doc__ or "" for base in kind.__mro__ if issubclass(base, Network))
    for field in dataclasses.fields(kind):
        assert field.name in documented or field.name in ("parent", "name")
