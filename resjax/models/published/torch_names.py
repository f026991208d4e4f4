"""The names of this library's arrays in PyTorch repositories: one table for each naming scheme, a dialect.

A class lists its dialects in `torch_names`.
"""

import dataclasses
import re

Path = tuple[str, ...]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The names of one or more repositories.

    Attributes:
      source: the repositories.
      modules: maps the path of our module without its numbers to the name of theirs. {i}, {j}, {k} stand for our
        numbers, which count from 1, {i0}, {j0}, {k0} for the same counted from 0, {i2} for i counted from 2. A key
        whose last part keeps its number takes precedence over one without.
      bare_convs: whether a convolution's kernel has the name of its module, without ".weight".
      pools_small_stem: whether some of the repositories pool after a 3x3 stem, and some do not.
      splits_zeros: whether shortcut A puts half of its zero channels before the input's channels and half after them;
        ours puts all after them.
    """

    source: str
    modules: dict[str, str]
    bare_convs: bool = False
    pools_small_stem: bool = False
    splits_zeros: bool = False

    def name(self, path: Path) -> str | None:
        """Their name of our array at `path`, ("params", "stage_1", .., "kernel"); None if they have none."""
        *module, leaf = path[1:]
        parents, last = "/".join(module[:-1]), module[-1]
        template = self.modules.get(f"{_unnumbered(parents)}/{last}") or self.modules.get(_unnumbered("/".join(module)))
        if template is None:
            return None
        numbers = [int(number) for number in re.findall(r"\d+", "/".join(module))]
        indices: dict[str, int] = {}
        for letter, number in zip("ijk", numbers, strict=False):
            indices |= {letter: number, f"{letter}0": number - 1, f"{letter}2": number + 1}
        is_bare = self.bare_convs and leaf == "kernel" and module[0] != "head"
        return template.format(**indices) + ("" if is_bare else f".{_LEAVES[leaf]}")

    @property
    def head(self) -> tuple[str, str]:
        """Their names of the classifier's weights and of its bias."""
        linear = self.modules["head/linear"]
        return f"{linear}.weight", f"{linear}.bias"


def _unnumbered(path: str) -> str:
    return re.sub(r"_\d+", "", path)


_TORCHVISION_RESNET = {
    "stem/conv": "conv1",
    "stem/norm": "bn1",
    "stage/block/conv": "layer{i}.{j0}.conv{k}",
    "stage/block/norm": "layer{i}.{j0}.bn{k}",
    "stage/block/shortcut_conv": "layer{i}.{j0}.downsample.0",
    "stage/block/shortcut_norm": "layer{i}.{j0}.downsample.1",
    "head/linear": "fc",
}
_KUANGLIU = _TORCHVISION_RESNET | {
    "stage/block/shortcut_conv": "layer{i}.{j0}.shortcut.0",
    "stage/block/shortcut_norm": "layer{i}.{j0}.shortcut.1",
    "head/linear": "linear",
}
_WEIAICUNZAI = {
    "stem/conv": "conv1.0",
    "stem/norm": "conv1.1",
    "stage/block/conv_1": "conv{i2}_x.{j0}.residual_function.0",
    "stage/block/norm_1": "conv{i2}_x.{j0}.residual_function.1",
    "stage/block/conv_2": "conv{i2}_x.{j0}.residual_function.3",
    "stage/block/norm_2": "conv{i2}_x.{j0}.residual_function.4",
    "stage/block/conv_3": "conv{i2}_x.{j0}.residual_function.6",
    "stage/block/norm_3": "conv{i2}_x.{j0}.residual_function.7",
    "stage/block/shortcut_conv": "conv{i2}_x.{j0}.shortcut.0",
    "stage/block/shortcut_norm": "conv{i2}_x.{j0}.shortcut.1",
    "head/linear": "fc",
}
_PRLZ77 = {
    "stem/conv": "conv_1_3x3",
    "stem/norm": "bn_1",
    "stage/block/conv_1": "stage_{i}.stage_{i}_bottleneck_{j0}.conv_reduce",
    "stage/block/norm_1": "stage_{i}.stage_{i}_bottleneck_{j0}.bn_reduce",
    "stage/block/conv_2": "stage_{i}.stage_{i}_bottleneck_{j0}.conv_conv",
    "stage/block/norm_2": "stage_{i}.stage_{i}_bottleneck_{j0}.bn",
    "stage/block/conv_3": "stage_{i}.stage_{i}_bottleneck_{j0}.conv_expand",
    "stage/block/norm_3": "stage_{i}.stage_{i}_bottleneck_{j0}.bn_expand",
    "stage/block/shortcut_conv": "stage_{i}.stage_{i}_bottleneck_{j0}.shortcut.shortcut_conv",
    "stage/block/shortcut_norm": "stage_{i}.stage_{i}_bottleneck_{j0}.shortcut.shortcut_bn",
    "head/linear": "classifier",
}
_XTERNALZ = {
    "stem/conv": "conv1",
    "stage/block/conv": "block{i}.layer.{j0}.conv{k}",
    "stage/block/norm": "block{i}.layer.{j0}.bn{k}",
    "stage/block/shortcut_conv": "block{i}.layer.{j0}.convShortcut",
    "final_norm": "bn1",
    "head/linear": "fc",
}
_SZAGORUYKO = {
    "stem/conv": "conv0",
    "stage/block/conv": "group{i0}.block{j0}.conv{k0}",
    "stage/block/norm": "group{i0}.block{j0}.bn{k0}",
    "stage/block/shortcut_conv": "group{i0}.block{j0}.convdim",
    "final_norm": "bn",
    "head/linear": "fc",
}
_HYSTS = {
    "stem/conv": "conv",
    "stage/block/conv": "stage{i}.block{j}.conv{k}",
    "stage/block/norm": "stage{i}.block{j}.bn{k}",
    "stage/block/shortcut_conv": "stage{i}.block{j}.shortcut.conv",
    "final_norm": "bn",
    "head/linear": "fc",
}
_TORCHVISION_DENSENET = {
    "stem/conv": "features.conv0",
    "stem/norm": "features.norm0",
    "stage/layer/conv": "features.denseblock{i}.denselayer{j}.conv{k}",
    "stage/layer/norm": "features.denseblock{i}.denselayer{j}.norm{k}",
    "transition/conv": "features.transition{i}.conv",
    "transition/norm": "features.transition{i}.norm",
    "final_norm": "features.norm5",
    "head/linear": "classifier",
}
# Before PyTorch 0.4 a module's name could hold a dot.
_DOTTED = {
    "stage/layer/conv": "features.denseblock{i}.denselayer{j}.conv.{k}",
    "stage/layer/norm": "features.denseblock{i}.denselayer{j}.norm.{k}",
}
_GPLEISS = _TORCHVISION_DENSENET | {"final_norm": "features.norm_final"}
_ANDREASVEIT = {
    "stem/conv": "conv1",
    "stage/layer/conv": "block{i}.layer.{j0}.conv{k}",
    "stage/layer/norm": "block{i}.layer.{j0}.bn{k}",
    "transition/conv": "trans{i}.conv1",
    "transition/norm": "trans{i}.bn1",
    "final_norm": "bn1",
    "head/linear": "fc",
}

RESNET_NAMES = (
    Dialect(
        "torchvision, timm, chenyaofo/pytorch-cifar-models, huyvnphan/PyTorch_CIFAR10",
        _TORCHVISION_RESNET,
        pools_small_stem=True,
    ),
    Dialect("kuangliu/pytorch-cifar, akamaster/pytorch_resnet_cifar10", _KUANGLIU, splits_zeros=True),
    Dialect("weiaicunzai/pytorch-cifar100", _WEIAICUNZAI),
    Dialect("prlz77/ResNeXt.pytorch", _PRLZ77),
)
PREACT_RESNET_NAMES = (
    # With its usual config, in which the first block of every stage also activates before its shortcut.
    Dialect("hysts/pytorch_image_classification", _HYSTS),
    # It has no BN after its last block, so that ours is always missing, and reported as missing.
    Dialect("kuangliu/pytorch-cifar", _KUANGLIU),
)
WIDE_RESNET_NAMES = (
    Dialect("xternalz/WideResNet-pytorch", _XTERNALZ),
    Dialect("szagoruyko/wide-residual-networks", _SZAGORUYKO, bare_convs=True),
    Dialect("hysts/pytorch_image_classification", _HYSTS),
)
DENSENET_NAMES = (
    Dialect("torchvision, timm", _TORCHVISION_DENSENET),
    Dialect("torchvision's published densenet files (norm.1)", _TORCHVISION_DENSENET | _DOTTED),
    Dialect("gpleiss/efficient_densenet_pytorch", _GPLEISS),
    Dialect("gpleiss/efficient_densenet_pytorch of 2017 (norm.1)", _GPLEISS | _DOTTED),
    Dialect("andreasveit/densenet-pytorch", _ANDREASVEIT),
)
