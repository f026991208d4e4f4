"""A network block by block is the network, and what variants share runs once."""

import jax
import numpy as np
import pytest

from resjax import InputError, StochasticDepth, analysis
from resjax.analysis import chain as chain_module
from resjax.analysis.chain import Chain
from resjax.models import VGG, Highway, PreActResNet, ResNet, SpeedResNet

IMAGES = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "model",
    [
        ResNet(stage_sizes=(2, 1), widths=(3, 4), shortcut="B", remat="full", stochastic_depth=StochasticDepth(0.5)),
        ResNet(stage_sizes=(1, 1), widths=(3, 4), shortcut="none"),
        PreActResNet(stage_sizes=(1, 2), widths=(3, 4), order="relu_only_pre_activation", scan=True),
        Highway(stage_sizes=(1, 2), widths=(3, 4)),  # pooling and a convolution between its stages
        SpeedResNet(widths=(3, 4)),
    ],
    ids=lambda model: f"{type(model).__name__}-{getattr(model, 'shortcut', '')}",
)
def test_the_chain_is_the_network(model, draw_variables):
    variables = draw_variables(model, IMAGES)
    chain = Chain(model, variables, IMAGES)
    ((batch, number),) = chain.batches(IMAGES[:5], 8)
    x, shapes = chain.start(batch), []
    for i in range(len(chain)):
        y = chain.block(i, x)
        shapes.append(y.shape[1:])
        x = chain.behind(i, y)
    expected = jax.jit(model.apply)(variables, IMAGES[:5])
    np.testing.assert_allclose(chain.finish(y)[:number], expected, rtol=1e-4, atol=1e-5)
    assert tuple(shapes) == chain.shapes and len(chain) == (model.num_blocks or 2)


def test_what_variants_share_runs_once(draw_variables, monkeypatch):
    """Of a network of four blocks: whole, without its last, without its first, and whole again."""
    model = PreActResNet(stage_sizes=(2, 2), widths=(3, 4))
    chain, ran = Chain(model, draw_variables(model, IMAGES), IMAGES), []
    block = chain.block
    monkeypatch.setattr(chain, "block", lambda i, *args: ran.append(i) or block(i, *args))
    lesions = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]], bool)
    classes = chain.predict(
        [[(i, kept, True) for i, kept in enumerate(lesion)] for lesion in lesions.tolist()], IMAGES, 8
    )
    assert sorted(ran) == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    np.testing.assert_array_equal(classes[0], classes[3])


def test_programs_are_compiled_once_for_all_chains(draw_variables):
    """Blocks that are alike, other chains of the same network, and other values of its variables have the same."""
    images = IMAGES[:, :6, :6]
    models = [PreActResNet(stage_sizes=(1, 4), widths=(3, 5)) for _ in range(2)]
    variants = [[(i, True, True) for i in range(5)], [(i, i != 2, True) for i in range(5)]]
    before = chain_module._run_block._cache_size()
    for seed, model in enumerate(models):
        chain = Chain(model, draw_variables(model, images, seed=seed), images)
        chain.predict(variants, images, 8)
        # The first of each stage; the others with their branch and without.
        assert chain_module._run_block._cache_size() - before == 4
    other = PreActResNet(stage_sizes=(1, 4), widths=(3, 5), order="relu_only_pre_activation")
    Chain(other, draw_variables(other, images), images).predict(variants[:1], images, 8)
    assert chain_module._run_block._cache_size() - before == 7


@pytest.mark.quick
def test_a_network_without_blocks_is_named(draw_variables):
    model = VGG(stage_sizes=(1,), width=3)
    with pytest.raises(InputError, match="VGG: its stages have no blocks"):
        Chain(model, draw_variables(model, IMAGES), IMAGES)


def test_no_images_and_lesions_of_other_blocks_are_named(draw_variables):
    model = ResNet(stage_sizes=(1,), widths=(4,), stem_width=3)
    variables = draw_variables(model, IMAGES)
    lesion = np.zeros((1, 1), bool)
    with pytest.raises(InputError, match="images: expected at least one"):
        analysis.predict_without_blocks(model, variables, IMAGES[:0], lesion, batch_size=8)
    with pytest.raises(InputError, match=r"expected bool \[lesions, 1\], got shapes \(1, 2\)"):
        analysis.predict_without_blocks(model, variables, IMAGES, np.zeros((1, 2), bool), batch_size=8)
    with pytest.raises(InputError, match="images: expected at least one"):
        analysis.pooled_features(model, variables, IMAGES[:0], batch_size=8)
    with pytest.raises(InputError, match="ResNet: no block keeps the shape of its input"):
        analysis.block_refinement(model, variables, IMAGES, np.zeros(len(IMAGES), int), batch_size=8)
