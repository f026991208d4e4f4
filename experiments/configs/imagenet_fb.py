"""The recipe of fb.resnet.torch on ImageNet, which most papers' code started from."""

import dataclasses

from experiments.configs.base import OptimizerConfig, ScheduleConfig
from experiments.configs.imagenet_fields import ImagenetConfig, ImagenetModelConfig, NamedImagenet
from experiments.configs.named import SKIPPED, bn_of_gpu
from resjax.data.augment_photos import PhotoAugmentation
from resjax.models.published import PublishedResult
from resjax.models.published_imagenet import IMAGENET_NETWORKS

FB_TORCH = "github.com/facebookarchive/fb.resnet.torch"


def published_of(model: str, source: str, statistic: str = "") -> PublishedResult | None:
    """The first result of a network whose source and statistic hold these words."""
    results = IMAGENET_NETWORKS[model].results
    return next((r for r in results if source in r.source and statistic in r.statistic), None)


_COLOURS = "each change of brightness, contrast or saturation is cut off at 0 and 255; there none is"


def fb_torch(
    model: str, source: str, paper: str, *, deviations=(), statistic="", colours=_COLOURS, **changes
) -> NamedImagenet:
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
        colours,
        SKIPPED,
        bn_of_gpu("32 or 64"),
        *deviations,
    )
    return NamedImagenet(
        dataclasses.replace(config, **changes),
        source,
        IMAGENET_NETWORKS[model],
        published_of(model, paper, statistic),
        deviations=deviations,
    )
