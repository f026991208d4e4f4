"""Cosines against gradients of what is behind a block, and unrolled blocks against networks that are built so."""

import jax
import numpy as np
import pytest

from resjax import InputError, analysis, train
from resjax.analysis.chain import Chain
from resjax.models import PreActResNet, ResNet, restack

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(5, 8, 8, 3)).astype(np.float32)
LABELS = RNG.integers(0, 10, 5)
MODEL = PreActResNet(stage_sizes=(1, 2), widths=(3, 4))


@pytest.fixture(scope="module")
def variables(draw_variables):
    return draw_variables(MODEL, IMAGES)


def test_cosines_are_those_of_the_gradient_at_the_block(variables):
    """Of blocks 1 and 3; the second changes the shape."""
    mesh = train.data_mesh(jax.devices()[:2])
    found = analysis.block_refinement(MODEL, variables, IMAGES, LABELS, 4, mesh)
    assert found.blocks == (0, 2)
    chain = Chain(MODEL, variables, IMAGES, train.data_mesh(jax.devices()[:1]))
    programs = [chain.program(i) for i in range(3)]

    def behind(x, first):
        for i in range(first, 3):
            x = programs[i](chain.parameters[i], x, chain.gates(i))
        return -jax.nn.log_softmax(chain.rest.after(chain.variables, x))[np.arange(5), LABELS].sum()

    first = chain.start(IMAGES)
    inputs = {0: first, 2: chain.block(1, chain.block(0, first))}
    for row, i in enumerate(found.blocks):
        x = inputs[i]
        gradient = np.float64(jax.jit(jax.grad(behind), static_argnums=1)(x, i)).reshape(5, -1)
        change = (np.float64(chain.block(i, x)) - np.float64(x)).reshape(5, -1)
        norms = [np.linalg.norm(values, axis=1) for values in (change, gradient, np.float64(x).reshape(5, -1))]
        np.testing.assert_allclose(found.cosines[row], (change * gradient).sum(1) / norms[0] / norms[1], atol=1e-4)
        np.testing.assert_allclose(found.ratios[row], norms[0] / norms[2], rtol=1e-4)


def test_an_unrolled_network_is_built_with_its_last_block_again(variables):
    classes = analysis.predict_unrolled(MODEL, variables, IMAGES, 2, batch_size=8)
    for times in (0, 1, 2):
        blocks = {}
        for collection, tree in restack(variables, ()).items():
            stage = dict(tree["stage_2"])
            last = stage.pop("block_2")
            blocks[collection] = tree | {"stage_2": stage | {f"block_{i + 2}": last for i in range(times)}}
        built = jax.jit(MODEL.clone(stage_sizes=(1, 1 + times)).apply)(blocks, IMAGES)
        np.testing.assert_array_equal(classes[times], built.argmax(-1))


@pytest.mark.quick
def test_wrong_input_is_named(variables, draw_variables):
    with pytest.raises(InputError, match="expected as many labels as images, got 5 and 3"):
        analysis.block_refinement(MODEL, variables, IMAGES, LABELS[:3])
    with pytest.raises(InputError, match="repeats: expected a positive integer, got 0"):
        analysis.predict_unrolled(MODEL, variables, IMAGES, 0)
    short = ResNet(stage_sizes=(1, 1), widths=(3, 4))
    with pytest.raises(InputError, match="its last block changes the shape"):
        analysis.predict_unrolled(short, draw_variables(short, IMAGES), IMAGES, 1)
