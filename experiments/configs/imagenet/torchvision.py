"""The recipes of torchvision's weights: the first one, with only crops and flips, and the modern one of 600 epochs."""

import dataclasses

from experiments.configs.base import ModelConfig, OptimizerConfig, ScheduleConfig
from experiments.configs.imagenet.fb_torch import published_of
from experiments.configs.imagenet.fields import ImagenetConfig, NamedImagenet
from experiments.configs.named import SKIPPED, bn_of_gpu
from resjax.data.augment.options import PhotoAugmentation
from resjax.models.published import TORCHVISION
from resjax.models.published.imagenet import IMAGENET_NETWORKS, photographs

_SCRIPTS = "torchvision, references/classification"
_OF_BOTH = (
    "training crops are resized bicubically; torchvision resizes bilinearly",
    "the classifier's bias starts at zero; torchvision draws it like the weights",
)
_OF_MODERN = (
    "each image takes mixup or CutMix; in torchvision each batch takes one, and with probability 1/2",
    "neither BN parameters nor the bias of the classifier decay; in torchvision the bias does",
    "the learning rate changes every step, in torchvision every epoch; the moving average starts with training",
    *_OF_BOTH,
    bn_of_gpu("128"),
)
_REPEATED = "repeated images are in one batch; over all epochs, every image is repeated equally often"


def _first(
    model: str, source: str = "first recipe", deviations: tuple[str, ...] = (), gpus: int = 8, **changes
) -> NamedImagenet:
    """lr 0.1 in batches of 8 x 32, a tenth every 30 epochs: the defaults of its train.py."""
    config = ImagenetConfig(
        model=ModelConfig(model),
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
        published_of(model, origin=TORCHVISION),
        deviations=(*deviations, *_OF_BOTH, SKIPPED, bn_of_gpu(str(config.batch_size // gpus))),
    )


def _wide(model: str) -> NamedImagenet:
    """pytorch/vision, pull request 912: "SGD with cosine learning rate and warm restarts for 256 epochs"."""
    return _first(
        model,
        "and its pull request 912",
        (
            "the rate falls once, as a cosine; torchvision restarted it at epochs that are not known",
            "float32, not half precision",
        ),
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
    """pytorch/vision, issue 3995: 8 x 128 images, cosine. The weights' `meta` says which variant a network has."""
    config = ImagenetConfig(
        model=ModelConfig(model),
        epochs=600,
        batch_size=1024,
        image_size=image_size,
        repeats=repeats,
        label_smoothing=0.1,
        # torchvision updates the average every 32 steps with 1 - 2e-5 * 1024 * 32 / 600; this is the same over 32
        # steps.
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
        photographs(TORCHVISION, f"weights {weights}", *errors, aggregate="single", view="one_crop", size=224),
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
    # Trained on smaller crops than tested: "FixRes mitigations".
    "wrn_50_2_modern": _modern("wrn_50_2", (18.398, 4.242), 176),
    "resnext_101_32x8d_modern": _modern("resnext_101_32x8d", (17.166, 3.772), 176),
    # These have repeated augmentation, too: pytorch/vision, issue 3995's last recipe, and pull request 5935.
    "resnet_50_modern": _modern("resnet_50", (19.142, 4.566), 176, repeats=4),
    "resnext_101_64x4d_modern": _modern(
        "resnext_101_64x4d",
        (16.754, 3.546),
        176,
        repeats=4,
        weights="IMAGENET1K_V1",
        deviations=("the published weights are of epoch 455, the best on the test images; here the last epoch counts",),
    ),
}
