"""Runs on photographs by name: the recipes of the papers, of their authors' code and of torchvision, and a first run.

    python -m experiments.imagenet --config resnet_50 --data_dir DIR

Boundaries are completed epochs; of 5,004 steps on ImageNet in batches of 256. Learning rates are those of the batch
beside them: of another batch, multiply by the ratio.
"""

import dataclasses

from experiments.configs.base import OptimizerConfig, ScheduleConfig
from experiments.configs.imagenet_fb import FB_TORCH, fb_torch
from experiments.configs.imagenet_fields import ImagenetConfig, ImagenetModelConfig, NamedImagenet
from experiments.configs.imagenet_he import HE_CONFIGS
from experiments.configs.imagenet_torchvision import TORCHVISION_CONFIGS
from resjax.models.published import (
    HUANG_2016_DENSE,
    HUANG_2016_DEPTH,
    WU_2016,
    XIE_2016,
    ZAGORUYKO_2016,
    Facts,
    PublishedResult,
)
from resjax.models.published_cifar import CIFAR_NETWORKS
from resjax.models.published_imagenet import IMAGENET_NETWORKS

_ONE_CROP = "1-crop 224"


def _huang_2016(error: float, epochs: int, survival_probability: float | None = None) -> NamedImagenet:
    """Section 4: ResNet-152 in batches of 128."""
    source = f"{HUANG_2016_DEPTH}, section 4"
    named = fb_torch(
        "resnet_152",
        source,
        "no result in the table",
        batch_size=128,
        epochs=epochs,
        schedule=ScheduleConfig(boundaries=(30, 60, 90)[: epochs // 30 - 1]),
    )
    model = dataclasses.replace(named.config.model, survival_probability=survival_probability)
    published = PublishedResult("imagenet2012", error, f"{epochs} epochs", source)
    return dataclasses.replace(named, config=dataclasses.replace(named.config, model=model), published=published)


def _bn_after_addition_fb() -> NamedImagenet:
    """README: fb.resnet.torch's ResNet-50 has BN after the addition."""
    named = fb_torch("resnet_50", FB_TORCH, "fb.resnet.torch", statistic="1-crop")
    model = ImagenetModelConfig("preresnet_50", order="bn_after_addition")
    return dataclasses.replace(named, config=dataclasses.replace(named.config, model=model))


def _xie_2016(model: str, result: str = "1611.05431", **changes) -> NamedImagenet:
    """fb.resnet.torch's recipe; the authors' code (opts.lua, train.lua) runs 100 epochs and drops after 90, too."""
    return fb_torch(
        *(model, f"{XIE_2016}, section 5.1", result),
        epochs=100,
        schedule=ScheduleConfig(boundaries=(30, 60, 90)),
        **changes,
    )


def _without_shortcuts(model: str, top1: float, parameters: int, multiply_adds: int) -> NamedImagenet:
    """Section 5.1: the same network with every shortcut removed."""
    named = _xie_2016(model, "no result in the table")
    config = dataclasses.replace(named.config, model=ImagenetModelConfig(model, shortcut="none"))
    published = PublishedResult("imagenet2012", top1, _ONE_CROP, f"{XIE_2016}, section 5.1")
    return dataclasses.replace(named, config=config, facts=Facts(parameters, multiply_adds), published=published)


def _wu_2016(model: str) -> NamedImagenet:
    """Section 4: the learning rate falls linearly to zero; evaluated at 320 pixels."""
    deviations = ("the learning rate falls to 0; the authors' code stops at 1e-6",)
    if model.endswith("a1"):
        deviations += ("trained from the start; published after model A was tuned on for 45,000 iterations",)
    elif model.endswith("a"):
        deviations += ("max-pooling is padded on all sides; the released network's is not, and rounds its size up",)
    return fb_torch(
        *(model, f"{WU_2016}, section 4", "ademxapp"),
        schedule=ScheduleConfig(kind="linear"),
        eval_resize=320,
        eval_size=320,
        colours="each change of brightness, contrast or saturation is cut off at 0 and 255, the lighting behind them is"
        " not; the authors' code cuts off once, behind all",
        deviations=deviations,
    )


def _quickstart() -> NamedImagenet:
    config = ImagenetConfig(
        model=ImagenetModelConfig("resnet_20"),
        dataset="folder",
        epochs=12,
        batch_size=64,
        image_size=32,
        least_area=0.35,
        eval_resize=32,
        eval_size=32,
        optimizer=OptimizerConfig(learning_rate=0.1, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig(kind="one_cycle"),
        eval_batch_size=128,
    )
    return NamedImagenet(
        config,
        "a first run: ResNet-20 on your own folder at 32 pixels, minutes on two CPU cores",
        CIFAR_NETWORKS["resnet_20"],
    )


CONFIGS: dict[str, NamedImagenet] = {
    "quickstart": _quickstart(),
    **{
        f"resnet_{depth}": fb_torch(f"resnet_{depth}", FB_TORCH, "fb.resnet.torch", statistic="1-crop")
        for depth in (18, 34, 101, 152)
    },
    # The ResNet-50 of fb.resnet.torch has BN after the addition; ResNeXt's authors trained this one.
    "resnet_50": _xie_2016("resnet_50"),
    "resnet_50_fb": _bn_after_addition_fb(),
    "resnet_101_xie2016": _xie_2016("resnet_101"),
    **HE_CONFIGS,
    **TORCHVISION_CONFIGS,
    "preresnet_200_fb": fb_torch("preresnet_200", FB_TORCH, "fb.resnet.torch", statistic="1-crop"),
    "resnet_50_no_shortcuts": _without_shortcuts("resnet_50", 31.2, 22_780_456, 3_729_522_688),
    "resnext_50_32x4d_no_shortcuts": _without_shortcuts("resnext_50_32x4d", 26.1, 22_252_328, 3_870_818_304),
    **{
        name: fb_torch(name, f"{ZAGORUYKO_2016}, section 3", "1605.07146")
        for name in IMAGENET_NETWORKS
        if name.startswith(("wrn_imagenet", "wrn_50"))
    },
    **{
        name: _xie_2016(name)
        for name in IMAGENET_NETWORKS
        if name.startswith("resnext") and name != "resnext_101_32x8d"
    },
    "resnext_101_64x4d_320": _xie_2016("resnext_101_64x4d", statistic="320", eval_resize=320, eval_size=320),
    **{
        name: fb_torch(name, f"{HUANG_2016_DENSE}, section 4.2", "table 3")
        for name in IMAGENET_NETWORKS
        if name.startswith("densenet") and name != "densenet_161"
    },
    # Batches of 128 for lack of memory, and 100 epochs with a drop at 90.
    "densenet_161": fb_torch(
        *("densenet_161", f"{HUANG_2016_DENSE}, section 4.2, earlier version", "earlier version"),
        deviations=("the batch and the length are quoted from memory: the text of that version is not at hand",),
        batch_size=128,
        epochs=100,
        schedule=ScheduleConfig(boundaries=(30, 60, 90)),
    ),
    "resnet_152_stochastic_depth": _huang_2016(23.38, 90, survival_probability=0.5),
    "resnet_152_stochastic_depth_120": _huang_2016(21.98, 120, survival_probability=0.5),
    "resnet_152_constant_depth": _huang_2016(23.06, 90),
    "resnet_152_constant_depth_120": _huang_2016(21.78, 120),
    **{name: _wu_2016(name) for name in IMAGENET_NETWORKS if name.startswith("wider_resnet")},
}
