"""The typed fields of a run on photographs."""

import dataclasses
from typing import Literal

from experiments.configs.base import ModelConfig, RunConfig, run_only
from experiments.configs.named import Comparison, NamedRun
from resjax.data.augment_photos import PhotoAugmentation
from resjax.models.published import Facts, PublishedResult


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
    eval_mode: Literal["centre", "ten_crops", "multi_scale"] = "centre"
    """One crop; corners and centre and their mirror images; squares over the whole image at several scales."""
    eval_scales: tuple[int, ...] = (224, 256, 384, 480, 640)
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
