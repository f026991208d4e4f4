"""Named runs on CIFAR, SVHN and MNIST: the recipes of the papers, a first run, and a fast one.

    python -m experiments.cifar --config wrn_28_10 --data_dir DIR

Boundaries are completed epochs. On CIFAR, an epoch has 390 steps in batches of 128 (the incomplete batch is skipped).
Initial weights, BN and padding are documented with the networks, in `resjax.models`.
"""

import dataclasses

from experiments.configs.base import FINE_TUNING, Config, ModelConfig, OptimizerConfig, ScheduleConfig
from experiments.configs.cifar.others import OTHER_CONFIGS
from experiments.configs.cifar.residual import RESIDUAL_CONFIGS
from experiments.configs.cifar.stochastic_depth import STOCHASTIC_DEPTH_CONFIGS
from experiments.configs.cifar.wide import WIDE_CONFIGS
from experiments.configs.named import NamedConfig
from resjax.data.augment import Augmentation
from resjax.models.published import JORDAN_2024
from resjax.models.published.cifar import CIFAR_NETWORKS


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

    There, the loss is a sum over the batch. The rate is 11.5 for 1024 (1 + 1 / (1 - 0.85)) examples. The decay is
    0.0153 of the rate. For the mean over 512 images, these become 0.75 and 1.33e-3.
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
        "has residual blocks; airbench94 has none",
        "evaluates a moving average of the weights; airbench94 uses Lookahead",
        "BN's biases do not decay; the whitening convolution has no bias",
        "batches of 512, not 1024; 16 epochs, not 9.9",
        "which half of the images is mirrored first depends on the images, not on the seed",
    )
    return NamedConfig(config, f"{JORDAN_2024}", CIFAR_NETWORKS["speed_resnet"], deviations=deviations)


def _finetune() -> NamedConfig:
    config = Config(
        model=ModelConfig("resnet_20", frozen_statistics=True),
        dataset="cifar10_mini",
        **FINE_TUNING,
    )
    facts = dataclasses.replace(CIFAR_NETWORKS["resnet_20"], results=())
    return NamedConfig(config, "fine-tuning: the network and the input of --pretrained WEIGHTS, with a new head", facts)


CONFIGS: dict[str, NamedConfig] = {
    "quickstart": _quickstart(),
    "speedrun": _speedrun(),
    "finetune": _finetune(),
    **RESIDUAL_CONFIGS,
    **STOCHASTIC_DEPTH_CONFIGS,
    **WIDE_CONFIGS,
    **OTHER_CONFIGS,
}
