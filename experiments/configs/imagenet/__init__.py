"""Named runs on photographs: the recipes of the papers, of their authors' code and of torchvision, and a first run.

    python -m experiments.imagenet --config resnet_50 --data_dir DIR

Boundaries are completed epochs. On ImageNet, an epoch has 5,004 steps in batches of 256. Each learning rate is for
the batch size beside it: multiply it by the ratio for another batch size.
"""

import dataclasses

from experiments.configs.base import FINE_TUNING, ModelConfig, OptimizerConfig, ScheduleConfig
from experiments.configs.imagenet.fb_torch import fb_torch, published_of
from experiments.configs.imagenet.fields import ImagenetConfig, NamedImagenet
from experiments.configs.imagenet.he import HE_CONFIGS
from experiments.configs.imagenet.torchvision import TORCHVISION_CONFIGS
from resjax.models.published import (
    FB_TORCH,
    HUANG_2016_DENSE,
    HUANG_2016_DEPTH,
    WU_2016,
    WU_2016_CODE,
    XIE_2016,
    ZAGORUYKO_2016,
    PublishedFacts,
    PublishedResult,
)
from resjax.models.published.cifar import CIFAR_NETWORKS
from resjax.models.published.imagenet import IMAGENET_NETWORKS, photographs


def _huang_2016(error: float, epochs: int, survival_probability: float | None = None) -> NamedImagenet:
    """Section 4: ResNet-152 in batches of 128."""
    source = f"{HUANG_2016_DEPTH}, section 4"
    named = fb_torch(
        "resnet_152",
        source,
        photographs(HUANG_2016_DEPTH, "section 4", error, epochs=epochs),
        batch_size=128,
        epochs=epochs,
        schedule=ScheduleConfig(boundaries=(30, 60, 90)[: epochs // 30 - 1]),
    )
    rule = {"stochastic_depth.survival_probability": survival_probability} if survival_probability else {}
    model = named.config.model.replace(**rule)
    return dataclasses.replace(named, config=dataclasses.replace(named.config, model=model))


def _fb_torch(model: str) -> NamedImagenet:
    """README: a network that this code trained and its authors released."""
    return fb_torch(model, published=published_of(model, origin=FB_TORCH, view="one_crop"))


def _bn_after_addition_fb() -> NamedImagenet:
    """README: fb.resnet.torch's ResNet-50 has BN after the addition."""
    named = _fb_torch("resnet_50")
    model = ModelConfig("preresnet_50", order="bn_after_addition")
    return dataclasses.replace(named, config=dataclasses.replace(named.config, model=model))


def _xie_2016(model: str, published: PublishedResult | None = None, **changes) -> NamedImagenet:
    """fb.resnet.torch's recipe; the authors' code (opts.lua, train.lua) runs 100 epochs and drops after 90, too."""
    return fb_torch(
        *(model, f"{XIE_2016}, section 5.1", published or published_of(model, origin=XIE_2016, size=224)),
        epochs=100,
        schedule=ScheduleConfig(boundaries=(30, 60, 90)),
        **changes,
    )


def _without_shortcuts(model: str, top1: float, parameters: int, multiply_adds: int) -> NamedImagenet:
    """Section 5.1: the same network with every shortcut removed."""
    named = _xie_2016(model, photographs(XIE_2016, "section 5.1", top1, view="one_crop", size=224))
    config = dataclasses.replace(named.config, model=ModelConfig(model, shortcut="none"))
    return dataclasses.replace(named, config=config, facts=PublishedFacts(parameters, multiply_adds))


def _wu_2016(model: str) -> NamedImagenet:
    """Section 4: the learning rate falls linearly to zero; evaluated at 320 pixels."""
    deviations = ("the learning rate falls to 0; the authors' code stops at 1e-6",)
    if model.endswith("a1"):
        deviations += ("trained from scratch; the published model is model A, tuned for another 45,000 iterations",)
    elif model.endswith("a"):
        deviations += ("max-pooling is padded on all sides; the released network's is not, and rounds its size up",)
    return fb_torch(
        *(model, f"{WU_2016}, section 4", published_of(model, origin=WU_2016_CODE)),
        schedule=ScheduleConfig(kind="linear"),
        eval_resize=320,
        eval_size=320,
        colours="each change of brightness, contrast or saturation is clipped to 0 .. 255, and the lighting after"
        " them is not; the authors' code clips once, after all",
        deviations=deviations,
    )


def _quickstart() -> NamedImagenet:
    config = ImagenetConfig(
        model=ModelConfig("resnet_20"),
        dataset="folder",
        epochs=12,
        batch_size=64,
        image_size=32,
        min_area=0.35,
        eval_resize=32,
        eval_size=32,
        optimizer=OptimizerConfig(learning_rate=0.1, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig(kind="one_cycle"),
        eval_batch_size=128,
        eval_scales=(32, 37, 55, 69, 91),
    )
    return FollowsFolder(
        config,
        "a first run: ResNet-20 on your own folder at 32 pixels, minutes on two CPU cores",
        CIFAR_NETWORKS["resnet_20"],
    )


# Updates after which a ResNet-20 tells a few classes apart, and the epochs that a folder may take for them.
_UPDATES, _MOST_EPOCHS = 300, 60


@dataclasses.dataclass(frozen=True)
class FollowsFolder(NamedImagenet):
    """A first run whose batch, learning rate, epochs and BN momentum follow the number of images in a folder."""

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return 64, 32, 16

    def for_images(self, train_images: int) -> "FollowsFolder":
        config, (most, *_, least) = self.config, self.batch_sizes
        enough = (size for size in self.batch_sizes if train_images // size * config.epochs >= _UPDATES)
        batch_size = next(enough, least)
        if batch_size == most:
            return self
        steps = max(train_images // batch_size, 1)
        epochs = min(max(-(-_UPDATES // steps), config.epochs), _MOST_EPOCHS)
        rate = config.optimizer.learning_rate * batch_size / most
        optimizer = dataclasses.replace(config.optimizer, learning_rate=rate)
        # The running statistics of a short run forget its beginning sooner.
        short = steps * epochs < _UPDATES
        model = config.model.replace(norm_momentum=0.8) if short else config.model
        changed = dataclasses.replace(config, batch_size=batch_size, epochs=epochs, optimizer=optimizer, model=model)
        return dataclasses.replace(self, config=changed)


def _finetune() -> NamedImagenet:
    config = ImagenetConfig(
        model=ModelConfig("resnet_50", frozen_statistics=True),
        dataset="folder",
        **FINE_TUNING,
        min_area=0.25,
        eval_batch_size=64,
    )
    return NamedImagenet(
        config,
        "fine-tuning: the network and the input of --pretrained WEIGHTS, with a new head",
        IMAGENET_NETWORKS["resnet_50"],
    )


CONFIGS: dict[str, NamedImagenet] = {
    "quickstart": _quickstart(),
    "finetune": _finetune(),
    **{f"resnet_{depth}": _fb_torch(f"resnet_{depth}") for depth in (18, 34, 101, 152)},
    # The ResNet-50 of fb.resnet.torch has BN after the addition; ResNeXt's authors trained this one.
    "resnet_50": _xie_2016("resnet_50"),
    "resnet_50_fb": _bn_after_addition_fb(),
    "resnet_101_xie2016": _xie_2016("resnet_101"),
    **HE_CONFIGS,
    **TORCHVISION_CONFIGS,
    "preresnet_200_fb": _fb_torch("preresnet_200"),
    "resnet_50_no_shortcuts": _without_shortcuts("resnet_50", 31.2, 22_780_456, 3_729_522_688),
    "resnext_50_32x4d_no_shortcuts": _without_shortcuts("resnext_50_32x4d", 26.1, 22_252_328, 3_870_818_304),
    **{
        name: fb_torch(name, f"{ZAGORUYKO_2016}, section 3", published_of(name, origin=ZAGORUYKO_2016))
        for name in IMAGENET_NETWORKS
        if name.startswith(("wrn_imagenet", "wrn_50"))
    },
    **{
        name: _xie_2016(name)
        for name in IMAGENET_NETWORKS
        if name.startswith("resnext") and name != "resnext_101_32x8d"
    },
    "resnext_101_64x4d_320": _xie_2016(
        "resnext_101_64x4d",
        published_of("resnext_101_64x4d", origin=XIE_2016, size=320),
        eval_resize=320,
        eval_size=320,
    ),
    **{
        name: fb_torch(
            *(name, f"{HUANG_2016_DENSE}, section 4.2"), published_of(name, origin=HUANG_2016_DENSE, view="one_crop")
        )
        for name in IMAGENET_NETWORKS
        if name.startswith("densenet") and name != "densenet_161"
    },
    # Batches of 128 for lack of memory; 100 epochs with a drop at 90.
    "densenet_161": fb_torch(
        *("densenet_161", f"{HUANG_2016_DENSE}, section 4.2, earlier version"),
        published_of("densenet_161", origin=HUANG_2016_DENSE),
        deviations=("the batch and the length are quoted from memory: the text of that version was not available",),
        batch_size=128,
        epochs=100,
        schedule=ScheduleConfig(boundaries=(30, 60, 90)),
    ),
    "resnet_152_stochastic_depth": _huang_2016(23.38, 90, survival_probability=0.5),
    "resnet_152_stochastic_depth_120": _huang_2016(21.98, 120, survival_probability=0.5),
    "resnet_152_constant_depth": _huang_2016(23.06, 90),
    "resnet_152_constant_depth_120": _huang_2016(21.78, 120),
    **{name: _wu_2016(name) for name in IMAGENET_NETWORKS if name.startswith("wider_resnet")},
}
