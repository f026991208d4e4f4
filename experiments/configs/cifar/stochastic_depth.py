"""Networks of stochastic depth on CIFAR and SVHN, as Huang et al. 2016 (arXiv 1603.09382) trained them."""

import dataclasses

from experiments.configs.base import Config, ModelConfig, OptimizerConfig, ScheduleConfig
from experiments.configs.cifar.residual import UNAUGMENTED, ZERO_PADDED
from experiments.configs.named import SKIPPED, NamedConfig
from resjax.data.augment import Augmentation
from resjax.models.published import HUANG_2016_DEPTH, PublishedFacts, PublishedResult
from resjax.models.published.cifar import CIFAR_NETWORKS


def _huang_2016(
    model: ModelConfig,
    facts: PublishedFacts,
    errors: dict[str, float],
    *,
    epochs: int = 500,
    boundaries: tuple[int, ...] = (250, 375),
    validation_images: int = 5000,
    augmentation: Augmentation = ZERO_PADDED,
    more: tuple[str, ...] = (),
    **changes,
) -> NamedConfig:
    """Section 4: 45k/5k split, 500 epochs, lr 0.1, tenths at half and three quarters, Nesterov, weight decay 1e-4."""
    config = Config(
        # The authors' code: BN scales of Torch7, U(0, 1); fan-in of nninit.kaiming; average pooling at transitions.
        model=model.replace(shortcut="average_pool", norm_scale_init="uniform", kernel_init="he_normal_fan_in"),
        epochs=epochs,
        batch_size=128,
        # The mean of each pixel and one std of all pixels, over the images to train on.
        normalization="per_pixel_mean_std",
        validation_images=validation_images,
        augmentation=augmentation,
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, decay="all"),
        schedule=changes.pop("schedule", ScheduleConfig(boundaries=boundaries)),
        **changes,
    )
    deviations = (
        SKIPPED,
        "convolutions have no biases, which BN would cancel; the authors' have them",
        "the classifier's bias starts at zero; the authors' at Torch's U(-1/8, 1/8)",
        "weight decay and momentum act on dropped blocks as on all others, as in the authors' flat vector",
        "the validation images are drawn at random, the same for every seed; the authors' choice is not known",
        *more,
    )
    if epochs > 50:
        deviations += ("the rate drops where the paper says; the authors' code drops it an epoch earlier",)
    results = tuple(
        PublishedResult(
            error,
            dataset=dataset,
            origin=HUANG_2016_DEPTH,
            place="table 1",
            epoch="lowest_validation_error",
            augmented=augmentation != UNAUGMENTED,
        )
        for dataset, error in errors.items()
    )
    facts = dataclasses.replace(facts, results=results)
    return NamedConfig(config, f"{HUANG_2016_DEPTH}, section 4", facts, deviations=deviations)


_DROPPED = {"stochastic_depth.survival_probability": 0.5}
# 152 layers of basic blocks; the name resnet_152 stands for ImageNet's bottlenecks.
_COUNTS_152 = PublishedFacts(2_408_474, 351_978_112)


def _named() -> dict[str, NamedConfig]:
    configs = {}
    plain, dropped = "constant_depth", "stochastic_depth"
    errors = {
        (plain, ""): {"cifar10": 6.41, "cifar100": 27.22},
        (dropped, ""): {"cifar10": 5.25, "cifar100": 24.98},
        (plain, "_unaugmented"): {"cifar10": 13.63, "cifar100": 44.74},
        (dropped, "_unaugmented"): {"cifar10": 11.66, "cifar100": 37.80},
    }
    for (kind, suffix), published in errors.items():
        model = ModelConfig("resnet_110", **(_DROPPED if kind == dropped else {}))
        options = {"augmentation": UNAUGMENTED} if suffix else {}
        more = ("the table prints 27.76 where the text says 27.22",) if (kind, suffix) == (plain, "") else ()
        facts = CIFAR_NETWORKS["resnet_110"]
        configs[f"resnet_110_{kind}{suffix}"] = _huang_2016(model, facts, published, more=more, **options)
    for kind, error in ((plain, 6.67), (dropped, 4.91)):
        model = ModelConfig("resnet_1202", **(_DROPPED if kind == dropped else {}))
        configs[f"resnet_1202_{kind}"] = _huang_2016(
            *(model, CIFAR_NETWORKS["resnet_1202"], {"cifar10": error}),
            epochs=300,
            # "a learning rate of 0.01 for the first 10 epochs"
            schedule=ScheduleConfig(boundaries=(150, 225), warmup="constant", warmup_from=0.01, warmup_epochs=10),
        )
    for kind, error in ((plain, 1.80), (dropped, 1.75)):
        configs[f"resnet_152_svhn_{kind}"] = _huang_2016(
            ModelConfig("resnet_20", stage_sizes=(25, 25, 25), **(_DROPPED if kind == dropped else {})),
            *(_COUNTS_152, {"svhn_cropped": error}),
            epochs=50,
            boundaries=(30, 35),
            validation_images=6000,
            dataset="svhn_cropped",
            extra=True,
            augmentation=UNAUGMENTED,
            more=(
                "validation images are drawn from both splits; the authors take 400 a class from train, 200 from extra",
                "validated after each epoch; the authors validate every 200 iterations",
            ),
        )
    return configs


STOCHASTIC_DEPTH_CONFIGS: dict[str, NamedConfig] = _named()
