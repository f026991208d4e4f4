"""Losses and counts of pixels against NumPy and scikit-learn; windows, scales and flips against whole images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


# The threshold alone; the least number; more than there are labels; every pixel.
@pytest.mark.parametrize(("threshold", "least"), [(0.6, 10), (0.05, 60), (0.6, 10_000), (0.6, 0)])
def test_hard_example_mining_equals_numpy_in_value_and_gradient(threshold, least):
    logits = RNG.normal(0, 2, (2, 8, 8, CLASSES)).astype(np.float32)
    labels = _labels((2, 8, 8))
    objective = train.segmentation(CLASSES, 1, threshold, least)
    loss, gradient = jax.jit(jax.value_and_grad(lambda x: objective(x, labels)[0]))(logits)
    expected, expected_gradient, kept = _reference(logits, labels, threshold, least)
    assert 0 < len(kept) and (least > 128 or len(kept) < (labels != IGNORED).sum())
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


def test_confusion_and_its_measures_equal_scikit_learn():
    labels, predicted = _labels((3, 9, 7)), RNG.integers(0, CLASSES - 1, (3, 9, 7))  # the last is never predicted
    confusion = jax.jit(lambda a, b: train.confusion_matrix(a, b, CLASSES + 1))(labels, predicted)
    counted = labels != IGNORED
    expected = reference_confusion(labels[counted], predicted[counted], labels=range(CLASSES + 1))
    np.testing.assert_array_equal(confusion, expected)
    totals = PixelTotals.zero(CLASSES + 1).replace(confusion=confusion)
    assert totals.accuracy() == (labels == predicted)[counted].mean()
    iou = [
        ((labels == k) & (predicted == k)).sum() / (((labels == k) | (predicted == k)) & counted).sum()
        for k in range(CLASSES)
    ]
    np.testing.assert_allclose(totals.class_iou()[:CLASSES], iou)
    assert np.isnan(totals.class_iou()[CLASSES])  # neither there nor predicted
    np.testing.assert_allclose(totals.mean_iou(), np.mean(iou))
    assert PixelTotals.zero(3).mean_iou() == 0


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
