"""Explanations of a classifier's answer, against what they must be: sums, linear networks, hidden pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import resjax
from resjax.analysis import grad_cam, integrated_gradients, occlusion
from resjax.errors import InputError

MODEL = resjax.create_model("resnet_8", widths=(4, 8, 8), num_classes=5)
IMAGES = np.random.default_rng(0).normal(size=(3, 16, 20, 3)).astype(np.float32)
CLASSES = jnp.array([0, 3, 4])


@pytest.fixture(scope="module")
def variables(draw_variables):
    return draw_variables(MODEL, IMAGES)


class Linear(nn.Module):
    """Logits that are sums over pixels."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, images, train=False):
        weights = self.param("weights", nn.initializers.normal(), (*images.shape[1:], self.num_classes))
        return jnp.einsum("nhwc,hwck->nk", images, weights)


def test_behind_a_mean_and_a_linear_layer_grad_cam_is_the_class_activation_map(variables):
    """Selvaraju et al. 2017, section 3.1: it generalises CAM (Zhou et al. 2016), the weighted sum of the features."""
    found = jax.jit(functools.partial(grad_cam, MODEL))(variables, IMAGES, CLASSES)
    features = MODEL.clone(features_only=True).apply(variables, IMAGES)["final"]
    kernel = np.asarray(variables["params"]["head"]["linear"]["kernel"])[:, CLASSES]
    n, height, width, _ = features.shape
    expected = np.maximum(np.einsum("nhwc,cn->nhw", features, kernel), 0) / (height * width)
    assert found.shape == (n, height, width)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


@pytest.mark.parametrize("name, fields", [("speed_resnet", {"widths": (4, 8, 8)}), ("densenet_bc_10_4", {})])
def test_grad_cam_takes_other_heads(name, fields, draw_variables):
    model = resjax.create_model(name, **fields)
    maps = grad_cam(model, draw_variables(model, IMAGES), IMAGES, CLASSES)
    assert maps.shape[0] == 3 and (maps >= 0).all() and maps.max() > 0


def test_integrated_gradients_are_complete(variables):
    """Sundararajan et al. 2017, proposition 1: they add up to the difference of the logits, the better the finer."""
    baseline = np.full((16, 20, 3), 0.1, np.float32)
    explain = jax.jit(functools.partial(integrated_gradients, MODEL), static_argnames="steps")
    logits = [np.asarray(MODEL.apply(variables, images)) for images in (IMAGES, np.tile(baseline, (3, 1, 1, 1)))]
    expected = (logits[0] - logits[1])[range(3), CLASSES]
    errors = []
    for steps in (4, 256):
        found = explain(variables, IMAGES, CLASSES, baseline, steps=steps)
        assert found.shape == IMAGES.shape
        errors.append(np.abs(found.sum((1, 2, 3)) - expected).max() / np.abs(expected).max())
    assert errors[1] < 0.01 and errors[1] < errors[0]


def test_of_a_linear_network_they_are_its_terms():
    model = Linear()
    variables = model.init(jax.random.key(0), IMAGES)
    terms = np.asarray(IMAGES * np.moveaxis(variables["params"]["weights"][..., jnp.array([0, 1, 1])], -1, 0))
    found = integrated_gradients(model, variables, IMAGES, jnp.array([0, 1, 1]), steps=3)
    np.testing.assert_allclose(found, terms, rtol=1e-4, atol=1e-6)


def test_occlusion_is_what_hiding_each_square_costs(variables):
    """Against squares hidden one by one in NumPy."""
    window, stride = 6, 3
    found = jax.jit(functools.partial(occlusion, MODEL, window=window, stride=stride, value=0.5))(
        variables, IMAGES, CLASSES
    )
    apply = jax.jit(lambda images: jax.nn.softmax(MODEL.apply(variables, images))[jnp.arange(3), CLASSES])
    lost, number = np.zeros(IMAGES.shape[:3]), np.zeros(IMAGES.shape[1:3])
    for top in range(stride - window, 16, stride):
        for left in range(stride - window, 20, stride):
            part = (slice(max(top, 0), top + window), slice(max(left, 0), left + window))
            hidden = IMAGES.copy()
            hidden[:, *part] = 0.5
            lost[:, *part] += np.asarray(apply(IMAGES) - apply(hidden))[:, None, None]
            number[part] += 1
    assert (number == (window // stride) ** 2).all(), "each pixel is hidden as often"
    np.testing.assert_allclose(found, lost / number, atol=1e-5)


def test_a_pixel_that_nobody_reads_explains_nothing():
    model = Linear()
    variables = model.init(jax.random.key(0), IMAGES)
    weights = variables["params"]["weights"].at[:, 10:].set(0)
    variables = {"params": {"weights": weights}}
    classes = jnp.zeros(3, int)
    assert not np.asarray(integrated_gradients(model, variables, IMAGES, classes))[:, :, 10:].any()
    hidden = np.asarray(occlusion(model, variables, IMAGES, classes, window=2, stride=2))
    assert np.abs(hidden[:, :, 10:]).max() < 1e-6 < np.abs(hidden[:, :, :10]).max()


def test_what_cannot_be_explained_is_told(variables):
    with pytest.raises(InputError, match=r"classes: expected one for each of 3 images, got shape \(2,\)"):
        integrated_gradients(MODEL, variables, IMAGES, jnp.zeros(2, int))
    with pytest.raises(InputError, match="grad_cam: expected a classifier of resjax.models, got ResNet without one"):
        grad_cam(MODEL.clone(num_classes=0), variables, IMAGES, CLASSES)
    with pytest.raises(InputError, match="a multiple of the stride, got 4 and 3"):
        occlusion(MODEL, variables, IMAGES, CLASSES, window=4, stride=3)
    with pytest.raises(InputError, match="expected at least one step, got 0"):
        integrated_gradients(MODEL, variables, IMAGES, CLASSES, steps=0)
