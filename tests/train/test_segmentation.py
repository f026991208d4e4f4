"""Losses and counts of pixels against NumPy and scikit-learn; windows, scales and flips against whole images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import confusion_matrix as reference_confusion

from resjax import InputError, train
from resjax.models import ResNet, SegmentationNetwork
from resjax.train import IGNORED, PixelTotals

RNG = np.random.default_rng(0)
CLASSES = 5


def _labels(shape, ignored=0.2):
    labels = RNG.integers(0, CLASSES, shape)
    return np.where(RNG.random(shape) < ignored, IGNORED, labels).astype(np.int32)


def _reference(logits, labels, threshold, least):
    """(loss, gradient) of hard example mining as the authors' code selects pixels, in float64."""
    z = np.asarray(logits, np.float64).reshape(-1, CLASSES)
    labels = np.asarray(labels).reshape(-1)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    valid = np.flatnonzero(labels != IGNORED)
    own = p[valid, labels[valid]]
    limit = np.inf if least >= len(valid) else max(threshold, np.sort(own)[least - 1] if least else 0)
    kept = valid[own <= limit]
    gradient = np.zeros_like(z)
    gradient[kept] = p[kept]
    gradient[kept, labels[kept]] -= 1
    count = max(len(kept), 1)
    return -np.log(p[kept, labels[kept]]).sum() / count, (gradient / count).reshape(logits.shape), kept


LOGITS = arrays(np.float32, (2, 4, 4, CLASSES), elements=st.floats(-4, 4, width=16), unique=True)


def _label_arrays(*others):
    return arrays(np.int32, (2, 4, 4), elements=st.sampled_from([*range(CLASSES), IGNORED, *others]))


@functools.cache
def _mined(threshold, least):
    objective = train.segmentation(CLASSES, 1, threshold, least)
    return jax.jit(jax.value_and_grad(lambda logits, labels: objective(logits, labels)[0]))


# The threshold alone; the least number; more than there are labels; every pixel.
@settings(max_examples=30)
@given(
    logits=LOGITS,
    labels=_label_arrays(),
    threshold_and_least=st.sampled_from([(0.6, 3), (0.05, 15), (0.6, 10_000), (0.6, 0)]),
)
def test_hard_example_mining_equals_numpy_in_value_and_gradient(logits, labels, threshold_and_least):
    loss, gradient = _mined(*threshold_and_least)(logits, labels)
    expected, expected_gradient, _ = _reference(logits, labels, *threshold_and_least)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_without_mining_every_labelled_pixel_counts_and_an_ignored_mask_costs_nothing():
    logits, labels = RNG.normal(size=(2, 4, 4, CLASSES)).astype(np.float32), _labels((2, 4, 4))
    expected = _reference(logits, labels, 1.0, 10_000)[0]
    np.testing.assert_allclose(train.segmentation(CLASSES)(logits, labels)[0], expected, rtol=1e-5)
    for threshold in (0.0, 0.6):
        objective = train.segmentation(CLASSES, 1, threshold)
        loss, gradient = jax.value_and_grad(lambda x, f=objective: f(x, np.full((2, 4, 4), IGNORED))[0])(logits)
        assert loss == 0 and not np.any(gradient)


def test_a_training_step_with_mining_equals_numpy(draw_variables):
    """Loss, confusion and the update of the last biases, on labels at every second pixel."""
    trunk = ResNet(stage_sizes=(1, 1), widths=(4, 4), features_only=True, output_stride=2, frozen_statistics=True)
    model = SegmentationNetwork(trunk, CLASSES, head_width=4, head_dilation=2, coarse_training=True)
    images, masks = RNG.integers(0, 256, (2, 17, 16, 3)).astype(np.uint8), _labels((2, 17, 16)).astype(np.uint8)
    variables = draw_variables(model, np.zeros((1, 17, 16, 3), np.float32))
    factors = train.learning_rate_factors(head=3.0, biases=2.0)
    optimizer = train.sgd(0.1, momentum=0.0, weight_decay=0.01, decay="not_biases", factors=factors)
    state = train.create_state(model, optimizer, 0, (17, 16, 3), variables=variables)
    prepare = lambda key, images, masks, sizes: (images / 128 - 1, masks.astype(jnp.int32))  # noqa: E731
    step = train.make_train_step(model, optimizer, prepare, objective=train.segmentation(CLASSES, 2, 0.6, 20))
    new, metrics = jax.jit(step)(state, (images, masks, np.full((2, 2), 16)))
    apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])[0])
    logits = apply(variables, images / np.float32(128) - 1)
    labels = masks[:, ::2, ::2].astype(np.int32)
    loss, gradient, _ = _reference(logits, labels, 0.6, 20)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    counted = labels != IGNORED
    expected = reference_confusion(labels[counted], np.asarray(logits).argmax(-1)[counted], labels=range(CLASSES))
    np.testing.assert_array_equal(metrics["confusion"], expected)
    bias = variables["params"]["head_conv_2"]["bias"]
    moved = bias - 0.1 * 3 * 2 * gradient.sum((0, 1, 2))
    np.testing.assert_allclose(new.params["head_conv_2"]["bias"], moved, rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, new.batch_stats, variables["batch_stats"])


def test_groups_learn_at_their_own_rates_and_biases_do_not_decay():
    params = {"trunk": {"norm": {"scale": 1.0, "bias": 1.0}}, "head_conv_1": {"kernel": 1.0, "bias": 1.0}}
    params = jax.tree.map(jnp.float32, params)
    factors = train.learning_rate_factors(head=10.0, biases=2.0)
    optimizer = train.sgd(0.1, weight_decay=0.5, decay="not_biases", factors=factors)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    expected = {"trunk": {"norm": {"scale": -0.15, "bias": -0.2}}, "head_conv_1": {"kernel": -1.5, "bias": -2.0}}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)


_confusion = jax.jit(train.confusion_matrix, static_argnums=2)


@settings(max_examples=50)
@given(labels=_label_arrays(), predicted=arrays(np.int32, (2, 4, 4), elements=st.integers(0, CLASSES - 1)))
def test_confusion_and_its_measures_equal_scikit_learn(labels, predicted):
    """With one more class, neither there nor predicted."""
    confusion = _confusion(labels, predicted, CLASSES + 1)
    counted = labels != IGNORED
    expected = np.zeros((CLASSES + 1, CLASSES + 1), int)
    if counted.any():
        expected = reference_confusion(labels[counted], predicted[counted], labels=range(CLASSES + 1))
    np.testing.assert_array_equal(confusion, expected)
    totals = PixelTotals.zero(CLASSES + 1).replace(confusion=confusion)
    if not counted.any():
        assert totals.mean_iou() == 0
        return
    np.testing.assert_allclose(totals.accuracy(), (labels == predicted)[counted].mean())
    both = [((labels == k) & (predicted == k)).sum() for k in range(CLASSES + 1)]
    either = [(((labels == k) | (predicted == k)) & counted).sum() for k in range(CLASSES + 1)]
    iou = [b / e if e else np.nan for b, e in zip(both, either, strict=True)]
    np.testing.assert_allclose(totals.class_iou(), iou)
    np.testing.assert_allclose(totals.mean_iou(), np.nanmean(iou))


_objective = jax.jit(train.segmentation(CLASSES))
_loss_and_gradient = jax.jit(jax.value_and_grad(lambda x, y: train.segmentation(CLASSES)(x, y)[0]))


@settings(max_examples=20)
@given(
    logits=LOGITS,
    labels=_label_arrays(),
    wrong=st.sampled_from([-1, -128, CLASSES, CLASSES + 3, 254]),
    others=arrays(bool, (2, 4, 4)),
)
def test_a_label_out_of_range_counts_nowhere_in_compiled_code_and_is_refused_outside(logits, labels, wrong, others):
    others[0, 0, 0] = True
    labels, predicted = np.where(others, wrong, labels), logits.argmax(-1)
    cleaned = np.where(labels == wrong, IGNORED, labels)
    expected = np.zeros((CLASSES, CLASSES), int)
    counted = cleaned != IGNORED
    np.add.at(expected, (cleaned[counted], predicted[counted]), 1)
    np.testing.assert_array_equal(_confusion(labels, predicted, CLASSES), expected)
    # As label of a prediction it moves no pixel to another row.
    crossed = np.where(labels == wrong, wrong, predicted)
    np.testing.assert_array_equal(_confusion(predicted, crossed, CLASSES).sum(), (labels != wrong).sum())

    loss, gradient = _loss_and_gradient(logits, labels)
    np.testing.assert_allclose(loss, _reference(logits, cleaned, 1.0, 10_000)[0], rtol=1e-5)
    assert not gradient[labels == wrong].any()
    np.testing.assert_array_equal(_objective(logits, labels)[1]["confusion"], expected)

    count = lambda a, b: train.confusion_matrix(a, b, CLASSES)  # noqa: E731
    objective = train.segmentation(CLASSES)
    message = rf"labels: expected 0 .. {CLASSES - 1}, or {IGNORED}.*; got {wrong} at \(0, 0, 0\)"
    for call in (lambda: count(labels, predicted), lambda: objective(logits, labels)):
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(InputError, match=f"labels: expected 0 .. {CLASSES - 1}; got {wrong}"):
        count(predicted, crossed)


@pytest.mark.parametrize("compiled", [False, True])
def test_labels_that_do_not_fit_the_logits_are_refused(compiled):
    logits, labels = np.zeros((2, 4, 4, CLASSES), np.float32), np.zeros((2, 4, 4), np.int32)
    wrapped = jax.jit if compiled else lambda function: function
    for arguments, message in (
        ((logits, labels[:1]), r"labels: expected the logits' shape \[2, 4, 4\], got \[1, 4, 4\]"),
        ((logits, labels.astype(np.float32)), "labels: expected integers, got float32"),
        ((logits[..., :3], labels), "num_classes: expected 3, as the network's logits have, got 5"),
    ):
        with pytest.raises(InputError, match=message):
            wrapped(train.segmentation(CLASSES))(*arguments)
    with pytest.raises(InputError, match=r"predicted: expected the labels' shape \[2, 4, 4\], got \[4, 4\]"):
        wrapped(lambda a, b: train.confusion_matrix(a, b, CLASSES))(labels, labels[0])


@pytest.mark.parametrize("classes", [0, 256])
def test_a_number_of_classes_that_needs_the_label_of_ignored_pixels_is_refused(classes):
    labels = np.zeros((1, 2, 2), np.int32)
    for call in (
        lambda: train.segmentation(classes),
        lambda: train.confusion_matrix(labels, labels, classes),
        lambda: train.make_segmentation_eval_step(None, None, classes),
        lambda: train.pixel_cross_entropy(np.zeros((1, 2, 2, classes), np.float32), labels),
    ):
        with pytest.raises(InputError, match=f"num_classes: expected 1 to 255, .* got {classes}"):
            call()


def _pointwise(x):
    """A network that looks at one pixel at a time."""
    return jnp.concatenate([x, x[..., :1] * 2], -1)


@pytest.mark.parametrize("window", [4, 5, 9])
def test_windows_cover_every_pixel_and_agree_with_the_whole_image(window):
    images = RNG.normal(size=(2, 11, 9, 3)).astype(np.float32)
    whole = train.predict_probabilities(_pointwise, images)
    windows = jax.jit(lambda x: train.predict_probabilities(_pointwise, x, window=window))(images)
    np.testing.assert_allclose(windows, whole, atol=1e-6)
    sizes = []
    train.predict_probabilities(lambda x: sizes.append(x.shape[1:3]) or _pointwise(x), images, window=window)
    assert set(sizes) == {(window, window)}


def test_flips_and_scales_are_averaged():
    images = RNG.normal(size=(1, 6, 6, 3)).astype(np.float32)
    ramp = lambda x: x * jnp.arange(x.shape[2])[:, None]  # noqa: E731 - sees where left is
    plain = np.asarray(jax.nn.softmax(ramp(images)))
    mirrored = np.asarray(jax.nn.softmax(ramp(images[:, :, ::-1])))[:, :, ::-1]
    np.testing.assert_allclose(train.predict_probabilities(ramp, images, flip=True), (plain + mirrored) / 2, atol=1e-6)
    twice = jax.nn.softmax(_pointwise(jax.image.resize(images, (1, 12, 12, 3), "linear")))
    twice = jax.image.resize(twice, (1, 6, 6, 4), "linear")
    scaled = train.predict_probabilities(_pointwise, images, scales=(1.0, 2.0))
    np.testing.assert_allclose(scaled, (jax.nn.softmax(_pointwise(images)) + twice) / 2, atol=1e-6)


@pytest.mark.parametrize("options", [{"scales": ()}, {"scales": (0.0,)}, {"window": -1}])
def test_wrong_ways_to_predict_are_named(options):
    with pytest.raises(InputError, match="expected"):
        train.predict_probabilities(_pointwise, np.zeros((1, 4, 4, 3), np.float32), **options)


def test_evaluation_counts_every_labelled_pixel_once_whatever_the_batch_size():
    trunk = ResNet(stage_sizes=(1,), widths=(2,), features_only=True, output_stride=1)
    model = SegmentationNetwork(trunk, CLASSES, head_width=2, head_dilation=1)
    images, masks = RNG.integers(0, 256, (7, 8, 8, 3)).astype(np.uint8), _labels((7, 8, 8)).astype(np.uint8)
    sizes = np.full((7, 2), 8, np.int32)
    normalize = lambda images, sizes: images / 255.0 - 0.5  # noqa: E731
    variables = model.init(jax.random.key(0), normalize(images, sizes))
    predicted = np.asarray(jax.jit(model.apply)(variables, normalize(images, sizes))).argmax(-1)
    counted = masks != IGNORED
    expected = reference_confusion(masks[counted], predicted[counted], labels=range(CLASSES))
    eval_step = train.make_segmentation_eval_step(model, normalize, CLASSES)
    mesh = train.data_mesh(jax.devices()[:1])
    for batch_size in (3, 8):
        data = train.put_resident((images, masks, sizes), mesh, batch_size)
        run = train.make_run_evaluation(eval_step, batch_size, mesh)
        totals = run(variables, PixelTotals.zero(CLASSES), data, 7, 0, -(-7 // batch_size))
        np.testing.assert_array_equal(totals.confusion, expected)
        assert int(totals.images) == 7
