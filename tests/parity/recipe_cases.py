"""Six recipes twice: as our configs, and as the PyTorch program knows them from the papers."""

import dataclasses
from collections.abc import Callable

from experiments.configs.base import Config
from experiments.configs.cifar import CONFIGS
from tests.parity import twins
from tests.parity.torch_program import Recipe


@dataclasses.dataclass(frozen=True)
class Case:
    """A config of ours, and the recipe as PyTorch's side knows it."""

    config: Config
    recipe: Recipe


def _he(network, **options) -> Recipe:
    """He et al. 2015, section 4.2, and 2016, appendix; Caffe trained the former, Torch the latter."""
    plain = {"nesterov": False, "decayed": "weights", "weight_decay": 1e-4, "per_pixel": True}
    return Recipe(network, drops=(32_000, 48_000), **plain, **options)


def _small_resnext() -> Config:
    """The recipe of ResNeXt-29 for a network of cardinality 4: the paper's own are of 8 and 16."""
    config = CONFIGS["resnext_29_8x64d"].config
    return dataclasses.replace(config, model=config.model.replace(name="resnext_29_4x16d"))


def _epochs(*numbers: int, batch: int) -> tuple[int, ...]:
    return tuple(number * (50_000 // batch) for number in numbers)


CASES = {
    "resnet_20": Case(CONFIGS["resnet_20"].config, _he(lambda: twins.resnet(20), caffe=True)),
    "densenet_40_12": Case(
        CONFIGS["densenet_40_12"].config,
        # Huang et al. 2017, section 4.2.
        Recipe(lambda: twins.densenet(40, 12), drops=_epochs(150, 225, batch=64), weight_decay=1e-4),
    ),
    "wrn_16_4": Case(
        CONFIGS["wrn_16_4"].config,
        # Zagoruyko & Komodakis 2016, section 3, and their code.
        Recipe(
            lambda: twins.wide_resnet(16, 4),
            drops=_epochs(59, 119, 159, batch=128),
            factor=0.2,
            weight_decay=5e-4,
            rebuilds=True,
            padding="reflect",
        ),
    ),
    "resnext_29_4x16d": Case(
        _small_resnext(),
        # Xie et al. 2017, section 5.3: 128 images on 8 GPUs.
        Recipe(lambda: twins.resnext(29, 4, 16, 128 // 8), drops=_epochs(150, 225, batch=128), weight_decay=5e-4),
    ),
    "resnet_110": Case(CONFIGS["resnet_110"].config, _he(lambda: twins.resnet(110), warm_up=0.8, caffe=True)),
    "preresnet_164": Case(CONFIGS["preresnet_164"].config, _he(lambda: twins.preact_bottleneck(164), warm_up=400)),
}


def compressed(case: Case, steps: int) -> Case:
    """The same recipe with all that its schedule does within `steps` steps.

    The drops are spread over the second half; a warm-up by steps takes the first quarter, one until an error ends at
    99.5%, which the running average passes after a few steps.
    """
    count = len(case.recipe.drops)
    drops = tuple(steps // 2 + i * (steps // 2) // count for i in range(count))
    per_epoch = 50_000 // case.config.batch_size
    schedule = dataclasses.replace(case.config.schedule, boundaries=tuple(drop / per_epoch for drop in drops))
    recipe = dataclasses.replace(case.recipe, drops=drops)
    if schedule.warmup_until_error:
        schedule = dataclasses.replace(schedule, warmup_until_error=99.5)
        recipe = dataclasses.replace(recipe, warm_up=0.995)
    elif schedule.warmup_epochs:
        schedule = dataclasses.replace(schedule, warmup_epochs=(steps // 4) / per_epoch)
        recipe = dataclasses.replace(recipe, warm_up=steps // 4)
    return Case(dataclasses.replace(case.config, schedule=schedule), recipe)


def wanted_steps(case: Case, steps: int) -> Callable[[int], bool]:
    """Every tenth step, the last one, and those around the drops and the end of a warm-up by steps."""
    changes = [change for change in (*case.recipe.drops, case.recipe.warm_up) if change >= 1]
    near = {int(change) + offset for change in changes for offset in (-1, 0, 1)}
    return lambda step: step % 10 == 0 or step == steps - 1 or step in near
