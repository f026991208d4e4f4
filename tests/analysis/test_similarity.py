"""CKA against its definition in NumPy's float64, term by term."""

import itertools

import jax
import numpy as np
import pytest

from resjax import InputError, analysis, train
from resjax.models import VGG, ResNet

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(19, 8, 8, 3)).astype(np.float32)
MODEL = ResNet(stage_sizes=(1, 2), widths=(3, 4), shortcut="B")
PLAIN = VGG(stage_sizes=(1, 1), width=4)


def _hsic(k, l):  # noqa: E741
    """Song et al. 2012, eq. 4: the mean over all images that differ, (i, j), (i, j, q) and (i, j, q, r)."""
    n = len(k)
    several = {size: list(itertools.permutations(range(n), size)) for size in (2, 3, 4)}
    pairs = np.mean([k[i, j] * l[i, j] for i, j in several[2]])
    triples = np.mean([k[i, j] * l[i, q] for i, j, q in several[3]])
    quadruples = np.mean([k[i, j] * l[q, r] for i, j, q, r in several[4]])
    return pairs - 2 * triples + quadruples


@pytest.mark.quick
def test_hsic_is_the_mean_over_images_that_differ():
    features = [RNG.normal(size=(6, 3)), RNG.normal(size=(6, 2)) + 5]
    grams = np.stack([x @ x.T for x in features])
    expected = [[_hsic(k, l) for l in grams] for k in grams]  # noqa: E741
    np.testing.assert_allclose(analysis.unbiased_hsic(grams), expected, rtol=1e-10)


@pytest.mark.quick
def test_linear_cka_is_that_of_the_covariances():
    x, y = RNG.normal(size=(30, 5)) + 3, RNG.normal(size=(30, 4))
    y[:, :3] += x[:, :3]
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.square(b.T @ a).sum() / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    assert analysis.linear_cka(x, y) == pytest.approx(expected)
    rotation = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    assert analysis.linear_cka(x, 0.1 * x @ rotation + 1) == pytest.approx(1)


@pytest.fixture(scope="module")
def networks(draw_variables):
    return [(model, draw_variables(model, IMAGES), IMAGES) for model in (MODEL, PLAIN)]


def test_blocks_are_compared_in_mini_batches(networks):
    """Two batches of eight images on two devices; the three images behind them are not read."""
    names, cka = analysis.block_similarity(networks, 8, train.data_mesh(jax.devices()[:2]))
    assert names == [
        ("stage_1/block_1", "stage_2/block_1", "stage_2/block_2"),
        ("stage_1/norm_1", "stage_2/norm_1"),
    ]
    capture, values = {"capture_intermediates": True, "mutable": ["intermediates"]}, []
    for model, variables, images in networks:
        _, state = jax.jit(lambda v, x, model=model: model.apply(v, x, **capture))(variables, images[:16])
        for path in names[len(values) > 0]:
            stage, block = path.split("/")
            values.append(np.asarray(state["intermediates"][stage][block]["__call__"][0], np.float64).reshape(16, -1))
    sums = 0
    for batch in (slice(8), slice(8, 16)):
        grams = np.stack([x[batch] @ x[batch].T for x in values])
        sums = sums + np.array([[_hsic(k, l) for l in grams] for k in grams])  # noqa: E741
    expected = sums / np.sqrt(np.outer(np.diag(sums), np.diag(sums)))
    np.testing.assert_allclose(cka, expected, atol=2e-4)
    np.testing.assert_allclose(np.diag(cka), 1)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analysis.linear_cka(np.ones((3, 2)), np.ones((4, 2))), r"x, y: expected float \[N, P\] and \[N, Q\]"),
        (lambda: analysis.linear_cka(np.ones((3, 2)), np.eye(3)), "the same for all images"),
        (lambda: analysis.unbiased_hsic(np.ones((2, 3, 3))), "grams: expected .* n >= 4"),
        (lambda: analysis.block_similarity([(MODEL, {}, IMAGES[:3])]), "4 images or more in a batch, got 3"),
        (
            lambda: analysis.block_similarity([(MODEL, {}, IMAGES), (MODEL, {}, IMAGES[:5])]),
            r"the same images for all, got \[19, 5\]",
        ),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
