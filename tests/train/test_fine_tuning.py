"""Fine-tuning: depth of layers, what is trained, and at which rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax import InputError, create_model, train
from tests.helpers import problem


def _params(name):
    model = create_model(name)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]


@pytest.mark.parametrize(
    ("name", "stages"), [("resnet_20", 3), ("densenet_40_12", 3), ("preresnet_18", 4), ("vgg_15", 5)]
)
def test_depth_rises_from_the_stem_to_the_head(name, stages):
    params = _params(name)
    depths, head = train.layer_depths(params)
    of_part = {part: set(jax.tree.leaves(depths[part])) for part in params}
    assert head == stages + 1 and of_part.pop("head") == {head}
    assert of_part.get("stem", {0}) == {0} and of_part.get("final_norm", {stages}) == {stages}
    assert all(of_part[f"stage_{i}"] == {i} for i in range(1, head))
    assert all(found == {int(part[-1])} for part, found in of_part.items() if part.startswith("transition"))


def test_the_trunk_of_a_segmentation_network_counts_by_its_own_stages():
    params = {"trunk": {"stem": {"kernel": 0}, "stage_2": {"kernel": 0}}, "head_conv_1": {"kernel": 0}}
    depths, head = train.layer_depths(params)
    expected = {"trunk": {"stem": {"kernel": 0}, "stage_2": {"kernel": 2}}, "head_conv_1": {"kernel": 3}}
    assert depths == expected and head == 3


def test_layer_decay_multiplies_the_rate_from_stage_to_stage():
    params = _params("resnet_20")
    factors = train.learning_rate_factors(head=10.0, layer_decay=0.5)(params)
    for part, expected in {"head": 10.0, "stage_3": 0.5, "stage_2": 0.25, "stage_1": 0.125, "stem": 0.0625}.items():
        assert set(jax.tree.leaves(factors[part])) == {expected}


def test_of_what_is_frozen_nothing_moves_and_nothing_is_kept():
    params = {"stem": {"kernel": jnp.ones(2)}, "stage_1": {"kernel": jnp.ones(3)}, "head": {"kernel": jnp.ones(4)}}
    gradients = jax.tree.map(jnp.ones_like, params)
    for freeze, moving in {"trunk": {"head"}, "stages:0": {"head", "stage_1"}, "stages:1": {"head"}}.items():
        optimizer = train.train_only(train.adamw(0.1, weight_decay=0.5), train.trained_parameters(freeze))
        state = optimizer.init(params)
        updates, _ = optimizer.update(gradients, state, params)
        assert {part for part in params if np.asarray(updates[part]["kernel"]).any()} == moving
        sizes = [leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim]
        assert sum(sizes) == 2 * sum(params[part]["kernel"].size for part in moving)
    assert train.trained_parameters("none") is None


@pytest.mark.parametrize("freeze", ["stages", "stages:-1", "stage:1", "Trunk", ""])
def test_an_unknown_part_to_freeze_is_refused(freeze):
    with pytest.raises(InputError, match="expected none, trunk or stages:N"):
        train.trained_parameters(freeze)
    with pytest.raises(InputError, match="the network has 3 stages, got 'stages:4'"):
        train.trained_parameters("stages:4")(_params("resnet_20"))


def test_a_step_leaves_the_frozen_part_as_it_is_and_computes_no_gradient_of_it():
    """The rest moves as it does without freezing, where the gradient does not see what is behind it."""
    network = problem.small_network(frozen_statistics=True)
    images, labels = (jnp.asarray(array) for array in problem.images_and_labels(8))
    state = problem.new_state(network, optax.sgd(0.1))
    stepped, flops = {}, {}
    for freeze in ("none", "trunk"):
        trained = train.trained_parameters(freeze)
        step = jax.jit(train.make_train_step(network, optax.sgd(0.1), problem.prepare, trained=trained))
        compiled = step.lower(state, (images, labels)).compile()
        flops[freeze] = compiled.cost_analysis()["flops"]
        stepped[freeze] = compiled(state, (images, labels))[0]
    head = {freeze: found.params["head"] for freeze, found in stepped.items()}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), head["trunk"], head["none"])
    trunks = [{key: part for key, part in of.params.items() if key != "head"} for of in (stepped["trunk"], state)]
    problem.assert_same_bits(*trunks)
    assert flops["trunk"] < 0.5 * flops["none"]
