"""He et al. 2015 (arXiv 1512.03385) and 2016 (arXiv 1603.05027) on ImageNet, as they trained in Caffe."""

import dataclasses

from experiments.configs.base import OptimizerConfig, ScheduleConfig
from experiments.configs.imagenet_fb import fb_torch, published_of
from experiments.configs.imagenet_fields import ImagenetConfig, ImagenetModelConfig, NamedImagenet
from experiments.configs.named import FAN_OUT, bn_of_gpu
from resjax.data.augment_photos import PhotoAugmentation
from resjax.models.published import HE_2015, HE_2016, Facts, PublishedResult
from resjax.models.published_imagenet import IMAGENET_NETWORKS


def _he_2015(model: str, table: str, **options) -> NamedImagenet:
    """Section 3.4: batch 256, lr 0.1, tenths on plateaus, at most 60e4 iterations; weight decay 1e-4, momentum 0.9."""
    config = ImagenetConfig(
        model=ImagenetModelConfig(model, **options),
        epochs=120,
        batch_size=256,
        crop="scale",
        augmentation=PhotoAugmentation(flip=True, lighting=0.1),
        # Plain momentum and decay of the weights alone: the paper's Caffe solver.
        optimizer=OptimizerConfig(
            learning_rate=0.1, momentum=0.9, momentum_form="caffe", weight_decay=1e-4, decay="kernels"
        ),
        schedule=ScheduleConfig(boundaries=(30, 60, 90)),
        eval_mode="ten_crops",
    )
    deviations = (
        "60e4 iterations are 120 epochs; the rate drops after 30, 60 and 90, not where the error stops falling",
        "mean and std per channel are normalised, not the mean of each pixel subtracted",
        "statistics of BN are moving averages, not recomputed after training",
        bn_of_gpu("32"),
        "max-pooling is padded on all sides, Caffe's behind the image alone; its ResNet-50 has a bias in the stem",
        FAN_OUT,
    )
    return NamedImagenet(
        config,
        f"{HE_2015}, section 3.4",
        IMAGENET_NETWORKS[model],
        published_of(model, table, "10-crop"),
        deviations=deviations,
    )


def _v1(depth: int) -> NamedImagenet:
    """Table 3: bottlenecks with the stride in their first convolution, which saves multiply-adds."""
    named = _he_2015(f"resnet_{depth}", "table 3", bottleneck_stride="1x1")
    multiply_adds = {50: 3_857_973_248, 101: 7_570_194_432, 152: 11_282_415_616}[depth]
    return dataclasses.replace(named, facts=dataclasses.replace(named.facts, multiply_adds=multiply_adds))


def _of_option(
    model: str, table: str, shortcut: str, facts: Facts, top1: float, top5: float | None = None
) -> NamedImagenet:
    """Tables 2 and 3: another shortcut than B."""
    published = PublishedResult("imagenet2012", top1, "10-crop 224", f"{HE_2015}, {table}", top5)
    named = _he_2015(model, table, shortcut=shortcut)
    return dataclasses.replace(named, facts=facts, published=published)


def _at_320(named: NamedImagenet, published: PublishedResult, eval_size: int = 320, **changes) -> NamedImagenet:
    """The same recipe, evaluated by one crop of so many pixels."""
    config = dataclasses.replace(
        named.config, eval_mode="centre", eval_resize=max(eval_size, 256), eval_size=eval_size, **changes
    )
    return dataclasses.replace(named, config=config, published=published)


def _he_2016(model: str, published: PublishedResult, facts: Facts, eval_size: int = 320, **options) -> NamedImagenet:
    """Section 5: "the same hyper-parameters and implementations" as He et al. 2015; tenths at 30 and 60 epochs."""
    named = _at_320(
        _he_2015(model, "no result in the table", bottleneck_stride="1x1", **options),
        *(published, eval_size),
        epochs=90,
        schedule=ScheduleConfig(boundaries=(30, 60)),
    )
    deviations = (
        "the paper says where the rate drops, not when training ends: after 90 epochs, as fb.resnet.torch's",
        *named.deviations[1:],
    )
    return dataclasses.replace(named, source=f"{HE_2016}, section 5", facts=facts, deviations=deviations)


def _bn_after_addition() -> NamedImagenet:
    """Section 5: the original order has 23.6 and 7.1."""
    published = PublishedResult("imagenet2012", 24.6, "1-crop 224", f"{HE_2016}, section 5", 7.5)
    named = _he_2016("resnet_101", published, Facts(44_549_160, 7_570_194_432), 224)
    model = ImagenetModelConfig("preresnet_101", order="bn_after_addition", bottleneck_stride="1x1")
    return dataclasses.replace(named, config=dataclasses.replace(named.config, model=model))


def _table_5(top1: float, top5: float, statistic: str = "1-crop 320") -> PublishedResult:
    return PublishedResult("imagenet2012", top1, statistic, f"{HE_2016}, table 5", top5)


HE_CONFIGS: dict[str, NamedImagenet] = {
    "plain_18": _he_2015("plain_18", "table 2"),
    "plain_34": _he_2015("plain_34", "table 3"),
    "resnet_18_he2015": _of_option("resnet_18", "table 2", "A", Facts(11_515_688, 1_794_805_760), 27.88),
    "resnet_34_he2015": _he_2015("resnet_34", "table 3"),
    "resnet_34_he2015_a": _of_option("resnet_34", "table 3", "A", Facts(21_623_848, 3_644_493_824), 25.03, 7.76),
    "resnet_34_he2015_c": _of_option("resnet_34", "table 3", "C", Facts(22_716_840, 3_830_747_136), 24.19, 7.40),
    **{f"resnet_{depth}_he2015": _v1(depth) for depth in (50, 101, 152)},
    "preresnet_152": _he_2016("preresnet_152", _table_5(21.1, 5.5), Facts(60_185_128, 11_282_415_616)),
    "preresnet_200": _at_320(
        fb_torch(
            *("preresnet_200", f"{HE_2016}, section 5", "no result in the table"),
            deviations=("the stride of a bottleneck is in its 3x3 convolution",),
        ),
        _table_5(20.1, 4.8, "1-crop 320, aspect ratios augmented"),
    ),
    # The network of He et al. 2015, tested otherwise.
    "resnet_152_he2016": _at_320(_v1(152), _table_5(21.3, 5.5)),
    "resnet_200_he2016": _he_2016("resnet_200", _table_5(21.8, 6.0), Facts(64_673_832, 14_776_270_848)),
    "resnet_101_bn_after_addition": _bn_after_addition(),
    "preresnet_200_scale": _he_2016("preresnet_200", _table_5(20.7, 5.3), Facts(64_666_152, 14_776_270_848)),
}
