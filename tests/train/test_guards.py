"""What would train or count wrongly in silence is refused, said, or ends the run."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resjax import Gates, InputError, create_model, train
from resjax.layers import BatchNorm
from resjax.train import NO_FAILURE, Totals, classification
from tests.helpers import problem


class Linear(nn.Module):
    """A network in one line, whose statistic can overflow alone."""

    overflow: bool = False

    @nn.compact
    def __call__(self, images, train=False):
        statistic = self.variable("batch_stats", "mean", jnp.zeros, (1,))
        if train:
            statistic.value = jnp.exp(1000.0 * self.overflow) * jnp.ones(1)
        return nn.Dense(problem.CLASSES)(images.mean((1, 2)))


@pytest.mark.parametrize("label", [-1, 10, 255])
def test_a_label_that_is_no_class_ends_training_and_shows_in_evaluation(label):
    images, labels = problem.images_and_labels(8)
    labels[3] = label
    mesh, optimizer, network = problem.one_device(), train.sgd(0.1), Linear()
    run = train.make_run_batch(train.make_train_step(network, optimizer, problem.prepare), 8, mesh)
    state, totals = run(train.create_state(network, optimizer, 0, problem.SHAPE), Totals.zero(), (images, labels))
    assert int(totals.failed_step) == 0
    evaluate = train.make_evaluate_batch(train.make_eval_step(network, problem.normalize), mesh)
    variables = train.create_state(network, optimizer, 0, problem.SHAPE).variables
    assert np.isnan(evaluate(variables, Totals.zero(), (images, labels), np.ones(8, bool)).mean_loss())
    masked = evaluate(variables, Totals.zero(), (images, labels), np.arange(8) != 3)
    assert np.isfinite(masked.mean_loss()) and int(masked.images) == 7


@pytest.mark.parametrize("overflow", [False, True])
def test_a_statistic_that_is_not_finite_ends_training(overflow):
    network, optimizer = Linear(overflow), train.sgd(0.1)
    run = train.make_run_batch(train.make_train_step(network, optimizer, problem.prepare), 8, problem.one_device())
    state = train.create_state(network, optimizer, 0, problem.SHAPE)
    _, totals = run(state, Totals.zero(), problem.images_and_labels(8))
    assert np.isfinite(totals.mean_loss()) and int(totals.failed_step) == (0 if overflow else NO_FAILURE)


def test_one_class_is_no_classification():
    with pytest.raises(InputError, match="num_classes 1: .* is 0 whatever the network says"):
        classification(0.1)(jnp.zeros((4, 1)), jnp.ones((4, 1)), jnp.zeros(4, int))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average_decay": 1.0}, r"average_decay: expected a number in \[0, 1\), got 1.0"),
        ({"micro_batches": 0}, "micro_batches: expected positive integers, got 0"),
    ],
)
def test_a_step_names_an_option_that_is_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        train.make_train_step(Linear(), train.sgd(0.1), problem.prepare, **options)


def test_an_average_that_the_state_does_not_have():
    optimizer = train.sgd(0.1)
    step = train.make_train_step(Linear(), optimizer, problem.prepare, average_decay=0.9)
    state = train.create_state(Linear(), optimizer, 0, problem.SHAPE)
    with pytest.raises(InputError, match="average_decay 0.9: the state has no average; create_state"):
        jax.eval_shape(step, state, problem.images_and_labels(4))


def test_float16_is_said_and_bfloat16_is_not():
    with pytest.warns(UserWarning, match="float16: gradients below 6e-8 become 0"):
        train.make_train_step(create_model("resnet_20", dtype=jnp.float16), train.sgd(0.1), problem.prepare)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train.make_train_step(create_model("resnet_20", dtype=jnp.bfloat16), train.sgd(0.1), problem.prepare)


@pytest.mark.parametrize(
    ("shape", "scope", "sound"),
    [
        ((1, 1, 1, 3), "global", False),
        ((4, 1, 1, 3), 1, False),
        ((4, 1, 1, 3), 2, True),
        ((1, 2, 1, 3), "global", True),
    ],
)
def test_a_channel_of_one_value_cannot_be_normalised(shape, scope, sound):
    norm = BatchNorm(norm_scope=scope)
    variables = norm.init(jax.random.key(0), jnp.ones(shape), train=True)

    def run(train):
        return jax.eval_shape(
            lambda v, x: norm.apply(v, x, train=train, mutable=["batch_stats"]), variables, jnp.ones(shape)
        )

    run(train=False)
    if sound:
        run(train=True)
    else:
        with pytest.raises(InputError, match="each channel by the one value it has"):
            run(train=True)


def test_gates_are_real_numbers():
    network = create_model("resnet_8")
    images = jnp.zeros((1, 8, 8, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    with pytest.raises(InputError, match="gates.branch: expected real numbers, got complex64"):
        jax.eval_shape(
            network.apply, variables, images, gates=Gates(branch=jnp.ones(network.num_blocks, jnp.complex64))
        )
