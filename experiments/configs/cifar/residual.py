"""ResNet, plain and pre-activation networks on CIFAR, as their papers trained them."""

import dataclasses

from experiments.configs.base import Config, ModelConfig, OptimizerConfig, ScheduleConfig
from experiments.configs.named import FAN_OUT, LAST, SKIPPED, NamedConfig, bn_of_gpu
from resjax.data.augment import Augmentation
from resjax.models.published import (
    HE_2015,
    HE_2016,
    HUANG_2016_DENSE,
    VEIT_2016,
    ZHANG_2019,
    PublishedFacts,
    PublishedResult,
)
from resjax.models.published.cifar import CIFAR_NETWORKS, he_2016

_BN = bn_of_gpu("64")
_STATISTICS = (
    "BN's test statistics are moving averages; the authors' released Caffe networks for ImageNet have means taken after"
    " training"
)
UNAUGMENTED = Augmentation(crop_padding=0, flip=False)
ZERO_PADDED = Augmentation(crop_padding=4, padding_mode="zero", flip=True)


def he_2015(model: str) -> NamedConfig:
    """Section 4.2: batch 128, lr 0.1, tenths at 32k and 48k iterations, 64k in all; weight decay 1e-4, momentum 0.9."""
    depth = int(model.split("_")[1])
    deviations = [
        "64k iterations are 164 epochs of 390 steps (63,960), the drops fall at 31,980 and 47,970",
        "trained on all 50,000 images: the paper does not say whether its final runs used them or 45,000",
        _BN,
        _STATISTICS,
        FAN_OUT,
        LAST,
    ]
    schedule = ScheduleConfig(boundaries=(82, 123))
    if depth >= 110:
        # "we use 0.01 to warm up the training until the training error is below 80% (about 400 iterations)"
        schedule = dataclasses.replace(schedule, warmup="constant", warmup_from=0.01, warmup_until_error=80.0)
        deviations.append(
            "the training error that ends the warm-up is a running average over about 50 batches, starting at 100%;"
            " the paper does not say what it averages over"
        )
    config = Config(
        model=ModelConfig(model),
        epochs=164,
        batch_size=128,
        normalization="per_pixel_mean",
        augmentation=ZERO_PADDED,
        # The paper's Caffe solver: plain momentum, and decay of weights only. fb.resnet.torch lists both as changes.
        # The velocity is Caffe's: github.com/KaimingHe/deep-residual-networks, "Disclaimer and known issues".
        optimizer=OptimizerConfig(
            learning_rate=0.1, momentum=0.9, momentum_form="caffe", weight_decay=1e-4, decay="kernels"
        ),
        schedule=schedule,
    )
    return NamedConfig(config, f"{HE_2015}, section 4.2", CIFAR_NETWORKS[model], deviations=tuple(deviations))


def fb_torch(model: str) -> NamedConfig:
    """fb.resnet.torch: lr 0.1, tenths at the start of epochs 81 and 122 (counted from 1), no warm-up, Nesterov."""
    config = Config(
        model=ModelConfig(model),
        epochs=164,
        batch_size=128,
        augmentation=ZERO_PADDED,
        # datasets/cifar10.lua normalises by mean and std per channel; train.lua decays every parameter.
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, decay="all"),
        schedule=ScheduleConfig(boundaries=(80, 121)),
    )
    deviations = (SKIPPED, _BN)  # TRAINING.md uses two GPUs
    facts = dataclasses.replace(CIFAR_NETWORKS[model], results=())
    return NamedConfig(config, "github.com/facebookarchive/fb.resnet.torch", facts, deviations=deviations)


def _he_2016(model: str, facts: PublishedFacts, source: str = "appendix", more=(), **options):
    """Appendix: as in 2015, but all networks start with 400 iterations at 0.01."""
    config = Config(
        model=ModelConfig(model, **options),
        epochs=164,
        batch_size=128,
        normalization="per_pixel_mean",
        augmentation=ZERO_PADDED,
        # "The experiments in the paper were conducted in Caffe": github.com/KaimingHe/resnet-1k-layers, README.
        optimizer=OptimizerConfig(
            learning_rate=0.1, momentum=0.9, momentum_form="caffe", weight_decay=1e-4, decay="kernels"
        ),
        # Of 390 steps.
        schedule=ScheduleConfig(boundaries=(82, 123), warmup="constant", warmup_from=0.01, warmup_epochs=400 / 390),
    )
    deviations = (
        "length and drops are those of He et al. 2015, in epochs; the authors' Torch code runs 200 epochs with drops at"
        " 81 and 122, uses Nesterov, decays all parameters, and normalises by mean and std per channel",
        _BN,
        _STATISTICS,
        FAN_OUT,
        LAST,
        *more,
    )
    return NamedConfig(config, f"{HE_2016}, {source}", facts, deviations=deviations)


def _as_published(model: str, results=None, parameters: int = 0, multiply_adds: int = 0) -> PublishedFacts:
    """The network's counts, or the given ones, with the results of its own recipe: crops and flips, batch 128."""
    facts = CIFAR_NETWORKS[model]
    if results is None:
        results = facts.having(origin=HE_2016, place="table 3")
    return PublishedFacts(parameters or facts.parameters, multiply_adds or facts.multiply_adds, results)


_ORDERS = {
    "original": {110: he_2016(2, 6.61), 164: he_2016(2, 5.93) + he_2016(3, None, 25.16)},
    "bn_after_addition": {110: he_2016(2, 8.17), 164: he_2016(2, 6.50)},
    "relu_before_addition": {110: he_2016(2, 7.84), 164: he_2016(2, 6.14)},
    "relu_only_pre_activation": {110: he_2016(2, 6.71), 164: he_2016(2, 5.91)},
}
# These projections have BN; pre-activation networks leave it out.
_PARAMETERS_OF_ORDERS = dict.fromkeys(
    [(164, "original"), (164, "bn_after_addition"), (164, "relu_before_addition")], 1_704_154
)
_LAST_ACTIVATION = "the extra activation after the last addition is only ReLU, as in the blocks; the paper names none"


def _orders() -> dict[str, NamedConfig]:
    """Table 2, and table 3's errors of the original order and of shortcuts over one layer."""
    configs = {}
    for order, of_depths in _ORDERS.items():
        for depth, results in of_depths.items():
            model = f"preresnet_{depth}"
            facts = _as_published(model, results, _PARAMETERS_OF_ORDERS.get((depth, order), 0))
            more = (_LAST_ACTIVATION,) if order == "relu_only_pre_activation" else ()
            configs[f"{model}_{order}"] = _he_2016(model, facts, "section 4.1", more, order=order)
    for order, error in (("original", 9.90), ("full_pre_activation", 8.91)):
        suffix = "" if order == "full_pre_activation" else f"_{order}"
        configs[f"preresnet_110_one_layer{suffix}"] = _he_2016(
            *("preresnet_110", _as_published("preresnet_110", he_2016(3, error))),
            order=order,
            block="single",
            stage_sizes=(36, 36, 36),
        )
    facts = _as_published("preresnet_1001", he_2016(3, 7.61, 27.82), 10_328_602)
    configs["preresnet_1001_original"] = _he_2016("preresnet_1001", facts, order="original")
    return configs


# Parameters and multiply-adds with a 1x1 convolution in every shortcut, without BN and with it.
_COUNTS_GATED = (1_824_186, 266_781_312)
_COUNTS_CONV_SHORTCUT = (1_826_202, 266_781_312)
_FAILS = "the paper prints no error: training fails, with more than 20%"
_UNSPECIFIED = "the paper does not say how gates and 1x1 shortcuts treat transitions; BN follows a 1x1 shortcut"


def _scaled(shortcut: float, branch: float) -> dict[str, float]:
    return {"shortcut_variant.shortcut": shortcut, "shortcut_variant.branch": branch}


def _gated(bias_init: float, exclusive: bool = True) -> dict[str, float | bool]:
    return {"shortcut_variant.exclusive": exclusive, "shortcut_variant.bias_init": bias_init}


def _shortcuts() -> dict[str, NamedConfig]:
    """Table 1: ResNet-110 in the original order, with every shortcut changed."""
    rows = {
        "no_shortcut": (None, _scaled(0.0, 1.0), ()),
        "half_shortcut": (None, _scaled(0.5, 1.0), ()),
        "half_scaling": (12.35, _scaled(0.5, 0.5), ()),
        "exclusive_gating_0": (None, _gated(0.0), _COUNTS_GATED),
        "exclusive_gating_5": (None, _gated(-5.0), _COUNTS_GATED),
        "exclusive_gating_6": (8.70, _gated(-6.0), _COUNTS_GATED),
        "exclusive_gating_7": (9.81, _gated(-7.0), _COUNTS_GATED),
        "shortcut_gating_0": (12.86, _gated(0.0, exclusive=False), _COUNTS_GATED),
        "shortcut_gating_6": (6.91, _gated(-6.0, exclusive=False), _COUNTS_GATED),
        "conv_shortcut": (12.22, {"shortcut": "C"}, _COUNTS_CONV_SHORTCUT),
        "shortcut_dropout": (None, {"shortcut_variant.rate": 0.5}, ()),
    }
    configs = {}
    for name, (error, options, counts) in rows.items():
        facts = _as_published("preresnet_110", () if error is None else he_2016(1, error), *counts)
        more = (_FAILS,) if error is None else ()
        more += (_UNSPECIFIED,) if counts else ()
        configs[f"preresnet_110_{name}"] = _he_2016(
            "preresnet_110", facts, "section 3.1", more=more, order="original", **options
        )
    return configs


def _batch_64() -> NamedConfig:
    """Table 4: the network of 1001 layers in batches of 64, by the authors' code, which follows fb.resnet.torch."""
    named = fb_torch("preresnet_1001")
    results = CIFAR_NETWORKS["preresnet_1001"].having(batch_size=64)
    deviations = (
        SKIPPED,
        bn_of_gpu("32"),
        "no warm-up, as in the authors' code; the paper starts all networks on CIFAR with 400 iterations at 0.01",
    )
    return NamedConfig(
        dataclasses.replace(named.config, epochs=200, batch_size=64),
        "github.com/KaimingHe/resnet-1k-layers, README",
        _as_published("preresnet_1001", results),
        deviations=deviations,
    )


def _unaugmented(model: str) -> NamedConfig:
    """DenseNet, table 2: the network without augmentation, as its authors trained it."""
    results = CIFAR_NETWORKS[model].having(augmented=False)
    named = fb_torch(model)
    deviations = (
        "the paper does not say how these were trained; this is the recipe of fb.resnet.torch, the base of DenseNet's"
        " code",
        *named.deviations,
    )
    config = dataclasses.replace(named.config, augmentation=UNAUGMENTED)
    source = f"{HUANG_2016_DENSE}, table 2"
    return NamedConfig(config, source, _as_published(model, results), deviations=deviations)


def _effective_paths() -> NamedConfig:
    """Section 4.3: trained only on paths of effective length, with 23 of the 54 blocks in each mini-batch."""
    result = PublishedResult(
        5.96,
        dataset="cifar10",
        origin=VEIT_2016,
        place="section 4.3",
        aggregate="single",
        note="6.10 where all blocks are trained",
    )
    named = _he_2016(
        "preresnet_110", _as_published("preresnet_110", (result,)), **{"stochastic_depth.active_blocks": 23}
    )
    deviations = (
        "the paper describes the recipe only as the standard one",
        "evaluated with all blocks, each scaled by the fraction of blocks that was trained; the paper does not say how",
        *named.deviations,
    )
    return dataclasses.replace(named, source=result.source, deviations=deviations)


def _fixup() -> NamedConfig:
    """The default of the authors' code: ResNet-110 with Fixup and mixup."""
    config = Config(
        model=ModelConfig("resnet_110", normalization="fixup", head_kernel_init="zeros"),
        epochs=200,
        batch_size=128,
        augmentation=dataclasses.replace(ZERO_PADDED, mixup=1.0),
        optimizer=OptimizerConfig(learning_rate=0.1, weight_decay=1e-4, bias_factor=0.1, scale_factor=0.1),
        schedule=ScheduleConfig(boundaries=(100, 150)),
    )
    # 1 + 54 (4 + 1) + 1 scalars, where BN has 8,096 parameters.
    facts = dataclasses.replace(CIFAR_NETWORKS["resnet_110"], parameters=1_720_138, results=())
    deviations = (
        SKIPPED,
        "crops are padded with the mean colour, by the authors' code with black; images are divided by the std of all"
        " pixels, by the authors' code by 0.2023, 0.1994 and 0.2010, the mean std of an image",
        "the paper's errors are of this network with other regularisation too, and are not compared with",
    )
    return NamedConfig(config, f"{ZHANG_2019}; github.com/hongyi-zhang/Fixup, cifar", facts, deviations=deviations)


def _vgg() -> NamedConfig:
    """The plain network of the lesion study."""
    named = _he_2016("vgg_15", CIFAR_NETWORKS["vgg_15"])
    deviations = (
        "the paper prints neither recipe nor error; the residual networks' recipe is used",
        "128 channels in every layer are quoted from memory of the paper; with them any layer can be removed",
        *named.deviations,
    )
    return dataclasses.replace(named, source=f"{VEIT_2016}, section 4.1", deviations=deviations)


RESIDUAL_CONFIGS: dict[str, NamedConfig] = {
    **{f"resnet_{depth}": he_2015(f"resnet_{depth}") for depth in (20, 32, 44, 56, 110, 1202)},
    **{f"plain_{depth}": he_2015(f"plain_{depth}") for depth in (20, 32, 44, 56, 110)},
    **{f"resnet_{depth}_fb": fb_torch(f"resnet_{depth}") for depth in (20, 32, 44, 56, 110)},
    **{
        f"preresnet_{depth}": _he_2016(f"preresnet_{depth}", _as_published(f"preresnet_{depth}"))
        for depth in (110, 164, 1001)
    },
    "preresnet_1001_batch_64": _batch_64(),
    **{f"preresnet_{depth}_unaugmented": _unaugmented(f"preresnet_{depth}") for depth in (164, 1001)},
    **_orders(),
    **_shortcuts(),
    "preresnet_110_effective_paths": _effective_paths(),
    "resnet_110_fixup": _fixup(),
    "vgg_15": _vgg(),
}
