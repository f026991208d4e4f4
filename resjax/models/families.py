"""The families: which names each has, and what fields a name stands for."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from resjax.errors import InputError
from resjax.models import published
from resjax.models.densenet import DenseNet
from resjax.models.highway import Highway
from resjax.models.preact_resnet import PreActResNet
from resjax.models.published import Paper
from resjax.models.resnet import ResNet
from resjax.models.resnext import ResNeXt
from resjax.models.speed_resnet import SpeedResNet
from resjax.models.vgg import VGG
from resjax.models.wide_resnet import WideResNet
from resjax.models.wider_resnet import WiderResNet

CIFAR_SHAPE = (32, 32, 3)
IMAGENET_SHAPE = (224, 224, 3)
MNIST_SHAPE = (28, 28, 1)

# He et al. 2015 (arXiv 1512.03385), table 1; 200 from He et al. 2016 (arXiv 1603.05027), section 5.
_IMAGENET = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
# Huang et al. 2016 (arXiv 1608.06993), table 1; 161 and its growth rate from the authors' code.
_DENSENETS = {
    121: ((6, 12, 24, 16), 32),
    161: ((6, 12, 36, 24), 48),
    169: ((6, 12, 32, 32), 32),
    201: ((6, 12, 48, 32), 32),
    264: ((6, 12, 64, 48), 32),
}


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks whose names follow one pattern.

    Attributes:
      names: what the names look like, for people: `<n>` stands for any number, `<a|b>` for one of those.
      pattern: of a whole name; its groups are what `fields` takes.
      module: what the names stand for.
      fields: the fields of a name's module; raises InputError for numbers that the family does not have.
      paper: where the networks come from.
      input_shape: (H, W, C) of the images of the paper.
    """

    names: str
    pattern: str
    module: type[nn.Module]
    fields: Callable[..., dict[str, Any]]
    paper: Paper
    input_shape: tuple[int, int, int] = CIFAR_SHAPE


def _units(depth: int, per_unit: int, offset: int) -> int:
    """n of depth = per_unit n + offset; InputError where there is none."""
    n, rest = divmod(depth - offset, per_unit)
    if n < 1 or rest:
        near = [max(n, 1) * per_unit + offset, (max(n, 1) + 1) * per_unit + offset]
        raise InputError(
            f"depth: expected {per_unit} n + {offset} for n >= 1, got {depth}; nearest are {near[0]} and {near[1]}"
        )
    return n


def _cifar_resnet(depth: str, shortcut: str = "A") -> dict[str, Any]:
    return {"stage_sizes": (_units(int(depth), 6, 2),) * 3, "shortcut": shortcut}


def _imagenet(depth: str, **fields: Any) -> dict[str, Any]:
    block, stage_sizes = _IMAGENET[int(depth)]
    common = {"widths": (64, 128, 256, 512), "stem": "imagenet", "shortcut": "B", "num_classes": 1000}
    return {"block": block, "stage_sizes": stage_sizes, **common, **fields}


def _cifar_preresnet(depth: str) -> dict[str, Any]:
    # Many depths are both 6 n + 2 and 9 n + 2: the paper has basic blocks at 110 and bottlenecks from 164 on.
    number = int(depth)
    if (number >= 164 or (number - 2) % 6) and (number - 2) % 9 == 0:
        return {"stage_sizes": (_units(number, 9, 2),) * 3, "block": "bottleneck", "shortcut": "B"}
    if (number - 2) % 6:
        below = max(number - (number - 2) % 6, 8)
        raise InputError(
            f"depth: expected 6 n + 2 (basic blocks) or 9 n + 2 (bottlenecks) for n >= 1, got {number}; nearest with"
            f" basic blocks are {below} and {below + 6}"
        )
    return _cifar_resnet(depth)


def _mnist_highway(width: str) -> dict[str, Any]:
    """From the authors' released configuration for MNIST, which has width 32."""
    return {
        "stage_sizes": (2, 3, 3),
        "widths": (int(width),) * 3,
        "head_width": None,
        "transform_bias": -1.0,
        "dropout_rate": (0.2, 0.3, 0.4, 0.5),
        "stem_kernel_size": 5,
        "stem_padding": 0,
        "pool_window": 3,
        "flat_head": (3, 3),
        "stem_kernel_init": "xavier",
        "head_kernel_init": "normal_0.1",
    }


def _wide_cifar(depth: str, k: str) -> dict[str, Any]:
    if depth == "18":
        raise InputError(
            "depth: expected 6 n + 4 for n >= 1, got 18; nearest are 16 and 22; 18 layers for ImageNet are"
            " wrn_imagenet_18_<k>"
        )
    return {"depth": int(depth), "widening_factor": int(k)}


def _wide_imagenet(depth: str, k: str) -> dict[str, Any]:
    """Basic blocks widened by k, the stem is not (arXiv 1605.07146, section 3.3)."""
    widths = tuple(int(base * float(k)) for base in (64, 128, 256, 512))
    return _imagenet(depth, widths=widths, stem_width=64)


def _resnext(depth: str, cardinality: str, base_width: str) -> dict[str, Any]:
    groups = {"cardinality": int(cardinality), "base_width": int(base_width)}
    if int(depth) in _IMAGENET:
        if _IMAGENET[int(depth)][0] == "basic":
            raise InputError(f"depth: ResNeXt has bottlenecks, in depths 50, 101, 152, 200 for ImageNet; got {depth}")
        return _imagenet(depth, **groups)
    return {"stage_sizes": (_units(int(depth), 9, 2),) * 3, **groups}


def _cifar_densenet(depth: str, growth_rate: str, per_layer: int) -> dict[str, Any]:
    k = int(growth_rate)
    sizes = {"stage_sizes": (_units(int(depth), 3 * per_layer, 4),) * 3, "growth_rate": k}
    if per_layer == 2:
        return sizes | {"stem_width": 2 * k}
    # The paper's text: 16 channels, and only so its counts come out; the authors' code has 2k.
    return sizes | {"stem_width": 16, "bottleneck": False, "compression": 1.0}


def _imagenet_densenet(depth: str) -> dict[str, Any]:
    stage_sizes, k = _DENSENETS[int(depth)]
    return {
        "stage_sizes": stage_sizes,
        "growth_rate": k,
        "stem_width": 2 * k,
        "stem": "imagenet",
        "num_classes": 1000,
    }


# One name for one network: no leading zeros, no digits but ASCII's.
_NUMBER = "([1-9][0-9]{0,4})"
# Depths that the ImageNet tables of the same papers name never mean a CIFAR network.
_CIFAR_DEPTH = f"(?!(?:18|34|50|101|152|200)$){_NUMBER}"
_IMAGENET_DEPTH = "(18|34|50|101|152|200)"

FAMILIES = (
    Family("resnet_<6n+2>", f"resnet_{_CIFAR_DEPTH}", ResNet, _cifar_resnet, published.HE_2015),
    Family(
        "resnet_<18|34|50|101|152|200>",
        f"resnet_{_IMAGENET_DEPTH}",
        ResNet,
        _imagenet,
        published.HE_2015,
        IMAGENET_SHAPE,
    ),
    Family(
        "plain_<6n+2>", f"plain_{_CIFAR_DEPTH}", ResNet, lambda depth: _cifar_resnet(depth, "none"), published.HE_2015
    ),
    Family(
        "plain_<18|34>",
        "plain_(18|34)",
        ResNet,
        lambda depth: _imagenet(depth, shortcut="none"),
        published.HE_2015,
        IMAGENET_SHAPE,
    ),
    Family("preresnet_<6n+2|9n+2>", f"preresnet_{_CIFAR_DEPTH}", PreActResNet, _cifar_preresnet, published.HE_2016),
    Family(
        "preresnet_<18|34|50|101|152|200>",
        f"preresnet_{_IMAGENET_DEPTH}",
        PreActResNet,
        lambda depth: _imagenet(depth, bottleneck_stride="3x3"),
        published.HE_2016,
        IMAGENET_SHAPE,
    ),
    Family(
        "wrn_<50|101>_<k>",
        "wrn_(50|101)_([1-9])",
        ResNet,
        lambda depth, k: _imagenet(depth, base_width=64 * int(k)),
        published.ZAGORUYKO_2016,
        IMAGENET_SHAPE,
    ),
    Family(
        "wrn_imagenet_<18|34>_<k>",
        r"wrn_imagenet_(18|34)_([1-9](?:\.5)?)",
        ResNet,
        _wide_imagenet,
        published.ZAGORUYKO_2016,
        IMAGENET_SHAPE,
    ),
    Family(
        "wrn_<6n+4>_<k>",
        f"wrn_{_NUMBER}_(0|[1-9][0-9]{{0,3}})",
        WideResNet,
        _wide_cifar,
        published.ZAGORUYKO_2016,
    ),
    Family(
        "resnext_<50|101|152|200>_<C>x<d>d",
        f"resnext_{_IMAGENET_DEPTH}_{_NUMBER}x{_NUMBER}d",
        ResNeXt,
        _resnext,
        published.XIE_2016,
        IMAGENET_SHAPE,
    ),
    Family("resnext_<9n+2>_<C>x<d>d", f"resnext_{_NUMBER}_{_NUMBER}x{_NUMBER}d", ResNeXt, _resnext, published.XIE_2016),
    Family(
        f"densenet_<{'|'.join(map(str, _DENSENETS))}>",
        f"densenet_({'|'.join(map(str, _DENSENETS))})",
        DenseNet,
        _imagenet_densenet,
        published.HUANG_2016_DENSE,
        IMAGENET_SHAPE,
    ),
    Family(
        "densenet_<3n+4>_<k>",
        f"densenet_{_NUMBER}_{_NUMBER}",
        DenseNet,
        lambda depth, k: _cifar_densenet(depth, k, per_layer=1),
        published.HUANG_2016_DENSE,
    ),
    Family(
        "densenet_bc_<6n+4>_<k>",
        f"densenet_bc_{_NUMBER}_{_NUMBER}",
        DenseNet,
        lambda depth, k: _cifar_densenet(depth, k, per_layer=2),
        published.HUANG_2016_DENSE,
    ),
    Family("highway_19", "highway_19", Highway, dict, published.SRIVASTAVA_2015),
    Family(
        "highway_10_<width>",
        f"highway_10_{_NUMBER}",
        Highway,
        _mnist_highway,
        published.SRIVASTAVA_2015,
        MNIST_SHAPE,
    ),
    Family("vgg_15", "vgg_15", VGG, dict, published.VEIT_2016),
    Family("speed_resnet", "speed_resnet", SpeedResNet, dict, published.JORDAN_2024),
    Family(
        "wider_resnet_38_<a|a1|a2>",
        "wider_resnet_38_(a|a1|a2)",
        WiderResNet,
        lambda variant: {"variant": variant, "num_classes": 1000},
        published.WU_2016,
        IMAGENET_SHAPE,
    ),
)


def find_family(name: str) -> tuple[Family, tuple[str, ...]] | None:
    """The family of a name and the groups of its pattern, or None."""
    for family in FAMILIES:
        if match := re.fullmatch(family.pattern, name):
            return family, match.groups()
    return None
