"""Every run on CIFAR, SVHN and MNIST by name: the recipes of the papers, a first run, and a fast one.

    python -m experiments.cifar --config wrn_28_10 --data_dir DIR

Boundaries are completed epochs, of 390 steps on CIFAR in batches of 128 (the incomplete batch is skipped). What the
networks themselves follow (initial weights, BN, padding) is said where they are defined, in `resjax.models`.
"""

import dataclasses

from experiments.configs.base import Config, ModelConfig, OptimizerConfig, ScheduleConfig
from experiments.configs.cifar_others import OTHER_CONFIGS
from experiments.configs.cifar_residual import RESIDUAL_CONFIGS
from experiments.configs.cifar_stochastic_depth import STOCHASTIC_DEPTH_CONFIGS
from experiments.configs.cifar_wide import WIDE_CONFIGS
from experiments.configs.named import NamedConfig
from resjax.data.augment import Augmentation
from resjax.models.published import JORDAN_2024
from resjax.models.published_cifar import CIFAR_NETWORKS


def _quickstart() -> NamedConfig:
    config = Config(
        model=ModelConfig("resnet_20"),
        dataset="cifar10_mini",
        epochs=20,
        batch_size=64,
        optimizer=OptimizerConfig(learning_rate=0.1, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig(kind="one_cycle"),
    )
    facts = dataclasses.replace(CIFAR_NETWORKS["resnet_20"], results=())
    return NamedConfig(config, "a first run: ResNet-20 on 5,000 embedded images, minutes on two CPU cores", facts)


def _speedrun() -> NamedConfig:
    """airbench94 (arXiv 2404.00498, listing 4 and its code) with skips, in the terms of this library.

    There the loss is a sum over the batch, the rate 11.5 for 1024 (1 + 1 / (1 - 0.85)) examples and the decay 0.0153 of
    the rate: of the mean over 512 images these are 0.75 and 1.33e-3.
    """
    peak = 0.75
    config = Config(
        model=ModelConfig("speed_resnet"),
        epochs=16,
        batch_size=512,
        average_decay=0.985,
        optimizer=OptimizerConfig(
            learning_rate=peak,
            momentum=0.85,
            nesterov=True,
            weight_decay=1.33e-3,
            decay="kernels",
            bias_factor=64.0,
            scale_factor=0.0,
        ),
        schedule=ScheduleConfig(kind="one_cycle", warmup_epochs=2.3, warmup_from=0.2 * peak, final=0.07 * peak),
        label_smoothing=0.2,
        augmentation=Augmentation(crop_padding=2, padding_mode="reflect", flip=False, alternating_flip=True),
    )
    deviations = (
        "residual blocks, which its network does not have",
        "a moving average of the weights that is evaluated, where its code has Lookahead",
        "BN's biases do not decay; the whitening convolution has no bias",
        "batches of 512, where it has 1024; 16 epochs, where it has 9.9",
        "which half of the images is mirrored first follows from the images, not from the seed",
    )
    return NamedConfig(config, f"{JORDAN_2024}", CIFAR_NETWORKS["speed_resnet"], deviations=deviations)


CONFIGS: dict[str, NamedConfig] = {
    "quickstart": _quickstart(),
    "speedrun": _speedrun(),
    **RESIDUAL_CONFIGS,
    **STOCHASTIC_DEPTH_CONFIGS,
    **WIDE_CONFIGS,
    **OTHER_CONFIGS,
}
