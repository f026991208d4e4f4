"""The layers of every network."""

from resjax.layers.activation import gelu, relu
from resjax.layers.backend import networks_in_a_loop, plain_convolutions, split_batch
from resjax.layers.block import ORDERS, BlockSpec, ConvSpec, Order, ResidualBlock
from resjax.layers.conv import CONV_OUTPUT, Conv, conv2d
from resjax.layers.dropout import Dropout, require_key
from resjax.layers.gates import Gates, run_if_active, scale
from resjax.layers.head import ClassifierHead
from resjax.layers.initializers import INITIALIZERS, Initializer, initializer
from resjax.layers.norm import MOMENTS, BatchNorm, empty_moments
from resjax.layers.pool import max_pool, max_pool_halved
from resjax.layers.shortcut import (
    ConstantScaling,
    Gating,
    LearnedScaling,
    ShortcutDropout,
    ShortcutVariant,
    average_and_pad,
    subsample_and_pad,
)
from resjax.layers.stage import REMAT_POLICIES, Stage, StageSpec
from resjax.layers.stem import STEM_STRIDES, STEMS, Stem
from resjax.layers.stochastic_depth import EffectivePaths, StochasticDepth

__all__ = [
    "CONV_OUTPUT",
    "INITIALIZERS",
    "MOMENTS",
    "ORDERS",
    "REMAT_POLICIES",
    "STEMS",
    "STEM_STRIDES",
    "BatchNorm",
    "BlockSpec",
    "ClassifierHead",
    "ConstantScaling",
    "Conv",
    "ConvSpec",
    "Dropout",
    "EffectivePaths",
    "Gates",
    "Gating",
    "LearnedScaling",
    "Initializer",
    "Order",
    "ResidualBlock",
    "ShortcutDropout",
    "ShortcutVariant",
    "Stage",
    "StageSpec",
    "Stem",
    "StochasticDepth",
    "average_and_pad",
    "conv2d",
    "empty_moments",
    "gelu",
    "initializer",
    "max_pool",
    "max_pool_halved",
    "networks_in_a_loop",
    "plain_convolutions",
    "relu",
    "require_key",
    "run_if_active",
    "scale",
    "split_batch",
    "subsample_and_pad",
]
