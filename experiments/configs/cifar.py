"""Every CIFAR row of He et al. 2015 (arXiv 1512.03385) and of Zagoruyko & Komodakis 2016 (arXiv 1605.07146), by name.

    python -m experiments.cifar --config wrn_28_10 --data_dir DIR

Boundaries are completed epochs of 390 steps (50,000 images in batches of 128, the incomplete batch skipped).
"""

import dataclasses

from experiments.configs.base import Config, ModelConfig, NamedConfig, OptimizerConfig, ScheduleConfig
from resjax.data.augment import Augmentation
from resjax.models.published import HE_2015, ZAGORUYKO_2016, Facts
from resjax.models.published_cifar import CIFAR_NETWORKS, MEDIAN, ZCA_MEDIAN, wide


def _he_2015(model: str) -> NamedConfig:
    """Section 4.2: batch 128, lr 0.1, tenths at 32k and 48k iterations, 64k in all; weight decay 1e-4, momentum 0.9."""
    depth = int(model.split("_")[1])
    deviations = [
        "64k iterations are 164 epochs of 390 steps (63,960), the drops fall at 31,980 and 47,970",
        "trained on all 50,000 images: the paper does not say whether its final runs used them or 45,000",
    ]
    schedule = ScheduleConfig(boundaries=(82, 123))
    if depth >= 110:
        # "we use 0.01 to warm up the training until the training error is below 80% (about 400 iterations)"
        schedule = dataclasses.replace(schedule, warmup="constant", warmup_from=0.01, warmup_epochs=400 / 390)
        deviations.append("the warm-up at 0.01 lasts 400 iterations, not until training error falls below 80%")
    config = Config(
        model=ModelConfig(model),
        epochs=164,
        batch_size=128,
        normalization="per_pixel_mean",
        augmentation=Augmentation(crop_padding=4, padding_mode="zero", flip=True),
        # Plain momentum, decay of the weights alone: the paper's Caffe solver. fb.resnet.torch lists both as changes.
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay="kernels"),
        schedule=schedule,
    )
    return NamedConfig(config, f"{HE_2015}, section 4.2", CIFAR_NETWORKS[model], deviations=tuple(deviations))


def _wide(model: str, facts: Facts | None = None, **options) -> NamedConfig:
    """Section 3: 200 epochs, lr 0.1, fifths at the start of epochs 60, 120 and 160 (counted from 1), Nesterov."""
    facts = facts or CIFAR_NETWORKS[model]
    deviations = ["on CIFAR-100 the authors keep CIFAR-10's mean and std; here CIFAR-100 has its own"]
    if facts.results and "ZCA" in facts.results[0].statistic:
        deviations.append("published with ZCA-whitened images; here mean and std per channel")
    config = Config(
        model=ModelConfig(model, **options),
        epochs=200,
        batch_size=128,
        augmentation=Augmentation(crop_padding=4, padding_mode="reflect", flip=True),
        # The authors' code decays every parameter and rebuilds the optimizer, and so its momentum, at each drop.
        optimizer=OptimizerConfig(
            learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, reset_momentum=True
        ),
        schedule=ScheduleConfig(boundaries=(59, 119, 159), factor=0.2),
    )
    return NamedConfig(config, f"{ZAGORUYKO_2016}, section 3", facts, deviations=tuple(deviations))


def _quickstart() -> NamedConfig:
    config = Config(
        model=ModelConfig("resnet_20"),
        dataset="cifar10_mini",
        epochs=20,
        batch_size=64,
        optimizer=OptimizerConfig(learning_rate=0.1, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig(kind="one_cycle"),
    )
    return NamedConfig(
        config, "a first run: ResNet-20 on 5,000 embedded images, minutes on two CPU cores", _counts("resnet_20")
    )


def _counts(model: str, results=()) -> Facts:
    """The counts of a network with other results beside them, or none."""
    return dataclasses.replace(CIFAR_NETWORKS[model], results=results)


def _dropout(model: str, cifar10: float, cifar100: float) -> NamedConfig:
    """Table 6: dropout inside the block."""
    return _wide(model, _counts(model, wide(6, f"{MEDIAN}, dropout 0.3", cifar10, cifar100)), dropout_rate=0.3)


def _deepening(factor: int, cifar10: float) -> NamedConfig:
    """Table 3: the same number of parameters for each l."""
    return _wide("wrn_40_2", _counts("wrn_40_2", wide(3, ZCA_MEDIAN, cifar10)), deepening_factor=factor)


def _block(model: str, block_type: tuple[int, ...], parameters: int, multiply_adds: int, cifar10: float) -> NamedConfig:
    """Table 2: block types, at about equal numbers of parameters."""
    return _wide(model, Facts(parameters, multiply_adds, wide(2, ZCA_MEDIAN, cifar10)), block_type=block_type)


CONFIGS: dict[str, NamedConfig] = {
    "quickstart": _quickstart(),
    **{f"resnet_{depth}": _he_2015(f"resnet_{depth}") for depth in (20, 32, 44, 56, 110, 1202)},
    **{f"plain_{depth}": _he_2015(f"plain_{depth}") for depth in (20, 32, 44, 56, 110)},
    # WRN-40-10 was published with dropout only.
    **{name: _wide(name) for name in CIFAR_NETWORKS if name.startswith("wrn_") and name != "wrn_40_10"},
    "wrn_16_4_dropout": _dropout("wrn_16_4", 5.24, 23.91),
    "wrn_28_10_dropout": _dropout("wrn_28_10", 3.89, 18.85),
    "wrn_52_1_dropout": _dropout("wrn_52_1", 6.28, 29.78),
    "wrn_40_10_dropout": _wide("wrn_40_10", dropout_rate=0.3),
    # B(3,3) of table 2 is wrn_28_2.
    "wrn_40_2_b131": _block("wrn_40_2", (1, 3, 1), 1_429_082, 208_061_696, 6.06),
    "wrn_40_2_b31": _block("wrn_40_2", (3, 1), 1_211_354, 176_604_416, 5.78),
    "wrn_40_2_b13": _block("wrn_40_2", (1, 3), 1_297_370, 189_187_328, 6.42),
    "wrn_40_2_b311": _block("wrn_40_2", (3, 1, 1), 1_343_066, 195_478_784, 5.86),
    "wrn_22_2_b313": _block("wrn_22_2", (3, 1, 3), 1_145_498, 167_167_232, 5.78),
    "wrn_40_2_l1": _deepening(1, 6.69),
    "wrn_40_2_l2": _deepening(2, 5.43),
    "wrn_40_2_l3": _deepening(3, 5.65),
    "wrn_40_2_l4": _deepening(4, 5.93),
}
