"""The recipes of torchvision's weights: its first one, with crops and flips alone, and its modern one of 600 epochs."""

import dataclasses

from experiments.configs.base import OptimizerConfig, ScheduleConfig
from experiments.configs.imagenet_fb import published_of
from experiments.configs.imagenet_fields import ImagenetConfig, ImagenetModelConfig, NamedImagenet
from experiments.configs.named import SKIPPED, bn_of_gpu
from resjax.data.augment_photos import PhotoAugmentation
from resjax.models.published import PublishedResult
from resjax.models.published_imagenet import IMAGENET_NETWORKS

_SCRIPTS = "torchvision, references/classification"
_OF_BOTH = (
    "training crops are resized bicubically, there bilinearly",
    "the classifier's bias starts at zero; there it is drawn as its weights are",
)
_OF_MODERN = (
    "each image takes mixup or CutMix, there each batch takes one, and with probability 1/2",
    "neither BN parameters nor the bias of the classifier decay, there the latter does",
    "the learning rate changes every step, there every epoch; the moving average starts with training",
    *_OF_BOTH,
    bn_of_gpu("128"),
)
_REPEATED = "repeated images fill one batch together, over epochs every image is repeated equally often"


def _first(
    model: str, source: str = "first recipe", deviations: tuple[str, ...] = (), gpus: int = 8, **changes
) -> NamedImagenet:
    """lr 0.1 in batches of 8 x 32, a tenth every 30 epochs: the defaults of its train.py."""
    config = ImagenetConfig(
        model=ImagenetModelConfig(model),
        epochs=90,
        batch_size=256,
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay="all"),
        schedule=ScheduleConfig(boundaries=(30, 60)),
    )
    config = dataclasses.replace(config, **changes)
    return NamedImagenet(
        config,
        f"{_SCRIPTS}, {source}",
        IMAGENET_NETWORKS[model],
        published_of(model, "torchvision"),
        deviations=(*deviations, *_OF_BOTH, SKIPPED, bn_of_gpu(str(config.batch_size // gpus))),
    )


def _wide(model: str) -> NamedImagenet:
    """pytorch/vision, pull request 912: "SGD with cosine learning rate and warm restarts for 256 epochs"."""
    return _first(
        model,
        "and its pull request 912",
        ("the rate falls once, as a cosine; there it restarted, when is not said", "float32; there half precision"),
        epochs=256,
        schedule=ScheduleConfig(kind="cosine"),
    )


def _modern(
    model: str,
    errors: tuple[float, float],
    image_size: int,
    repeats: int = 1,
    weights: str = "IMAGENET1K_V2",
    deviations: tuple[str, ...] = (),
) -> NamedImagenet:
    """pytorch/vision, issue 3995: 8 x 128 images, cosine. The weights' `meta` says which of its forms a network has."""
    config = ImagenetConfig(
        model=ImagenetModelConfig(model),
        epochs=600,
        batch_size=1024,
        image_size=image_size,
        repeats=repeats,
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
        f"{_SCRIPTS}, new recipe",
        IMAGENET_NETWORKS[model],
        PublishedResult("imagenet2012", errors[0], "1-crop 224", f"torchvision, weights {weights}", errors[1]),
        deviations=(*deviations, _REPEATED if repeats > 1 else SKIPPED, *_OF_MODERN),
    )


_EVERY_30 = ScheduleConfig(boundaries=(30, 60, 90))

TORCHVISION_CONFIGS: dict[str, NamedImagenet] = {
    **{f"resnet_{depth}_torchvision": _first(f"resnet_{depth}") for depth in (18, 34, 50, 101, 152)},
    "resnext_50_32x4d_torchvision": _first("resnext_50_32x4d", epochs=100, schedule=_EVERY_30),
    # README: "8 nodes, each with 8 GPUs", batches of 16 on each, a learning rate of 0.4.
    "resnext_101_32x8d": _first(
        "resnext_101_32x8d",
        gpus=64,
        epochs=100,
        batch_size=1024,
        optimizer=OptimizerConfig(learning_rate=0.4, momentum=0.9, weight_decay=1e-4, decay="all"),
        schedule=_EVERY_30,
    ),
    "wrn_50_2_torchvision": _wide("wrn_50_2"),
    "wrn_101_2": _wide("wrn_101_2"),
    "resnet_101_modern": _modern("resnet_101", (18.114, 4.220), 224),
    "resnet_152_modern": _modern("resnet_152", (17.716, 3.998), 224),
    "resnext_50_32x4d_modern": _modern("resnext_50_32x4d", (18.802, 4.660), 224),
    "wrn_101_2_modern": _modern("wrn_101_2", (17.490, 3.980), 224),
    # Trained on smaller crops than tested on: "FixRes mitigations".
    "wrn_50_2_modern": _modern("wrn_50_2", (18.398, 4.242), 176),
    "resnext_101_32x8d_modern": _modern("resnext_101_32x8d", (17.166, 3.772), 176),
    # With repeated augmentation, too: pytorch/vision, issue 3995's last recipe, and pull request 5935.
    "resnet_50_modern": _modern("resnet_50", (19.142, 4.566), 176, repeats=4),
    "resnext_101_64x4d_modern": _modern(
        "resnext_101_64x4d",
        (16.754, 3.546),
        176,
        repeats=4,
        weights="IMAGENET1K_V1",
        deviations=("the published weights are those of epoch 455, the best on the test images; here of the last",),
    ),
}
