"""The way back to PyTorch: what `load_torch_weights` makes of it is what it was made of."""

import numpy as np
import pytest

import resjax
from resjax import InputError, load_torch_weights, to_torch
from resjax.models import DenseNet, PreActResNet, ResNet, ResNeXt, WideResNet
from tests.helpers.pretrained_networks import bits, draw

TWO = {"stage_sizes": (1, 2), "widths": (4, 8), "num_classes": 3}
CASES = {
    "torchvision": ResNet(**TWO, stem="imagenet", shortcut="B"),
    "timm": ResNet(**TWO, block="bottleneck", shortcut="B", stem="imagenet"),
    "scanned": ResNet(**TWO, shortcut="B", scan=True),
    "kuangliu": ResNet(**TWO, shortcut="A"),  # whose zeros are split
    "weiaicunzai": ResNet(**TWO, shortcut="B"),
    "prlz77": ResNeXt(**TWO, cardinality=2, base_width=32, shortcut="B"),
    "paths": ResNeXt(**TWO, cardinality=2, base_width=32, shortcut="B", form="split_transform_sum"),
    "xternalz": WideResNet(depth=10, widening_factor=1),
    "szagoruyko": WideResNet(depth=10, widening_factor=1),
    "gpleiss": DenseNet(stage_sizes=(1, 2), growth_rate=2, stem_width=4),
    "hysts": PreActResNet(**TWO, block="basic"),
}


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_is_the_same_bit_for_bit(case, draw_variables):
    model = CASES[case]
    variables = draw(draw_variables, model)
    state_dict = to_torch(model, variables, {"scanned": "timm", "paths": "timm"}.get(case, case))
    assert all(array.flags.c_contiguous and array.flags.writeable for array in state_dict.values())
    assert bits(load_torch_weights(model, state_dict)) == bits(variables)


def test_a_counter_stands_beside_each_running_variance(draw_variables):
    model = CASES["torchvision"]
    names = to_torch(model, draw(draw_variables, model))
    assert {name for name in names if name.endswith("num_batches_tracked")} == {
        name.replace("running_var", "num_batches_tracked") for name in names if name.endswith("running_var")
    }


def test_what_has_no_way_back_is_told(draw_variables):
    model = CASES["torchvision"]
    variables = draw(draw_variables, model)
    with pytest.raises(InputError, match="expected one of the repositories torchvision, timm, .*; got 'tim'"):
        to_torch(model, variables, "tim")
    with pytest.raises(InputError, match="no PyTorch names are known for VGG"):
        to_torch(resjax.create_model("vgg_15"), {}, "timm")
    with pytest.raises(InputError, match="params/head/linear/bias is missing, left over, or of another shape"):
        to_torch(model.clone(num_classes=0), variables)
    broken = {**variables, "params": {**variables["params"], "head": {"linear": {"kernel": np.zeros((8, 3))}}}}
    with pytest.raises(InputError, match="params/head/linear/bias is missing"):
        to_torch(model, broken)
