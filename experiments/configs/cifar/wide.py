"""Wide ResNets on CIFAR and SVHN, as Zagoruyko & Komodakis 2016 (arXiv 1605.07146) trained them."""

import dataclasses

from experiments.configs.base import Config, ModelConfig, OptimizerConfig, ScheduleConfig
from experiments.configs.named import LAST, NamedConfig
from resjax.data.augment import Augmentation
from resjax.models.published import ZAGORUYKO_2016, ZAGORUYKO_2016_CODE, PublishedFacts, PublishedResult
from resjax.models.published.cifar import CIFAR_NETWORKS, wide

_WHITENED = (
    "whitened as pylearn2's make_cifar10_gcn_whitened does, which the authors' README names: GCN at 55, ZCA bias 0.1"
)


def _wide(model: str, facts: PublishedFacts, **options) -> NamedConfig:
    """Section 3: 200 epochs, lr 0.1, fifths at the start of epochs 60, 120 and 160 (counted from 1), Nesterov.

    Images are whitened if the published result is for whitened images.
    """
    whitened = bool(facts.results) and facts.results[0].whitened
    config = Config(
        model=ModelConfig(model, **options),
        epochs=200,
        batch_size=128,
        # The authors' code uses CIFAR-10's mean and std for CIFAR-100, too.
        normalization="gcn_zca" if whitened else "cifar10_mean_std",
        augmentation=Augmentation(crop_padding=4, padding_mode="reflect", flip=True),
        # The authors' code decays every parameter. It rebuilds the optimizer at each drop, and so loses its momentum.
        optimizer=OptimizerConfig(
            learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, reset_momentum=True
        ),
        schedule=ScheduleConfig(boundaries=(59, 119, 159), factor=0.2),
    )
    deviations = (_WHITENED, LAST) if whitened else (LAST,)
    return NamedConfig(config, f"{ZAGORUYKO_2016}, section 3", facts, deviations=deviations)


def _of_kind(model: str, whitened: bool) -> PublishedFacts:
    """A network's counts with its CIFAR results for one kind of images, without SVHN and the logs."""
    facts = CIFAR_NETWORKS[model]
    kept = tuple(
        result
        for result in facts.having(origin=ZAGORUYKO_2016, whitened=whitened)
        if result.dataset in ("cifar10", "cifar100")
    )
    return dataclasses.replace(facts, results=kept)


def _named() -> dict[str, NamedConfig]:
    """Every network of the paper. NAME has mean and std if that was published; NAME_zca has whitening."""
    configs = {}
    for model in CIFAR_NETWORKS:
        # WRN-40-10 was published only with dropout.
        if not model.startswith("wrn_") or model == "wrn_40_10":
            continue
        plain, white = _of_kind(model, False), _of_kind(model, True)
        if plain.results:
            configs[model] = _wide(model, plain)
        if white.results:
            configs[f"{model}_zca" if plain.results else model] = _wide(model, white)
    return configs


def _counts(model: str, results=()) -> PublishedFacts:
    return dataclasses.replace(CIFAR_NETWORKS[model], results=results)


def _dropout(model: str, cifar10: float, cifar100: float) -> NamedConfig:
    """Table 6: dropout inside the block."""
    return _wide(model, _counts(model, wide(6, cifar10, cifar100, options={"dropout_rate": 0.3})), dropout_rate=0.3)


def _deepening(factor: int, cifar10: float) -> NamedConfig:
    """Table 3: the same number of parameters for each l."""
    return _wide("wrn_40_2", _counts("wrn_40_2", wide(3, cifar10)), deepening_factor=factor)


def _block(model: str, block_type: tuple[int, ...], parameters: int, multiply_adds: int, cifar10: float) -> NamedConfig:
    """Table 2: block types, at about equal numbers of parameters."""
    return _wide(model, PublishedFacts(parameters, multiply_adds, wide(2, cifar10)), block_type=block_type)


def _svhn(model: str, dropout: bool) -> NamedConfig:
    """Section 3: 160 epochs of train and extra images, lr 0.01, tenths after 80 and 120; pixels / 255 only."""
    facts = CIFAR_NETWORKS[model]
    options = {"dropout_rate": 0.4} if dropout else {}
    config = Config(
        model=ModelConfig(model, **options),
        dataset="svhn_cropped",
        extra=True,
        epochs=160,
        batch_size=128,
        augmentation=Augmentation(crop_padding=0, flip=False),
        optimizer=OptimizerConfig(
            learning_rate=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, reset_momentum=True
        ),
        # At the start of epochs 80 and 120, counted from 1.
        schedule=ScheduleConfig(boundaries=(79, 119), factor=0.1),
    )
    deviations = (LAST,)
    facts = dataclasses.replace(facts, results=facts.having(dataset="svhn_cropped", options=options))
    return NamedConfig(config, f"{ZAGORUYKO_2016}, section 3", facts, deviations=deviations)


def _pre_activation() -> NamedConfig:
    """The authors' log of a pre-activation ResNet-164, with their recipe and their code's initial values."""
    result = PublishedResult(
        5.75, dataset="cifar10", origin=ZAGORUYKO_2016_CODE, place="logs", aggregate="single", whitened=True
    )
    facts = dataclasses.replace(CIFAR_NETWORKS["preresnet_164"], results=(result,))
    named = _wide("preresnet_164", facts, kernel_init="he_normal_fan_in", norm_scale_init="uniform")
    return dataclasses.replace(named, source=result.source)


WIDE_CONFIGS: dict[str, NamedConfig] = {
    **_named(),
    "wrn_16_4_dropout": _dropout("wrn_16_4", 5.24, 23.91),
    "wrn_28_10_dropout": _dropout("wrn_28_10", 3.89, 18.85),
    "wrn_52_1_dropout": _dropout("wrn_52_1", 6.28, 29.78),
    "wrn_40_10_dropout": _wide("wrn_40_10", CIFAR_NETWORKS["wrn_40_10"], dropout_rate=0.3),
    "preresnet_164_zca": _pre_activation(),
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
    **{f"{model}_svhn": _svhn(model, dropout=False) for model in ("wrn_16_4", "wrn_16_8", "wrn_52_1")},
    **{f"{model}_svhn_dropout": _svhn(model, dropout=True) for model in ("wrn_16_4", "wrn_16_8", "wrn_52_1")},
}
