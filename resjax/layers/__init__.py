"""The layers of every network."""

from resjax.layers.activation import gelu, relu
from resjax.layers.backend import networks_in_a_loop, plain_convolutions, split_batch
from resjax.layers.bias import Bias
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
    DepthScaling,
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
from resjax.layers.streams import MIXING, AttentionResiduals, DepthAttention, HyperConnections, StreamMixing, Streams

__all__ = [
    "CONV_OUTPUT",
    "INITIALIZERS",
    "MIXING",
    "MOMENTS",
    "ORDERS",
    "REMAT_POLICIES",
    "STEMS",
    "STEM_STRIDES",
    "AttentionResiduals",
    "BatchNorm",
    "Bias",
    "BlockSpec",
    "ClassifierHead",
    "ConstantScaling",
    "Conv",
    "ConvSpec",
    "DepthAttention",
    "DepthScaling",
    "Dropout",
    "EffectivePaths",
    "Gates",
    "Gating",
    "HyperConnections",
    "Initializer",
    "LearnedScaling",
    "Order",
    "ResidualBlock",
    "ShortcutDropout",
    "ShortcutVariant",
    "Stage",
    "StageSpec",
    "Stem",
    "StochasticDepth",
    "StreamMixing",
    "Streams",
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
