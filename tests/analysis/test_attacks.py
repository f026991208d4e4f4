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


def test_steps_that_lower_the_loss_are_not_taken():
    """At a maximum each step, of a size too large, goes down."""

    def peaked(images):
        return -jnp.square(images - IMAGES).sum((1, 2, 3))

    np.testing.assert_array_equal(pgd(jax.random.key(0), peaked, IMAGES, EPSILON, steps=3), IMAGES)


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
