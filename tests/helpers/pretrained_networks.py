"""Small networks to be saved, and how their variables are drawn and compared."""

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

import resjax
from resjax.models import VGG, DenseNet, Highway, PreActResNet, ResNet, ResNeXt, SpeedResNet, WideResNet, WiderResNet

TWO = {"stage_sizes": (1, 2), "widths": (4, 6)}
NETWORKS = {
    "resnet": ResNet(
        **TWO, num_classes=3, stochastic_depth=resjax.StochasticDepth(0.7, "constant", True, True), kernel_init="xavier"
    ),
    "preresnet": PreActResNet(**TWO, shortcut_variant=resjax.Gating(False, -2.0), dtype=jnp.float16),
    "preresnet_scaled": PreActResNet(**TWO, shortcut_variant=resjax.ConstantScaling(0.25, 0.75)),
    "preresnet_depth_scaled": PreActResNet(**TWO, shortcut_variant=resjax.DepthScaling(0.25)),
    "preresnet_streams": PreActResNet(**TWO, streams=resjax.HyperConnections(2, dynamic=True)),
    "preresnet_dropout": PreActResNet(**TWO, shortcut_variant=resjax.ShortcutDropout(0.3)),
    "wrn": WideResNet(depth=10, widening_factor=1, block_type=(1, 3), dtype=jnp.bfloat16),
    "resnext": ResNeXt(stage_sizes=(1,), widths=(8,), cardinality=2, base_width=16, form="split_transform_sum"),
    "densenet": DenseNet(stage_sizes=(1, 2), growth_rate=2, stem_width=4, num_classes=0, memory_efficient=True),
    "highway_flat": resjax.create_model("highway_10_2", num_classes=3),
    "highway": Highway(stage_sizes=(1, 1), widths=(3, 4), head_width=None, dtype=jnp.bfloat16),
    "vgg": VGG(stage_sizes=(1, 2), width=3, norm_scale_init="uniform"),
    "speed": SpeedResNet(widths=(3, 4), logit_scale=0.5),
    "wider": WiderResNet(
        variant="a2", stage_sizes=(1,) * 6, widths=((2, 3),) * 3 + ((2, 3, 4),) * 3, dropout_rates=(0.3, 0.5)
    ),
}
MODEL = NETWORKS["resnet"]


def bits(variables):
    """Dtype, shape and bytes of every array by its path."""
    arrays = {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(variables).items()}
    return {path: (array.dtype, array.shape, array.tobytes()) for path, array in arrays.items()}


def draw(draw_variables, model, channels=3):
    return draw_variables(model, np.zeros((1, model.minimum_size, model.minimum_size, channels), np.float32))
