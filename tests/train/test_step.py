"""What one step computes beside the gradient: smoothing, averages, metrics, randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resjax import InputError, train
from resjax.train.classification import count_correct
from resjax.train.state import step_key
from tests.helpers import problem


def _step(state, step, n=16):
    images, labels = problem.images_and_labels(n)
    return jax.jit(step)(state, (jnp.asarray(images), jnp.asarray(labels)))


def test_label_smoothing_is_cross_entropy_with_the_mixture():
    network, optimizer, step = problem.build(objective=train.classification(0.2))
    state = problem.new_state(network, optimizer)
    images, labels = problem.images_and_labels(16)
    key, _ = jax.random.split(step_key(state.seed, state.step))
    prepared, _ = problem.prepare(key, jnp.asarray(images), labels)
    apply = jax.jit(lambda variables: network.apply(variables, prepared, train=True, mutable=["batch_stats"]))
    logits, _ = apply(state.variables)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    target = 0.8 * np.eye(10)[labels] + 0.02
    np.testing.assert_allclose(_step(state, step)[1]["loss"], -(target * log_p).sum(1).mean(), rtol=1e-4)


@pytest.mark.parametrize("wrong", [-1, 4, 100])
def test_a_label_that_is_no_class_makes_the_loss_nan_in_compiled_code_and_is_refused_outside(wrong):
    """One-hot vectors are zero there and indices wrap: either loss would look like any other."""
    logits = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0, wrong])
    targets = jax.nn.one_hot(labels, 4)

    class Fixed(nn.Module):
        def __call__(self, images, train=False):
            return jnp.asarray(logits) + 0 * images.mean((1, 2))

    images, valid = np.zeros((6, 2, 2, 4), np.uint8), np.ones(6, bool)
    normalize = lambda images: images / 255  # noqa: E731
    evaluate = jax.jit(train.make_eval_step(Fixed(), normalize))
    crops = jax.jit(train.make_crops_eval_step(Fixed(), normalize))
    for objective in (train.classification(0.1), train.top_classification()):
        loss, counts = jax.jit(objective)(logits, targets, labels)
        assert np.isnan(loss) and counts["correct"] == (logits.argmax(1) == labels).sum()
        assert np.isfinite(jax.jit(objective)(logits[:5], targets[:5], labels[:5])[0])
        with pytest.raises(InputError, match=rf"labels: expected 0 .. 3; got {wrong} at \(5,\)"):
            objective(logits, targets, labels)
    for step in (evaluate, crops):
        sums = step({}, (images, labels), valid)
        assert np.isnan(sums["loss"]) and sums["correct"] == (logits.argmax(1) == labels).sum()
        # A row behind the end of the images counts for nothing, whatever its label.
        assert np.isfinite(step({}, (images, labels), labels != wrong)["loss"])


def test_labels_of_another_shape_or_kind_are_refused():
    logits, labels = np.zeros((6, 4), np.float32), np.zeros(6, np.int32)
    objective = jax.jit(train.classification())
    with pytest.raises(InputError, match=r"labels: expected the shape \[6\], got \[6, 1\]"):
        jax.jit(count_correct)(logits, labels[:, None])
    with pytest.raises(InputError, match="labels: expected integers, got float32"):
        objective(logits, np.zeros((6, 4), np.float32), labels.astype(np.float32))


def test_what_differs_between_epochs_is_told_the_epoch():
    class Brightness(nn.Module):
        """Little to run operation by operation, as `told` asks for."""

        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(problem.CLASSES)(images.mean((1, 2)))

    network, optimizer, told = Brightness(), train.sgd(0.1), []
    state = train.create_state(network, optimizer, 0, problem.SHAPE)

    def prepare(key, images, labels, epoch):
        told.append(int(epoch))
        return problem.prepare(key, images, labels)

    step = train.make_train_step(network, optimizer, prepare, steps_per_epoch=3)
    batch = tuple(map(jnp.asarray, problem.images_and_labels(4)))
    for number in (0, 2, 3, 8):
        step(state.replace(step=jnp.int32(number)), batch)
    assert told == [0, 0, 1, 2]


def test_views_are_averaged_by_weight_before_the_class_is_chosen():
    network, optimizer, _ = problem.build()
    variables = problem.new_state(network, optimizer).variables
    images, labels = map(jnp.asarray, problem.images_and_labels(16))

    def views(images):
        return [(0.75, images), (0.25, images[:, :, ::-1])]

    valid = jnp.ones(16, bool)
    found = train.make_eval_step(network, problem.normalize, views)(variables, (images, labels), valid)
    logits = sum(w * network.apply(variables, view) for w, view in views(problem.normalize(images)))
    assert int(found["correct"]) == int((logits.argmax(-1) == labels).sum())
    loss = -jax.nn.log_softmax(logits)[jnp.arange(16), labels].sum()
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)


@pytest.mark.quick
def test_moving_average_covers_parameters_and_statistics_and_is_what_is_evaluated():
    network, optimizer, step = problem.build(average_decay=0.75)
    state = problem.new_state(network, optimizer, moving_average=True)
    expected = {"params": state.params, "batch_stats": state.batch_stats}
    for _ in range(3):
        state, _ = _step(state, step)
        current = {"params": state.params, "batch_stats": state.batch_stats}
        expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, expected, current)
    for a, b in zip(jax.tree.leaves(state.variables), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_without_an_average_the_parameters_themselves_are_evaluated():
    state = problem.new_state(*problem.build()[:2])
    assert state.average is None and state.variables["params"] is state.params


def test_draws_follow_from_seed_and_step_alone():
    network, optimizer, step = problem.build()
    state = problem.new_state(network, optimizer)
    loss = lambda state: float(_step(state, step)[1]["loss"])  # noqa: E731
    assert loss(state) == loss(state)
    assert loss(state) != loss(state.replace(step=state.step + 1))
    assert loss(state) != loss(state.replace(seed=state.seed + 1))


def test_gradient_norm_is_that_of_the_loss_without_decay():
    network, optimizer, step = problem.build()
    state = problem.new_state(network, optimizer)
    plain = train.sgd(1.0, momentum=0.0)
    state = state.replace(opt_state=plain.init(state.params))
    means = {"of_stem": lambda gradients: jnp.abs(gradients["stem"]["conv"]["kernel"]).mean()}
    new, metrics = _step(state, train.make_train_step(network, plain, problem.prepare, gradient_metrics=means))
    moved = jax.tree.map(lambda a, b: np.asarray(a - b, np.float64), state.params, new.params)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(moved)))
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)
    first = np.abs(moved["stem"]["conv"]["kernel"]).mean()
    np.testing.assert_allclose(metrics["gradient_means"]["of_stem"], first, rtol=1e-4)


def test_count_correct_counts_valid_images_only():
    logits = jnp.array([[2.0, 1, 0], [0, 3, 1], [0, 1, 5], [9, 0, 0]])
    labels = jnp.array([0, 1, 0, 0])
    assert int(count_correct(logits, labels)) == 3
    assert int(count_correct(logits, labels, jnp.array([True, False, True, True]))) == 2


def test_training_lowers_the_loss_on_learnable_images():
    network, optimizer, step = problem.build(learning_rate=0.02)
    state = problem.new_state(network, optimizer)
    losses = []
    for _ in range(30):
        state, metrics = _step(state, step, n=64)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


@pytest.mark.quick
@pytest.mark.parametrize(
    "prepare, message",
    [
        (lambda images: images, r"does not take 3 arguments"),
        (
            lambda key, images, labels: images / 255.0,
            "returned .*Tracer, no pair",
        ),
        (lambda key, images, labels: (images, labels), r"returned images of uint8 \[4, 8, 8, 3\] for 4 images"),
        (
            lambda key, images, labels: (images / 255.0, labels),
            r"returned targets of int32 \[4\]: jax.nn.one_hot\(labels, K\) makes them",
        ),
    ],
)
def test_a_wrong_prepare_is_told_what_it_takes_and_returns(prepare, message):
    network, optimizer, _ = problem.build()
    step = train.make_train_step(network, optimizer, prepare)
    state = jax.eval_shape(lambda: problem.new_state(network, optimizer))
    with pytest.raises(InputError, match=message) as error:
        jax.eval_shape(step, state, problem.images_and_labels(4))
    assert "prepare(key, images, labels) -> (float images [N, H, W, C], targets)" in str(error.value)


@pytest.mark.quick
def test_targets_of_other_classes_and_a_batch_that_is_no_pair_are_said():
    network, optimizer, _ = problem.build()
    state = jax.eval_shape(lambda: problem.new_state(network, optimizer))
    step = train.make_train_step(network, optimizer, lambda key, images, labels: (images / 255.0, jnp.ones((4, 77))))
    with pytest.raises(InputError, match=r"targets of 77 classes; the network has 10"):
        jax.eval_shape(step, state, problem.images_and_labels(4))
    with pytest.raises(InputError, match=r"train_step: expected a batch \(uint8 images .*, got dict"):
        jax.eval_shape(step, state, dict(zip(("images", "labels"), problem.images_and_labels(4), strict=True)))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("seed", "shape", "message"),
    [
        (jax.random.key(0), problem.SHAPE, r"seed: expected an integer, got key<fry>"),
        (0.5, problem.SHAPE, r"seed: expected an integer, got float"),
        (0, (1, *problem.SHAPE), r"image_shape: expected \(H, W, C\) of one image, got \(1, "),
    ],
)
def test_a_state_is_of_a_number_and_of_the_shape_of_one_image(seed, shape, message):
    network, optimizer, _ = problem.build()
    with pytest.raises(InputError, match=message):
        train.create_state(network, optimizer, seed, shape)
