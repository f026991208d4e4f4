"""State dictionaries as each PyTorch repository's constructors make them, with random values, and our paths."""

import numpy as np

from resjax.models import DenseNet, PreActResNet, ResNet, ResNeXt, WideResNet


class Listing:
    """Entries {their name: array}, and for each the path of our array, {their name: path}."""

    def __init__(self):
        self.entries, self.paths, self.rng = {}, {}, np.random.default_rng(0)

    def add(self, theirs, ours, *shape):
        self.entries[theirs] = self.rng.uniform(0.5, 1.5, shape).astype(np.float32)
        self.paths[theirs] = ours

    def conv(self, theirs, ours, outputs, inputs, size, suffix=".weight"):
        self.add(theirs + suffix, f"params/{ours}/kernel", outputs, inputs, size, size)

    def norm(self, theirs, ours, features):
        self.add(f"{theirs}.weight", f"params/{ours}/scale", features)
        self.add(f"{theirs}.bias", f"params/{ours}/bias", features)
        self.add(f"{theirs}.running_mean", f"batch_stats/{ours}/mean", features)
        self.add(f"{theirs}.running_var", f"batch_stats/{ours}/var", features)
        self.entries[f"{theirs}.num_batches_tracked"] = np.array(7)

    def linear(self, theirs, inputs, outputs=10):
        self.add(f"{theirs}.weight", "params/head/linear/kernel", outputs, inputs)
        self.add(f"{theirs}.bias", "params/head/linear/bias", outputs)


def post_activation(downsample="downsample", head="fc", channels=3):
    """torchvision's BasicBlock network at the widths of CIFAR (chenyaofo), or kuangliu's."""
    listing = Listing()
    listing.conv("conv1", "stem/conv", 4, channels, 3)
    listing.norm("bn1", "stem/norm", 4)
    for i, width in enumerate((4, 8), start=1):
        for j in range(2):
            theirs, ours = f"layer{i}.{j}", f"stage_{i}/block_{j + 1}"
            inputs = width // 2 if (i, j) == (2, 0) else width
            listing.conv(f"{theirs}.conv1", f"{ours}/conv_1", width, inputs, 3)
            listing.norm(f"{theirs}.bn1", f"{ours}/norm_1", width)
            listing.conv(f"{theirs}.conv2", f"{ours}/conv_2", width, width, 3)
            listing.norm(f"{theirs}.bn2", f"{ours}/norm_2", width)
            if inputs != width:
                listing.conv(f"{theirs}.{downsample}.0", f"{ours}/shortcut_conv", width, inputs, 1)
                listing.norm(f"{theirs}.{downsample}.1", f"{ours}/shortcut_norm", width)
    listing.linear(head, 8)
    return listing


def two_stages(first, second):
    """torchvision's entries of a network of two stages of one block."""
    listing = Listing()
    listing.conv("conv1", "stem/conv", first, 3, 3)
    listing.norm("bn1", "stem/norm", first)
    for i, (inputs, width) in enumerate(((first, first), (first, second)), start=1):
        listing.conv(f"layer{i}.0.conv1", "", width, inputs, 3)
        listing.norm(f"layer{i}.0.bn1", "", width)
        listing.conv(f"layer{i}.0.conv2", "", width, width, 3)
        listing.norm(f"layer{i}.0.bn2", "", width)
    listing.conv("layer2.0.downsample.0", "", second, first, 1)
    listing.norm("layer2.0.downsample.1", "", second)
    listing.linear("fc", second)
    return listing.entries


POST_ACTIVATION = ResNet(stage_sizes=(2, 2), widths=(4, 8), shortcut="B")


def prlz77():
    listing = Listing()
    listing.conv("conv_1_3x3", "stem/conv", 64, 3, 3)
    listing.norm("bn_1", "stem/norm", 64)
    inputs = 64
    for i, width in enumerate((64, 128), start=1):
        theirs, ours, inner = f"stage_{i}.stage_{i}_bottleneck_0", f"stage_{i}/block_1", width // 4
        listing.conv(f"{theirs}.conv_reduce", f"{ours}/conv_1", inner, inputs, 1)
        listing.norm(f"{theirs}.bn_reduce", f"{ours}/norm_1", inner)
        listing.conv(f"{theirs}.conv_conv", f"{ours}/conv_2", inner, inner // 4, 3)
        listing.norm(f"{theirs}.bn", f"{ours}/norm_2", inner)
        listing.conv(f"{theirs}.conv_expand", f"{ours}/conv_3", 4 * width, inner, 1)
        listing.norm(f"{theirs}.bn_expand", f"{ours}/norm_3", 4 * width)
        listing.conv(f"{theirs}.shortcut.shortcut_conv", f"{ours}/shortcut_conv", 4 * width, inputs, 1)
        listing.norm(f"{theirs}.shortcut.shortcut_bn", f"{ours}/shortcut_norm", 4 * width)
        inputs = 4 * width
    listing.linear("classifier", inputs)
    return listing


RESNEXT = ResNeXt(stage_sizes=(1, 1), widths=(64, 128), cardinality=4, base_width=4)


def pre_activation(stem, block, conv, norm, shortcut, final, widths, first=1, suffix=".weight"):
    """A network with pre-activation, from the names of its modules; `first` is the number of a first conv."""
    listing = Listing()
    listing.conv(stem, "stem/conv", 16, 3, 3, suffix)
    inputs = 16
    for i, width in enumerate(widths, start=1):
        theirs, ours = block.format(i=i, i0=i - 1), f"stage_{i}/block_1"
        listing.norm(f"{theirs}.{norm}{first}", f"{ours}/norm_1", inputs)
        listing.conv(f"{theirs}.{conv}{first}", f"{ours}/conv_1", width, inputs, 3, suffix)
        listing.norm(f"{theirs}.{norm}{first + 1}", f"{ours}/norm_2", width)
        listing.conv(f"{theirs}.{conv}{first + 1}", f"{ours}/conv_2", width, width, 3, suffix)
        if inputs != width:
            listing.conv(f"{theirs}.{shortcut}", f"{ours}/shortcut_conv", width, inputs, 1, suffix)
        inputs = width
    if final:
        listing.norm(final, "final_norm", inputs)
    listing.linear("fc" if final else "linear", inputs)
    return listing


WIDE = WideResNet(depth=10, widening_factor=2)
PRE_ACTIVATION = PreActResNet(stage_sizes=(1, 1, 1), widths=(16, 32, 64), shortcut="B")
HYSTS = ("conv", "stage{i}.block1", "conv", "bn", "shortcut.conv", "bn")


def dense(stem, layer, norm, conv, transition, final, head, large=False):
    """DenseNet of two stages of two layers with bottlenecks, k = 4; the names of its modules are given."""
    listing = Listing()
    listing.conv(stem, "stem/conv", 8, 3, 7 if large else 3)
    if large:
        listing.norm("features.norm0", "stem/norm", 8)
    inputs = 8
    for i in (1, 2):
        if i == 2:
            listing.norm(f"{transition}.{'norm' if large else 'bn1'}", "transition_1/norm", inputs)
            listing.conv(f"{transition}.{'conv' if large else 'conv1'}", "transition_1/conv", inputs // 2, inputs, 1)
            inputs //= 2
        for j in (1, 2):
            theirs, ours = layer.format(i=i, j=j, j0=j - 1), f"stage_{i}/layer_{j}"
            listing.norm(f"{theirs}.{norm}1", f"{ours}/norm_1", inputs)
            listing.conv(f"{theirs}.{conv}1", f"{ours}/conv_1", 16, inputs, 1)
            listing.norm(f"{theirs}.{norm}2", f"{ours}/norm_2", 16)
            listing.conv(f"{theirs}.{conv}2", f"{ours}/conv_2", 4, 16, 3)
            inputs += 4
    listing.norm(final, "final_norm", inputs)
    listing.linear(head, inputs)
    return listing


DENSE = DenseNet(stage_sizes=(2, 2), growth_rate=4, stem_width=8)
LARGE_DENSE = DENSE.clone(stem="imagenet")
TORCHVISION_DENSE = ("features.conv0", "features.denseblock{i}.denselayer{j}")
TRANSITION = "features.transition1"

REPOSITORIES = {
    "torchvision": (POST_ACTIVATION, post_activation()),
    "torchvision, one channel": (POST_ACTIVATION, post_activation(channels=1)),
    "kuangliu": (POST_ACTIVATION, post_activation("shortcut", "linear")),
    "prlz77": (RESNEXT, prlz77()),
    "xternalz": (
        WIDE,
        pre_activation("conv1", "block{i}.layer.0", "conv", "bn", "convShortcut", "bn1", (32, 64, 128)),
    ),
    "szagoruyko": (
        WIDE,
        pre_activation("conv0", "group{i0}.block0", "conv", "bn", "convdim", "bn", (32, 64, 128), 0, ""),
    ),
    "hysts wrn": (WIDE, pre_activation(*HYSTS, (32, 64, 128))),
    "hysts": (PRE_ACTIVATION, pre_activation(*HYSTS, (16, 32, 64))),
    "torchvision densenet": (
        LARGE_DENSE,
        dense(*TORCHVISION_DENSE, "norm", "conv", TRANSITION, "features.norm5", "classifier", large=True),
    ),
    "torchvision densenet of 2017": (
        LARGE_DENSE,
        dense(*TORCHVISION_DENSE, "norm.", "conv.", TRANSITION, "features.norm5", "classifier", large=True),
    ),
    "gpleiss": (
        LARGE_DENSE,
        dense(*TORCHVISION_DENSE, "norm", "conv", TRANSITION, "features.norm_final", "classifier", large=True),
    ),
    "gpleiss of 2017": (
        LARGE_DENSE,
        dense(*TORCHVISION_DENSE, "norm.", "conv.", TRANSITION, "features.norm_final", "classifier", large=True),
    ),
    "andreasveit": (DENSE, dense("conv1", "block{i}.layer.{j0}", "bn", "conv", "trans1", "bn1", "fc")),
}
