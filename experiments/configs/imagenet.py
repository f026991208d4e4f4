"""Runs on photographs by name: the recipes of the papers, of their authors' code and of torchvision, and a first run.

    python -m experiments.imagenet --config resnet_50 --data_dir DIR

Boundaries are completed epochs; of 5,004 steps on ImageNet in batches of 256. Learning rates are those of the batch
beside them: of another batch, multiply by the ratio.
"""

import dataclasses

from experiments.configs.base import OptimizerConfig, ScheduleConfig
from experiments.configs.imagenet_fields import ImagenetConfig, ImagenetModelConfig, NamedImagenet
from resjax.data.augment_photos import PhotoAugmentation
from resjax.models.published import (
    HE_2015,
    HE_2016,
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
_FB = "github.com/facebookarchive/fb.resnet.torch"


def _published(model: str, source: str, statistic: str = "") -> PublishedResult | None:
    """The first result of a network whose source and statistic hold these words."""
    results = IMAGENET_NETWORKS[model].results
    return next((r for r in results if source in r.source and statistic in r.statistic), None)


def _fb_torch(model: str, source: str, paper: str, *, deviations=(), statistic="", **changes) -> NamedImagenet:
    """The recipe of fb.resnet.torch, which most papers' code started from: 90 epochs, lr 0.1 in batches of 256."""
    config = ImagenetConfig(
        model=ImagenetModelConfig(model),
        epochs=90,
        batch_size=256,
        augmentation=PhotoAugmentation(flip=True, colour_jitter=0.4, lighting=0.1),
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, decay="all"),
        schedule=ScheduleConfig(boundaries=(30, 60)),
    )
    deviations = (
        "the shape of a crop is log-uniform in 3/4 .. 4/3, as torchvision's; there the shape is uniform",
        "test images are resized bilinearly with antialiasing, there bicubically without",
        *deviations,
    )
    return NamedImagenet(
        dataclasses.replace(config, **changes),
        source,
        IMAGENET_NETWORKS[model],
        _published(model, paper, statistic),
        deviations=deviations,
    )


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
    )
    return NamedImagenet(
        config,
        f"{HE_2015}, section 3.4",
        IMAGENET_NETWORKS[model],
        _published(model, table, "10-crop"),
        deviations=deviations,
    )


def _of_option(
    model: str, table: str, shortcut: str, facts: Facts, top1: float, top5: float | None = None
) -> NamedImagenet:
    """Tables 2 and 3: another shortcut than B."""
    published = PublishedResult("imagenet2012", top1, "10-crop 224", f"{HE_2015}, {table}", top5)
    named = _he_2015(model, table, shortcut=shortcut)
    return dataclasses.replace(named, facts=facts, published=published)


def _torchvision(model: str, epochs: int = 90) -> NamedImagenet:
    """torchvision's first recipe: crop and flip alone, lr 0.1 in batches of 8 x 32, a tenth every 30 epochs."""
    config = ImagenetConfig(
        model=ImagenetModelConfig(model),
        epochs=epochs,
        batch_size=256,
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay="all"),
        schedule=ScheduleConfig(boundaries=tuple(range(30, epochs, 30))),
    )
    return NamedImagenet(
        config,
        "torchvision, references/classification, first recipe",
        IMAGENET_NETWORKS[model],
        _published(model, "torchvision"),
        deviations=("BN takes the statistics of the whole batch, there of the 32 images of a GPU",),
    )


def _torchvision_modern() -> NamedImagenet:
    """The recipe of torchvision's IMAGENET1K_V2 weights (Vryniotis 2021): batch 1024, cosine, 600 epochs."""
    config = ImagenetConfig(
        model=ImagenetModelConfig("resnet_50"),
        epochs=600,
        batch_size=1024,
        image_size=176,
        repeats=4,
        label_smoothing=0.1,
        # There, the average is updated every 32 steps with 1 - 2e-5 * 1024 * 32 / 600; the same over 32 steps.
        average_decay=1 - 2e-5 * 1024 / 600,
        augmentation=PhotoAugmentation(flip=True, policy="trivial_augment", random_erasing=0.1, mixup=0.2, cutmix=1.0),
        optimizer=OptimizerConfig(learning_rate=0.5, momentum=0.9, weight_decay=2e-5, decay="kernels"),
        schedule=ScheduleConfig(kind="cosine", warmup_epochs=5, warmup_from=0.005),
        eval_resize=232,
    )
    return NamedImagenet(
        config,
        "torchvision, references/classification, new recipe",
        IMAGENET_NETWORKS["resnet_50"],
        PublishedResult("imagenet2012", 19.142, "1-crop 224", "torchvision, weights IMAGENET1K_V2", 4.566),
        deviations=(
            "each image takes mixup or CutMix, there each batch takes one, and with probability 1/2",
            "neither BN parameters nor the bias of the classifier decay, there the latter does",
            "the learning rate changes every step, there every epoch; the moving average starts with training",
            "repeated images fill one batch together, over epochs every image is repeated equally often",
        ),
    )


def _dense_source(model: str) -> str:
    return "liuzhuang13" if model == "densenet_161" else "table 3"


def _huang_2016(error: float, epochs: int, survival_probability: float | None = None) -> NamedImagenet:
    """Section 4: ResNet-152 in batches of 128."""
    source = f"{HUANG_2016_DEPTH}, section 4"
    named = _fb_torch(
        "resnet_152",
        source,
        "no result in the table",
        batch_size=128,
        epochs=epochs,
        schedule=ScheduleConfig(boundaries=(30, 60, 90)[: epochs // 30 - 1]),
        deviations=("shortcuts of changed shape are projections; there average pooling and zero channels",),
    )
    model = dataclasses.replace(named.config.model, survival_probability=survival_probability)
    published = PublishedResult("imagenet2012", error, f"{epochs} epochs", source)
    return dataclasses.replace(named, config=dataclasses.replace(named.config, model=model), published=published)


def _he_2016(
    model: str, crop: str, published: PublishedResult, facts: Facts | None = None, eval_size: int = 320, **options
) -> NamedImagenet:
    """Section 5 and table 5: fb.resnet.torch's recipe on crops at random scales, tested at 320 pixels."""
    named = _fb_torch(
        *(model, f"{HE_2016}, section 5", "no result in the table"),
        crop=crop,
        eval_resize=max(eval_size, 256),
        eval_size=eval_size,
    )
    config = dataclasses.replace(named.config, model=ImagenetModelConfig(model, **options))
    return dataclasses.replace(named, config=config, facts=facts or named.facts, published=published)


def _bn_after_addition() -> NamedImagenet:
    """Section 4.1: the original order has 23.6 and 7.1."""
    published = PublishedResult("imagenet2012", 24.6, _ONE_CROP, f"{HE_2016}, section 4.1", 7.5)
    named = _he_2016("resnet_101", "scale", published, Facts(44_549_160, 7_570_194_432), 224)
    model = ImagenetModelConfig("preresnet_101", order="bn_after_addition", bottleneck_stride="1x1")
    return dataclasses.replace(named, config=dataclasses.replace(named.config, model=model))


def _table_5(top1: float, top5: float, statistic: str = "1-crop 320") -> PublishedResult:
    return PublishedResult("imagenet2012", top1, statistic, f"{HE_2016}, table 5 and section 4.1", top5)


def _without_shortcuts(model: str, top1: float, parameters: int, multiply_adds: int) -> NamedImagenet:
    """Section 5.1: the same network with every shortcut removed."""
    named = _fb_torch(
        model,
        f"{XIE_2016}, section 5.1",
        "no result in the table",
        epochs=100,
        schedule=ScheduleConfig(boundaries=(30, 60, 90)),
    )
    config = dataclasses.replace(named.config, model=ImagenetModelConfig(model, shortcut="none"))
    published = PublishedResult("imagenet2012", top1, _ONE_CROP, f"{XIE_2016}, section 5.1")
    return dataclasses.replace(named, config=config, facts=Facts(parameters, multiply_adds), published=published)


def _wu_2016(model: str) -> NamedImagenet:
    """Section 4: the learning rate falls linearly to zero; evaluated at 320 pixels."""
    deviations = ("after the colours were changed, images are not clipped to 0 .. 255",)
    if model.endswith("a1"):
        deviations += ("trained from the start; published after model A was tuned on for 45,000 iterations",)
    return _fb_torch(
        *(model, f"{WU_2016}, section 4", "ademxapp"),
        schedule=ScheduleConfig(kind="linear"),
        eval_resize=320,
        eval_size=320,
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
        f"resnet_{depth}": _fb_torch(f"resnet_{depth}", _FB, "fb.resnet.torch", statistic="1-crop")
        for depth in (18, 34, 101, 152)
    },
    # The ResNet-50 of fb.resnet.torch has BN after the addition; ResNeXt's authors trained this one.
    "resnet_50": _fb_torch("resnet_50", _FB, "1611.05431"),
    "resnet_50_torchvision": _torchvision("resnet_50"),
    "resnet_50_modern": _torchvision_modern(),
    "plain_18": _he_2015("plain_18", "table 2"),
    "plain_34": _he_2015("plain_34", "table 3"),
    "resnet_18_he2015": _of_option("resnet_18", "table 2", "A", Facts(11_515_688, 1_794_805_760), 27.88),
    "resnet_34_he2015": _he_2015("resnet_34", "table 3"),
    "resnet_34_he2015_a": _of_option("resnet_34", "table 3", "A", Facts(21_623_848, 3_644_493_824), 25.03, 7.76),
    "resnet_34_he2015_c": _of_option("resnet_34", "table 3", "C", Facts(22_716_840, 3_830_747_136), 24.19, 7.40),
    **{
        f"resnet_{depth}_he2015": _he_2015(f"resnet_{depth}", "table 3", bottleneck_stride="1x1")
        for depth in (50, 101, 152)
    },
    **{
        f"preresnet_{depth}": _fb_torch(
            f"preresnet_{depth}",
            f"{HE_2016}, section 5",
            "table 5",
            crop="scale" if depth == 152 else "resized",
            eval_resize=320,
            eval_size=320,
            deviations=("the stride of a bottleneck is in its 3x3 convolution",),
        )
        for depth in (152, 200)
    },
    "resnet_152_he2016": _he_2016("resnet_152", "scale", _table_5(21.3, 5.5), bottleneck_stride="1x1"),
    "resnet_200_he2016": _he_2016("resnet_200", "scale", _table_5(21.8, 6.0), bottleneck_stride="1x1"),
    "resnet_101_bn_after_addition": _bn_after_addition(),
    "preresnet_200_scale": _he_2016("preresnet_200", "scale", _table_5(20.7, 5.3), bottleneck_stride="1x1"),
    "preresnet_200_fb": _fb_torch("preresnet_200", _FB, "fb.resnet.torch", statistic="1-crop"),
    "resnet_50_no_shortcuts": _without_shortcuts("resnet_50", 31.2, 22_780_456, 3_729_522_688),
    "resnext_50_32x4d_no_shortcuts": _without_shortcuts("resnext_50_32x4d", 26.1, 22_252_328, 3_870_818_304),
    **{
        name: _fb_torch(name, f"{ZAGORUYKO_2016}, section 3", "1605.07146")
        for name in IMAGENET_NETWORKS
        if name.startswith(("wrn_imagenet", "wrn_50"))
    },
    "wrn_101_2": _torchvision("wrn_101_2"),
    **{
        name: _fb_torch(
            name, f"{XIE_2016}, section 5.1", "1611.05431", epochs=100, schedule=ScheduleConfig(boundaries=(30, 60, 90))
        )
        for name in IMAGENET_NETWORKS
        if name.startswith("resnext") and name != "resnext_101_32x8d"
    },
    "resnext_101_64x4d_320": _fb_torch(
        *("resnext_101_64x4d", f"{XIE_2016}, section 5.1", "1611.05431"),
        statistic="320",
        epochs=100,
        schedule=ScheduleConfig(boundaries=(30, 60, 90)),
        eval_resize=320,
        eval_size=320,
    ),
    "resnext_101_32x8d": _torchvision("resnext_101_32x8d", epochs=100),
    **{
        name: _fb_torch(name, f"{HUANG_2016_DENSE}, section 4.2", _dense_source(name))
        for name in IMAGENET_NETWORKS
        if name.startswith("densenet")
    },
    "resnet_152_stochastic_depth": _huang_2016(23.38, 90, survival_probability=0.5),
    "resnet_152_stochastic_depth_120": _huang_2016(21.98, 120, survival_probability=0.5),
    "resnet_152_constant_depth": _huang_2016(23.06, 90),
    "resnet_152_constant_depth_120": _huang_2016(21.78, 120),
    **{name: _wu_2016(name) for name in IMAGENET_NETWORKS if name.startswith("wider_resnet")},
}
