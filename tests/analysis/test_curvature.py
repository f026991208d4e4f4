"""Lanczos against dense eigenvalues, and products against the dense Hessian of a tiny network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import InputError, analysis, train
from resjax.models import ResNet

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(5, 4, 4, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, 5)
MODEL = ResNet(stage_sizes=(1,), widths=(2,), num_classes=3)


@pytest.fixture(scope="module")
def hessian(draw_variables, float64):
    """Variables, and the dense Hessian [P, P] of one batch of four: central differences of the gradient, in float64.

    The step is so small that no ReLU changes sides.
    """
    variables = draw_variables(MODEL, IMAGES)
    with float64():
        model, exact = MODEL.clone(dtype=jnp.float64), jax.tree.map(np.float64, variables)
        flat, unravel = jax.flatten_util.ravel_pytree(exact["params"])

        @jax.jit
        def gradient(flat):
            def loss(flat):
                moved, images = exact | {"params": unravel(flat)}, np.float64(IMAGES[:4])
                logits, _ = model.apply(moved, images, train=True, mutable=["batch_stats"])
                return -jax.nn.log_softmax(logits)[np.arange(4), LABELS[:4]].mean()

            return jax.grad(loss)(flat)

        step = 1e-6
        steps = step * np.eye(flat.size)
        columns = [np.asarray(gradient(flat + unit) - gradient(flat - unit)) / (2 * step) for unit in steps]
    return variables, np.array(columns)


def test_products_are_those_of_the_dense_hessian(hessian):
    """Through the statistics of the batch; the fifth image fills no batch."""
    variables, dense = hessian
    product, size = analysis.loss_hessian(MODEL, variables, IMAGES, LABELS, 4, train.data_mesh(jax.devices()[:2]))
    assert dense.shape == (size, size)
    vectors = RNG.normal(size=(2, size))
    products = np.array([product(vector) for vector in vectors])
    np.testing.assert_allclose(products, vectors @ dense, atol=1e-3 * np.abs(products).max())
    assert products[0] @ vectors[1] == pytest.approx(products[1] @ vectors[0], rel=1e-3)
    found = analysis.lanczos_spectrum(product, size, steps=size)
    largest = np.linalg.eigvalsh((dense + dense.T) / 2).max()
    assert found.largest == pytest.approx(largest, rel=1e-3)


@pytest.mark.quick
def test_the_spectrum_is_that_of_the_matrix():
    """As many steps as rows: every eigenvalue, the exact density of one start, and the trace over many."""
    matrix = RNG.normal(size=(12, 12))
    matrix = matrix + matrix.T
    expected = np.linalg.eigvalsh(matrix)
    found = analysis.lanczos_spectrum(lambda v: matrix @ v, 12, seed=1, starts=400, steps=50)
    np.testing.assert_allclose(found.nodes[0], expected, atol=1e-8)
    np.testing.assert_allclose(found.weights.sum(-1), 1)
    np.testing.assert_allclose(found.weights.mean(0), np.full(12, 1 / 12), atol=0.02)
    assert (found.largest, found.smallest) == (pytest.approx(expected.max()), pytest.approx(expected.min()))
    assert found.trace == pytest.approx(np.trace(matrix), abs=4 * np.linalg.norm(matrix) / 20)
    grid = np.linspace(-20, 20, 2001)
    density = found.density(grid, 0.2)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
    assert np.trapezoid(density * grid, grid) * 12 == pytest.approx(found.trace, rel=1e-2, abs=1e-2)


@pytest.mark.quick
def test_a_few_steps_find_the_largest_and_an_invariant_subspace_ends_nothing():
    values = np.concatenate([np.linspace(-1, 1, 300), [40.0]])
    few = analysis.lanczos_spectrum(lambda v: values * v, 301, steps=15)
    assert few.largest == pytest.approx(40, abs=1e-6) and few.nodes.shape == (1, 15)
    identity = analysis.lanczos_spectrum(lambda v: v, 6, steps=6)
    np.testing.assert_allclose(identity.nodes, 1)
    assert identity.trace == pytest.approx(6)
    with pytest.raises(InputError, match="size, starts, steps: expected positive integers, got 6, 0 and 3"):
        analysis.lanczos_spectrum(lambda v: v, 6, starts=0, steps=3)
    with pytest.raises(InputError, match="expected as many labels as images, got 5 and 4"):
        analysis.loss_hessian(MODEL, {}, IMAGES, LABELS[:4])
