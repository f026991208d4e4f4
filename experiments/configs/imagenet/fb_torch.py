"""The recipe of fb.resnet.torch on ImageNet, from which most papers' code started."""

import dataclasses
from typing import Any

from experiments.configs.base import ModelConfig, OptimizerConfig, ScheduleConfig
from experiments.configs.imagenet.fields import ImagenetConfig, NamedImagenet
from experiments.configs.named import SKIPPED, bn_of_gpu
from resjax.data.augment.options import PhotoAugmentation
from resjax.models.published import FB_TORCH, PublishedResult
from resjax.models.published.imagenet import IMAGENET_NETWORKS


def published_of(model: str, **fields: Any) -> PublishedResult | None:
    """The first published result of a network with these values of its fields, or None."""
    return next(iter(IMAGENET_NETWORKS[model].having(**fields)), None)


_COLOURS = "each change of brightness, contrast or saturation is clipped to 0 .. 255; the source clips none"


def fb_torch(
    model: str,
    source: str = FB_TORCH,
    published: PublishedResult | None = None,
    *,
    deviations: tuple[str, ...] = (),
    colours: str = _COLOURS,
    **changes: Any,
) -> NamedImagenet:
    """The recipe of fb.resnet.torch: 90 epochs, lr 0.1 in batches of 256."""
    config = ImagenetConfig(
        model=ModelConfig(model),
        epochs=90,
        batch_size=256,
        augmentation=PhotoAugmentation(flip=True, colour_jitter=0.4, lighting=0.1),
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, decay="all"),
        schedule=ScheduleConfig(boundaries=(30, 60)),
    )
    deviations = (
        "the shape of a crop is log-uniform in 3/4 .. 4/3, as torchvision's; in the source it is uniform",
        "test images are resized bilinearly with antialiasing; in the source, bicubically without",
        colours,
        SKIPPED,
        bn_of_gpu("32 or 64"),
        *deviations,
    )
    return NamedImagenet(
        dataclasses.replace(config, **changes),
        source,
        IMAGENET_NETWORKS[model],
        published,
        deviations=deviations,
    )
