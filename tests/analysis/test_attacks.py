"""Adversarial images: bounded, never better than the images, and the optimum where it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax import InputError
from resjax.analysis import fgsm, pgd

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(size=(6, 4, 4, 3)), jnp.float32)
LABELS = jnp.arange(6) % 3
EPSILON = 8 / 255
WEIGHTS = jnp.asarray(RNG.normal(size=(2, 48, 16)), jnp.float32)


def _loss(images):
    """Of a small network with a rectifier."""
    hidden = jax.nn.relu((images.reshape(len(images), -1) - 0.5) @ WEIGHTS[0])
    return optax.softmax_cross_entropy_with_integer_labels(hidden @ WEIGHTS[1, :16, :3], LABELS[: len(images)])


def _linear_loss(images):
    """Of two classes by a linear function, y_i = +1 or -1: log(1 + exp(-y w x))."""
    scores = images.reshape(len(images), -1) @ WEIGHTS[0, :, 0]
    return jax.nn.softplus(-(1 - 2.0 * (LABELS % 2)) * scores)


ATTACKS = {
    "fgsm": lambda loss, epsilon: fgsm(loss, IMAGES, epsilon),
    "pgd": lambda loss, epsilon: pgd(jax.random.key(0), loss, IMAGES, epsilon),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("epsilon", [EPSILON, 0.3])
def test_an_attack_stays_within_epsilon_and_the_range_of_pixels(attack, epsilon):
    attacked = attack(_loss, epsilon)
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert epsilon - 1e-6 < np.abs(attacked - IMAGES).max() <= epsilon + 1e-6


def test_the_loss_of_each_image_grows_and_by_steps_more_than_by_one():
    clean = _loss(IMAGES)
    one_step, steps = (_loss(attack(_loss, EPSILON)) for attack in ATTACKS.values())
    assert (one_step > clean).all() and (steps > clean).all() and steps.mean() >= one_step.mean()


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_the_optimum_of_a_linear_model_is_reached(attack):
    """It is at the corner of the box that the weights point to, clipped to [0, 1]."""
    signs = (
        np.sign(np.asarray(WEIGHTS[0, :, 0]).reshape(4, 4, 3))
        * (2.0 * (np.asarray(LABELS) % 2) - 1)[:, None, None, None]
    )
    optimum = np.clip(np.asarray(IMAGES) + EPSILON * signs, 0, 1)
    np.testing.assert_allclose(attack(_linear_loss, EPSILON), optimum, atol=1e-6)


def test_projected_steps_are_those_of_a_computation_by_hand():
    """The network's gradient by the chain rule, and Madry's algorithm, in float64; only the random start is shared."""
    first, last = (np.asarray(weights, np.float64) for weights in (WEIGHTS[0], WEIGHTS[1, :16, :3]))
    labels = np.eye(3)[LABELS]

    def loss_and_gradient(images):
        hidden = (images.reshape(6, -1) - 0.5) @ first
        scores = np.maximum(hidden, 0) @ last
        probabilities = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        gradient = ((probabilities - labels) @ last.T * (hidden > 0)) @ first.T
        return -np.log((probabilities * labels).sum(-1)), gradient.reshape(images.shape)

    images, steps = np.asarray(IMAGES, np.float64), 5
    iterate = images + EPSILON * np.asarray(jax.random.uniform(jax.random.key(0), images.shape, minval=-1), np.float64)
    worst, largest = images, loss_and_gradient(images)[0]
    for _ in range(steps + 1):
        iterate = np.clip(np.clip(iterate, images - EPSILON, images + EPSILON), 0, 1)
        losses, gradient = loss_and_gradient(iterate)
        worst = np.where((losses > largest)[:, None, None, None], iterate, worst)
        largest = np.maximum(losses, largest)
        iterate = iterate + 2.5 * EPSILON / steps * np.sign(gradient)
    attacked = pgd(jax.random.key(0), _loss, IMAGES, EPSILON, steps=steps)
    np.testing.assert_allclose(attacked, worst, atol=1e-6)


def test_steps_that_lower_the_loss_are_not_taken():
    """At a maximum each step, of a size too large, goes down."""

    def peaked(images):
        return -jnp.square(images - IMAGES).sum((1, 2, 3))

    np.testing.assert_array_equal(pgd(jax.random.key(0), peaked, IMAGES, EPSILON, steps=3), IMAGES)


def test_steps_end_once_every_loss_is_enough():
    """The loss of a step is known when the next one is taken."""
    one, two, all_steps = (
        pgd(jax.random.key(0), _loss, IMAGES, EPSILON, steps, step_size=EPSILON / 8) for steps in (1, 2, 20)
    )
    stopped, never = (
        pgd(jax.random.key(0), _loss, IMAGES, EPSILON, step_size=EPSILON / 8, enough=float(enough))
        for enough in (_loss(one).min() - 1e-3, _loss(all_steps).min() + 1)
    )
    np.testing.assert_allclose(stopped, two, atol=1e-6)
    np.testing.assert_allclose(never, all_steps, atol=1e-6)
    assert (_loss(all_steps) > _loss(two)).all()


def test_an_attack_is_a_function_of_its_key_and_compiles():
    compiled = jax.jit(lambda key, epsilon: pgd(key, _loss, IMAGES, epsilon, steps=2))
    first, again, other = (compiled(jax.random.key(seed), EPSILON) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_what_it_cannot_attack_is_said():
    with pytest.raises(InputError, match="expected floating point in .*, got uint8; divide pixels by 255"):
        fgsm(_loss, jnp.zeros((1, 2, 2, 3), jnp.uint8), EPSILON)
    with pytest.raises(InputError, match="steps: expected a positive integer, got 0"):
        pgd(jax.random.key(0), _loss, IMAGES, EPSILON, steps=0)
