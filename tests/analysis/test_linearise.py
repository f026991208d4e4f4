"""Networks whose ReLUs are replaced, against networks that are built without them."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from resjax import InputError, analysis, train
from resjax.layers import BatchNorm
from resjax.models import VGG, DenseNet, PreActResNet, ResNet, SpeedResNet

IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)


def test_replaced_relus_are_the_identity(draw_variables):
    """Of a chain of BN and ReLU: BN without its activation, in turn. Two batches of the six images."""
    model = VGG(stage_sizes=(1, 1), width=4)
    variables = draw_variables(model, IMAGES)
    assert analysis.count_nonlinearities(model, variables, IMAGES) == 2
    linear = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], bool)
    found = analysis.predict_linearised(model, variables, IMAGES, linear, 2, train.data_mesh(jax.devices()[:1]))
    for gates, classes in zip(linear, found, strict=True):
        parts = []
        for start in (0, 2, 4):
            gate = iter(gates)

            def without(layer, args, kwargs, context, gate=gate):
                if isinstance(context.module, BatchNorm) and context.method_name == "__call__" and next(gate):
                    args = args[:2]  # without the activation
                return layer(*args, **kwargs)

            with nn.intercept_methods(without):
                logits, _ = model.apply(variables, IMAGES[start : start + 2], train=True, mutable=["batch_stats"])
            parts.append(logits.argmax(-1))
        np.testing.assert_array_equal(classes, np.concatenate(parts))


class LinearBlocks(ResNet):
    """Blocks whose nonlinearity is the identity."""

    def stages(self):
        return [
            spec._replace(
                transition=dataclasses.replace(spec.transition, activation=lambda x: x),
                block=dataclasses.replace(spec.block, activation=lambda x: x),
            )
            for spec in super().stages()
        ]


def test_relus_behind_the_addition_are_replaced_too(draw_variables):
    fields = {"stage_sizes": (1, 1), "widths": (3, 4)}
    variables = draw_variables(ResNet(**fields), IMAGES)
    linear = np.array([[False, True, True, True, True]])  # the stem's stays
    mesh = train.data_mesh(jax.devices()[:1])
    found = analysis.predict_linearised(ResNet(**fields), variables, IMAGES, linear, 6, mesh)
    expected, _ = LinearBlocks(**fields).apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(found[0], expected.argmax(-1))


@pytest.mark.parametrize(
    ("model", "number"),
    [
        (ResNet(stage_sizes=(1, 2), widths=(3, 4)), 7),  # one of the stem, two of each block
        (PreActResNet(stage_sizes=(1, 3), widths=(3, 4), scan=True, remat="full"), 9),
        (DenseNet(stage_sizes=(2, 1), growth_rate=3), 8),  # two of each layer, the transition's, the last
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_relu_has_a_gate(model, number, draw_variables):
    variables = draw_variables(model, IMAGES)
    assert analysis.count_nonlinearities(model, variables, IMAGES) == number


def test_wrong_input_is_named(draw_variables):
    model = ResNet(stage_sizes=(1,), widths=(3,))
    variables = draw_variables(model, IMAGES)
    with pytest.raises(InputError, match=r"linear: expected bool \[networks, 3\], got shape \(1, 2\)"):
        analysis.predict_linearised(model, variables, IMAGES, np.zeros((1, 2), bool))
    model = SpeedResNet(widths=(3, 4))
    with pytest.raises(InputError, match="SpeedResNet: has no ReLU"):
        analysis.count_nonlinearities(model, draw_variables(model, IMAGES), IMAGES)
