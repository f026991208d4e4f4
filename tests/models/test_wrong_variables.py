"""Variables that are not a network's are said in our words, whoever made them."""

import jax
import numpy as np
import pytest

from resjax import InputError, create_model

IMAGES = np.zeros((1, 32, 32, 3), np.float32)


def _variables(name, **fields):
    return jax.eval_shape(create_model(name, **fields).init, jax.random.key(0), IMAGES)


def _apply(name, variables, **fields):
    return jax.eval_shape(lambda v: create_model(name, **fields).apply(v, IMAGES), variables)


@pytest.mark.quick
@pytest.mark.parametrize(
    "network, given, part, message",
    [
        ("resnet_8", "resnet_8", lambda v: v["params"], "have no 'params' and no 'batch_stats'; give the whole"),
        ("resnet_8", "resnet_8", lambda v: {"params": v["params"]}, "have no 'batch_stats'; give the whole"),
        ("resnet_14", "resnet_8", dict, r"not those of this ResNet.*another depth.*stage_1/block_2"),
        ("resnet_8", "resnet_14", dict, "have 2 blocks in stage_1, this network has 1; they are of a deeper network"),
        ("wrn_10_2", "resnet_8", dict, "not those of this"),
        ("vgg_15", "resnet_8", dict, "not those of this VGG"),
    ],
)
def test_variables_that_do_not_fit_are_said(network, given, part, message):
    with pytest.raises(InputError, match=message):
        _apply(network, part(_variables(given)))


@pytest.mark.quick
def test_another_number_of_classes_is_said():
    with pytest.raises(InputError, match="another depth, width or number of classes"):
        _apply("resnet_8", _variables("resnet_8"), num_classes=5)
