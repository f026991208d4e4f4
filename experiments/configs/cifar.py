"""Every CIFAR and SVHN run by name: the recipes of the papers, and a first run.

    python -m experiments.cifar --config wrn_28_10 --data_dir DIR

Boundaries are completed epochs, of 390 steps on CIFAR in batches of 128 (the incomplete batch is skipped). What the
networks themselves follow (initial weights, BN, padding) is said where they are defined, in `resjax.models`.
"""

import dataclasses

from experiments.configs.base import Config, ModelConfig, NamedConfig, OptimizerConfig, ScheduleConfig
from experiments.configs.cifar_others import OTHER_CONFIGS
from experiments.configs.cifar_residual import RESIDUAL_CONFIGS
from experiments.configs.cifar_wide import WIDE_CONFIGS
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


CONFIGS: dict[str, NamedConfig] = {
    "quickstart": _quickstart(),
    **RESIDUAL_CONFIGS,
    **WIDE_CONFIGS,
    **OTHER_CONFIGS,
}
