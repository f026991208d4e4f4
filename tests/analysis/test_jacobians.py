"""Singular values and vectors of residual Jacobians against the matrices themselves, in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resjax
from resjax import InputError, analysis, train
from resjax.analysis.chain import Chain
from resjax.models import PreActResNet, ResNet

IMAGES = np.random.default_rng(0).normal(size=(2, 4, 4, 3))


def dense(chain, i, x, skips):
    """The Jacobian [N, d, d] of a block less that of its shortcut, through the activation behind both."""
    program, d = chain.program(i), x[0].size

    def jacobians(branch):
        def block(flat):
            return program(chain.parameters[i], flat.reshape(1, *x.shape[1:]), resjax.Gates(branch=branch)).ravel()

        return np.stack([jax.jacobian(block)(image.ravel()) for image in x])

    whole = jacobians(1.0)
    if skips == "original":  # the shortcut is the identity
        return whole - (chain.block(i, x).reshape(-1, d, 1) > 0) * np.eye(d)
    return whole - jacobians(0.0) if skips else whole


@pytest.mark.parametrize(
    ("model", "skips"),
    [
        (PreActResNet(stage_sizes=(2,), widths=(3,)), "full_pre_activation"),
        (ResNet(stage_sizes=(2,), widths=(3,)), "original"),
        (ResNet(stage_sizes=(2,), widths=(3,), shortcut="none"), None),
    ],
    ids=["preactivated", "original", "plain"],
)
def test_singular_vectors_are_those_of_the_dense_jacobians(model, skips, draw_variables, float64):
    variables, k = draw_variables(model, IMAGES), 4
    found = analysis.residual_jacobians(model, variables, IMAGES, count=k, steps=12)  # 52 vectors span all 48
    parts = []
    with float64():
        doubled = jax.tree.map(np.float64, variables)
        chain = Chain(model.clone(dtype=jnp.float64), doubled, IMAGES, train.data_mesh(jax.devices()[:1]))
        x = chain.start(jnp.asarray(IMAGES))
        for i in range(2):
            matrix = dense(chain, i, x, skips)
            parts.append((matrix, *np.linalg.svd(matrix)))
            x = chain.block(i, x)
        assert x.dtype == np.float64
    assert found.blocks == (0, 1) and found.sizes == (48, 48)
    tops = [(matrix, u[..., :k], s[:, :k], np.swapaxes(v, 1, 2)[..., :k]) for matrix, u, s, v in parts]
    np.testing.assert_allclose(found.singular_values, [s for _, _, s, _ in tops], rtol=1e-4)

    def overlap(a, b):
        return np.square(np.swapaxes(a, 1, 2) @ b).sum((1, 2)) / k

    np.testing.assert_allclose(found.within, [overlap(u, v) for _, u, _, v in tops], atol=1e-4)
    np.testing.assert_allclose(found.left, [overlap(a[1], b[1]) for a, b in itertools.pairwise(tops)], atol=1e-4)
    np.testing.assert_allclose(found.right, [overlap(a[3], b[3]) for a, b in itertools.pairwise(tops)], atol=1e-4)
    for i, j in np.ndindex(2, 2):
        matrix, _, s, _ = tops[i]
        _, u, _, v = tops[j]
        diagonal = np.einsum("ndk,nde,nek->nk", u, matrix, v)
        np.testing.assert_allclose(found.shared[i, j], (np.abs(diagonal).sum(1) / s.sum(1)).mean(), atol=1e-4)
    np.testing.assert_allclose(np.diag(found.shared), 1, atol=1e-5)


def test_energy_is_an_estimate_of_the_fraction(draw_variables):
    """With as many singular values as the Jacobian has, all of the norm."""
    model = PreActResNet(stage_sizes=(1,), widths=(3,))
    images = np.float32(np.random.default_rng(1).normal(size=(3, 4, 4, 3)))
    found = analysis.residual_jacobians(model, draw_variables(model, images), images, count=48, steps=1)
    np.testing.assert_allclose(found.energy, 1, atol=0.25)
    np.testing.assert_allclose(found.within, 1, atol=1e-4)


def test_stages_are_apart_and_wrong_input_is_named(draw_variables):
    model = ResNet(stage_sizes=(2, 2), widths=(3, 4))
    images = np.float32(IMAGES)
    variables = draw_variables(model, images)
    found = analysis.residual_jacobians(model, variables, images, count=2, steps=1)
    assert found.blocks == (0, 1, 3) and found.stages == ("stage_1", "stage_1", "stage_2")
    assert np.isfinite(found.left[0]).all() and np.isnan(found.left[1]).all() and np.isnan(found.shared[0, 2])
    for images_, options, message in (
        (images, {"count": 0}, "count, steps: expected positive integers, got 0 and 6"),
        (images, {"count": 17}, "count: expected at most 16, the size of the smallest Jacobian, got 17"),
        (images[:0], {}, "images: expected at least one"),
    ):
        with pytest.raises(InputError, match=message):
            analysis.residual_jacobians(model, variables, images_, **options)
    narrow = ResNet(stage_sizes=(1,), widths=(4,), stem_width=3)
    with pytest.raises(InputError, match="no block keeps the shape"):
        analysis.residual_jacobians(narrow, draw_variables(narrow, images), images, count=2)
