"""He et al. 2015 (arXiv 1512.03385) and 2016 (arXiv 1603.05027) on ImageNet, as they trained in Caffe."""

import dataclasses

from experiments.configs.base import ModelConfig, OptimizerConfig, ScheduleConfig
from experiments.configs.imagenet.fb_torch import fb_torch, published_of
from experiments.configs.imagenet.fields import ImagenetConfig, NamedImagenet
from experiments.configs.named import FAN_OUT, bn_of_gpu
from resjax.data.augment.options import PhotoAugmentation
from resjax.models.published import HE_2015, HE_2016, PublishedFacts, PublishedResult
from resjax.models.published.imagenet import IMAGENET_NETWORKS, photographs


def _he_2015(model: str, published: PublishedResult | None, **options) -> NamedImagenet:
    """Section 3.4: batch 256, lr 0.1, tenths on plateaus, at most 60e4 iterations; weight decay 1e-4, momentum 0.9."""
    config = ImagenetConfig(
        model=ModelConfig(model, **options),
        epochs=120,
        batch_size=256,
        crop="scale",
        augmentation=PhotoAugmentation(flip=True, lighting=0.1),
        # The paper's Caffe solver: plain momentum, and decay of weights only.
        optimizer=OptimizerConfig(
            learning_rate=0.1, momentum=0.9, momentum_form="caffe", weight_decay=1e-4, decay="kernels"
        ),
        schedule=ScheduleConfig(boundaries=(30, 60, 90)),
        eval_mode="ten_crops",
    )
    deviations = (
        "60e4 iterations are 120 epochs; the rate drops after 30, 60 and 90, not where the error stops falling",
        "images are normalised by mean and std per channel; the paper subtracts the mean of each pixel",
        "statistics of BN are moving averages; the paper computes them after training",
        bn_of_gpu("32"),
        "max-pooling is padded on all sides; Caffe pads only after the image; its ResNet-50 has a bias in the stem",
        FAN_OUT,
    )
    return NamedImagenet(
        config,
        f"{HE_2015}, section 3.4",
        IMAGENET_NETWORKS[model],
        published,
        deviations=deviations,
    )


def _ten_crops(model: str, table: str, **options) -> NamedImagenet:
    """The network of a table of ten-crop errors, with shortcut B, or A where it is plain."""
    return _he_2015(model, published_of(model, origin=HE_2015, place=table, view="ten_crops"), **options)


def _v1(depth: int) -> NamedImagenet:
    """Table 3: bottlenecks with the stride in their first convolution, which saves multiply-adds."""
    named = _ten_crops(f"resnet_{depth}", "table 3", bottleneck_stride="1x1")
    multiply_adds = {50: 3_857_973_248, 101: 7_570_194_432, 152: 11_282_415_616}[depth]
    return dataclasses.replace(named, facts=dataclasses.replace(named.facts, multiply_adds=multiply_adds))


def _of_option(
    model: str, table: str, shortcut: str, facts: PublishedFacts, top1: float, top5: float | None = None
) -> NamedImagenet:
    """Tables 2 and 3: shortcuts other than B."""
    published = photographs(HE_2015, table, top1, top5, view="ten_crops", size=224)
    return dataclasses.replace(_he_2015(model, published, shortcut=shortcut), facts=facts)


def _at_320(named: NamedImagenet, published: PublishedResult, eval_size: int = 320, **changes) -> NamedImagenet:
    """The same recipe, evaluated on one crop of `eval_size` pixels."""
    config = dataclasses.replace(
        named.config, eval_mode="centre", eval_resize=max(eval_size, 256), eval_size=eval_size, **changes
    )
    return dataclasses.replace(named, config=config, published=published)


def _he_2016(
    model: str, published: PublishedResult, facts: PublishedFacts, eval_size: int = 320, **options
) -> NamedImagenet:
    """Section 5: "the same hyper-parameters and implementations" as He et al. 2015; tenths at 30 and 60 epochs."""
    named = _at_320(
        _he_2015(model, None, bottleneck_stride="1x1", **options),
        *(published, eval_size),
        epochs=90,
        schedule=ScheduleConfig(boundaries=(30, 60)),
    )
    deviations = (
        "the paper says where the rate drops, not when training ends; the 90 epochs are those of fb.resnet.torch",
        *named.deviations[1:],
    )
    return dataclasses.replace(named, source=f"{HE_2016}, section 5", facts=facts, deviations=deviations)


def _bn_after_addition() -> NamedImagenet:
    """Section 5: the original order has 23.6 and 7.1."""
    published = photographs(HE_2016, "section 5", 24.6, 7.5, view="one_crop", size=224)
    named = _he_2016("resnet_101", published, PublishedFacts(44_549_160, 7_570_194_432), 224)
    model = ModelConfig("preresnet_101", order="bn_after_addition", bottleneck_stride="1x1")
    return dataclasses.replace(named, config=dataclasses.replace(named.config, model=model))


def _table_5(top1: float, top5: float, note: str = "") -> PublishedResult:
    return photographs(HE_2016, "table 5", top1, top5, view="one_crop", size=320, note=note)


HE_CONFIGS: dict[str, NamedImagenet] = {
    "plain_18": _ten_crops("plain_18", "table 2"),
    "plain_34": _ten_crops("plain_34", "table 3"),
    "resnet_18_he2015": _of_option("resnet_18", "table 2", "A", PublishedFacts(11_515_688, 1_794_805_760), 27.88),
    "resnet_34_he2015": _ten_crops("resnet_34", "table 3"),
    "resnet_34_he2015_a": _of_option(
        "resnet_34", "table 3", "A", PublishedFacts(21_623_848, 3_644_493_824), 25.03, 7.76
    ),
    "resnet_34_he2015_c": _of_option(
        "resnet_34", "table 3", "C", PublishedFacts(22_716_840, 3_830_747_136), 24.19, 7.40
    ),
    **{f"resnet_{depth}_he2015": _v1(depth) for depth in (50, 101, 152)},
    "preresnet_152": _he_2016("preresnet_152", _table_5(21.1, 5.5), PublishedFacts(60_185_128, 11_282_415_616)),
    "preresnet_200": _at_320(
        fb_torch(
            *("preresnet_200", f"{HE_2016}, section 5"),
            deviations=("the stride of a bottleneck is in its 3x3 convolution",),
        ),
        _table_5(20.1, 4.8, "aspect ratios augmented"),
    ),
    # The network of He et al. 2015, with another test.
    "resnet_152_he2016": _at_320(_v1(152), _table_5(21.3, 5.5)),
    "resnet_200_he2016": _he_2016("resnet_200", _table_5(21.8, 6.0), PublishedFacts(64_673_832, 14_776_270_848)),
    "resnet_101_bn_after_addition": _bn_after_addition(),
    "preresnet_200_scale": _he_2016("preresnet_200", _table_5(20.7, 5.3), PublishedFacts(64_666_152, 14_776_270_848)),
}
