"""Runs on photographs by name: the recipes of the papers, of their authors' code and of torchvision, and a first run.

    python -m experiments.imagenet --config resnet_50 --data_dir DIR

Boundaries are completed epochs; of 5,004 steps on ImageNet in batches of 256. Learning rates are those of the batch
beside them: of another batch, multiply by the ratio.
"""

import dataclasses
from typing import Literal

from experiments.configs.base import (
    Comparison,
    ModelConfig,
    NamedRun,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    run_only,
)
from resjax.data.augment_photos import PhotoAugmentation
from resjax.models.published import (
    HE_2015,
    HE_2016,
    HUANG_2016_DENSE,
    HUANG_2016_DEPTH,
    WU_2016,
    XIE_2016,
    ZAGORUYKO_2016,
    Facts,
    PublishedResult,
)
from resjax.models.published_cifar import CIFAR_NETWORKS
from resjax.models.published_imagenet import IMAGENET_NETWORKS

_FB = "github.com/facebookarchive/fb.resnet.torch"


@dataclasses.dataclass(frozen=True)
class ImagenetModelConfig(ModelConfig):
    """The network; a field at None keeps the network's own default."""

    bottleneck_stride: Literal["1x1", "3x3"] | None = None
    """ResNet: which convolution of a bottleneck has the stride: the first, as published (v1), or the second."""
    zero_init_residual: bool | None = None
    """ResNet: start each branch's last BN scale at zero."""


@dataclasses.dataclass(frozen=True)
class ImagenetConfig(RunConfig):
    """A run on photographs. The result is a function of the fields that are not run-only."""

    model: ImagenetModelConfig
    dataset: str = "imagenet2012"
    """imagenet2012, imagenette, imagenet_resized, or folder: any folder of class folders."""
    image_size: int = 224
    """Side in pixels of a training image."""
    crop: Literal["resized", "scale"] = "resized"
    """Training: a random part of random area and shape, or a square of the image at a random scale."""
    least_area: float = 0.08
    """Crop resized: smallest part of the image's area."""
    shortest_side: int = 256
    """Crop scale: smallest shorter side in pixels."""
    longest_side: int = 480
    """Crop scale: largest shorter side in pixels."""
    repeats: int = 1
    """Times that each image of a batch occurs in it, each time seen otherwise."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    augmentation: PhotoAugmentation = PhotoAugmentation()
    eval_resize: int = 256
    """Evaluation: shorter side in pixels to which an image is resized."""
    eval_size: int = 224
    """Evaluation: side in pixels of the central crop."""
    validation_share: float = 0.1
    """Share of a folder's images to test on, where it has no split of its own."""
    split_seed: int = 0
    """Seed of that split."""
    eval_batch_size: int = run_only(256)
    """Images in an evaluation step, over all devices."""
    eval_mode: Literal["centre", "ten_crops", "multi_scale"] = run_only("centre")
    """One crop; corners and centre and their mirror images; squares over the whole image at several scales."""
    eval_scales: tuple[int, ...] = run_only((224, 256, 384, 480, 640))
    """Evaluation at several scales: shorter sides in pixels."""
    data_dir: str | None = run_only(None)
    """Folder of class folders, or a TFDS data directory; default: TFDS's own."""
    workers: int | None = run_only(None)
    """Processes that decode images; default: one for each core but one. 0 decodes in threads."""
    broken_images: Literal["skip", "fail"] = run_only("skip")
    """Report a broken image and go on without it, or end the run."""


@dataclasses.dataclass(frozen=True)
class NamedImagenet(NamedRun):
    """A named run on photographs beside what its paper published.

    Attributes, beside those of `NamedRun`:
      facts: exact counts for 1000 classes and 224x224 images.
      published: the error on ImageNet's validation images to compare with, or None.
    """

    config: ImagenetConfig
    facts: Facts
    published: PublishedResult | None = None

    @property
    def parameters_of_network(self) -> int:
        return self.facts.parameters

    def to_compare(self) -> dict[str, Comparison | None]:
        return {self.config.dataset: None if self.published is None else Comparison.of_error(self.published)}


def _published(model: str, source: str, statistic: str = "") -> PublishedResult | None:
    """The first result of a network whose source and statistic hold these words."""
    results = IMAGENET_NETWORKS[model].results
    return next((r for r in results if source in r.source and statistic in r.statistic), None)


def _fb_torch(model: str, source: str, paper: str, *, deviations=(), statistic="", **changes) -> NamedImagenet:
    """The recipe of fb.resnet.torch, which most papers' code started from: 90 epochs, lr 0.1 in batches of 256."""
    config = ImagenetConfig(
        model=ImagenetModelConfig(model),
        epochs=90,
        batch_size=256,
        augmentation=PhotoAugmentation(flip=True, colour_jitter=0.4, lighting=0.1),
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, decay="all"),
        schedule=ScheduleConfig(boundaries=(30, 60)),
    )
    deviations = (
        "the shape of a crop is log-uniform in 3/4 .. 4/3, as torchvision's; there the shape is uniform",
        "test images are resized bilinearly with antialiasing, there bicubically without",
        *deviations,
    )
    return NamedImagenet(
        dataclasses.replace(config, **changes),
        source,
        IMAGENET_NETWORKS[model],
        _published(model, paper, statistic),
        deviations=deviations,
    )


def _he_2015(model: str, table: str, **options) -> NamedImagenet:
    """Section 3.4: batch 256, lr 0.1, tenths on plateaus, at most 60e4 iterations; weight decay 1e-4, momentum 0.9."""
    config = ImagenetConfig(
        model=ImagenetModelConfig(model, **options),
        epochs=120,
        batch_size=256,
        crop="scale",
        augmentation=PhotoAugmentation(flip=True, lighting=0.1),
        # Plain momentum and decay of the weights alone: the paper's Caffe solver.
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay="kernels"),
        schedule=ScheduleConfig(boundaries=(30, 60, 90)),
        eval_mode="ten_crops",
    )
    deviations = (
        "60e4 iterations are 120 epochs; the rate drops after 30, 60 and 90, not where the error stops falling",
        "mean and std per channel are normalised, not the mean of each pixel subtracted",
        "statistics of BN are moving averages, not recomputed after training",
    )
    return NamedImagenet(
        config,
        f"{HE_2015}, section 3.4",
        IMAGENET_NETWORKS[model],
        _published(model, table, "10-crop"),
        deviations=deviations,
    )


def _torchvision(model: str, epochs: int = 90) -> NamedImagenet:
    """torchvision's first recipe: crop and flip alone, lr 0.1 in batches of 8 x 32, a tenth every 30 epochs."""
    config = ImagenetConfig(
        model=ImagenetModelConfig(model),
        epochs=epochs,
        batch_size=256,
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay="all"),
        schedule=ScheduleConfig(boundaries=tuple(range(30, epochs, 30))),
    )
    return NamedImagenet(
        config,
        "torchvision, references/classification, first recipe",
        IMAGENET_NETWORKS[model],
        _published(model, "torchvision"),
        deviations=("BN takes the statistics of the whole batch, there of the 32 images of a GPU",),
    )


def _torchvision_modern() -> NamedImagenet:
    """The recipe of torchvision's IMAGENET1K_V2 weights (Vryniotis 2021): batch 1024, cosine, 600 epochs."""
    config = ImagenetConfig(
        model=ImagenetModelConfig("resnet_50"),
        epochs=600,
        batch_size=1024,
        image_size=176,
        repeats=4,
        label_smoothing=0.1,
        # There, the average is updated every 32 steps with 1 - 2e-5 * 1024 * 32 / 600; the same over 32 steps.
        average_decay=1 - 2e-5 * 1024 / 600,
        augmentation=PhotoAugmentation(flip=True, policy="trivial_augment", random_erasing=0.1, mixup=0.2, cutmix=1.0),
        optimizer=OptimizerConfig(learning_rate=0.5, momentum=0.9, weight_decay=2e-5, decay="kernels"),
        schedule=ScheduleConfig(kind="cosine", warmup_epochs=5, warmup_from=0.005),
        eval_resize=232,
    )
    return NamedImagenet(
        config,
        "torchvision, references/classification, new recipe",
        IMAGENET_NETWORKS["resnet_50"],
        PublishedResult("imagenet2012", 19.142, "1-crop 224", "torchvision, weights IMAGENET1K_V2", 4.566),
        deviations=(
            "each image takes mixup or CutMix, there each batch takes one, and with probability 1/2",
            "neither BN parameters nor the bias of the classifier decay, there the latter does",
            "the learning rate changes every step, there every epoch; the moving average starts with training",
            "repeated images fill one batch together, over epochs every image is repeated equally often",
        ),
    )


def _dense_source(model: str) -> str:
    return "liuzhuang13" if model == "densenet_161" else "table 3"


def _stochastic_depth() -> NamedImagenet:
    named = _fb_torch(
        "resnet_152",
        f"{HUANG_2016_DEPTH}, section 4",
        "no result of a constant depth",
        batch_size=128,
        deviations=("shortcuts of changed shape are projections; there average pooling and zero channels",),
    )
    model = dataclasses.replace(named.config.model, survival_probability=0.5)
    published = PublishedResult("imagenet2012", 23.38, "90 epochs", f"{HUANG_2016_DEPTH}, section 4")
    return dataclasses.replace(named, config=dataclasses.replace(named.config, model=model), published=published)


def _wu_2016(model: str) -> NamedImagenet:
    """Section 4: the learning rate falls linearly to zero; evaluated at 320 pixels."""
    deviations = ("after the colours were changed, images are not clipped to 0 .. 255",)
    if model.endswith("a1"):
        deviations += ("trained from the start; published after model A was tuned on for 45,000 iterations",)
    return _fb_torch(
        *(model, f"{WU_2016}, section 4", "ademxapp"),
        schedule=ScheduleConfig(kind="linear"),
        eval_resize=320,
        eval_size=320,
        deviations=deviations,
    )


def _quickstart() -> NamedImagenet:
    config = ImagenetConfig(
        model=ImagenetModelConfig("resnet_20"),
        dataset="folder",
        epochs=12,
        batch_size=64,
        image_size=32,
        least_area=0.35,
        eval_resize=32,
        eval_size=32,
        optimizer=OptimizerConfig(learning_rate=0.1, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig(kind="one_cycle"),
        eval_batch_size=128,
    )
    return NamedImagenet(
        config,
        "a first run: ResNet-20 on your own folder at 32 pixels, minutes on two CPU cores",
        CIFAR_NETWORKS["resnet_20"],
    )


CONFIGS: dict[str, NamedImagenet] = {
    "quickstart": _quickstart(),
    **{
        f"resnet_{depth}": _fb_torch(f"resnet_{depth}", _FB, "fb.resnet.torch", statistic="1-crop")
        for depth in (18, 34, 101, 152)
    },
    # The ResNet-50 of fb.resnet.torch has BN after the addition; ResNeXt's authors trained this one.
    "resnet_50": _fb_torch("resnet_50", _FB, "1611.05431"),
    "resnet_50_torchvision": _torchvision("resnet_50"),
    "resnet_50_modern": _torchvision_modern(),
    "plain_18": _he_2015("plain_18", "table 2"),
    "plain_34": _he_2015("plain_34", "table 3"),
    "resnet_18_he2015": _he_2015("resnet_18", "table 2", shortcut="A"),
    "resnet_34_he2015": _he_2015("resnet_34", "table 3"),
    **{
        f"resnet_{depth}_he2015": _he_2015(f"resnet_{depth}", "table 3", bottleneck_stride="1x1")
        for depth in (50, 101, 152)
    },
    **{
        f"preresnet_{depth}": _fb_torch(
            f"preresnet_{depth}",
            f"{HE_2016}, section 5",
            "table 5",
            crop="scale" if depth == 152 else "resized",
            eval_resize=320,
            eval_size=320,
            deviations=("the stride of a bottleneck is in its 3x3 convolution",),
        )
        for depth in (152, 200)
    },
    **{
        name: _fb_torch(name, f"{ZAGORUYKO_2016}, section 3", "1605.07146")
        for name in IMAGENET_NETWORKS
        if name.startswith(("wrn_imagenet", "wrn_50"))
    },
    "wrn_101_2": _torchvision("wrn_101_2"),
    **{
        name: _fb_torch(
            name, f"{XIE_2016}, section 5.1", "1611.05431", epochs=100, schedule=ScheduleConfig(boundaries=(30, 60, 90))
        )
        for name in IMAGENET_NETWORKS
        if name.startswith("resnext") and name != "resnext_101_32x8d"
    },
    "resnext_101_32x8d": _torchvision("resnext_101_32x8d", epochs=100),
    **{
        name: _fb_torch(name, f"{HUANG_2016_DENSE}, section 4.2", _dense_source(name))
        for name in IMAGENET_NETWORKS
        if name.startswith("densenet")
    },
    "resnet_152_stochastic_depth": _stochastic_depth(),
    **{name: _wu_2016(name) for name in IMAGENET_NETWORKS if name.startswith("wider_resnet")},
}
