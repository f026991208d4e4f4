"""The typed fields of a run on photographs."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

from experiments.configs.base import RunConfig, run_only
from experiments.configs.model import ModelConfig
from experiments.configs.named import NamedRun
from resjax.data.augment.options import PhotoAugmentation
from resjax.data.images import ExifOrientation, image_dataset_info
from resjax.errors import InputError
from resjax.models.published import Published, PublishedFacts, PublishedResult


@dataclasses.dataclass(frozen=True)
class ImagenetConfig(RunConfig):
    """A run on photographs. The result is a function of the fields that are not run-only."""

    PROGRAM = "python -m experiments.imagenet"
    dataset: str = "imagenet2012"
    """imagenet2012, imagenette, imagenet_resized, or folder: any folder of class folders."""
    image_size: int = 224
    """Side in pixels of a training image."""
    exif_orientation: ExifOrientation = "ignore"
    """Take pixels as stored, as torchvision's ImageFolder does, or turn each image upright by its EXIF orientation."""
    normalization: Literal["imagenet", "weights"] = "imagenet"
    """Mean and std of pixels: those of ImageNet's images, or those that the weights of --pretrained ask for."""
    crop: Literal["resized", "scale", "centre"] = "resized"
    """Training crops. resized: random area and aspect ratio; scale: a square of the image at a random scale; centre:
    as in evaluation."""
    min_area: float = 0.08
    """Crop resized: minimum fraction of the image's area."""
    shortest_side: int = 256
    """Crop scale: minimum length of the shorter side in pixels."""
    longest_side: int = 480
    """Crop scale: maximum length of the shorter side in pixels."""
    repeats: int = 1
    """Copies of each image in a batch, each augmented in its own way."""
    label_smoothing: float = 0.0
    """Fraction of the target that is spread over all classes."""
    augmentation: PhotoAugmentation = PhotoAugmentation()
    eval_resize: int = 256
    """Evaluation: length in pixels to which the shorter side is resized."""
    eval_size: int = 224
    """Evaluation: side in pixels of the central crop."""
    validation_fraction: float = 0.1
    """Fraction of a folder's images to test on, if the folder has no test split."""
    split_seed: int = 0
    """Seed of that split."""
    eval_batch_size: int = run_only(256)
    """Images in an evaluation step, over all devices."""
    eval_mode: Literal["centre", "ten_crops", "multi_scale"] = "centre"
    """centre: one crop; ten_crops: corners and centre and their mirror images; multi_scale: squares over the whole
    image at several scales."""
    eval_scales: tuple[int, ...] = (224, 256, 384, 480, 640)
    """Evaluation at several scales: lengths of the shorter side in pixels."""
    data_dir: str | None = run_only(None)
    """Folder of class folders, or a TFDS data directory; default: TFDS's own."""
    workers: int | None = run_only(None)
    """Number of decoding processes; default: the number of cores minus one. 0 decodes in threads."""
    broken_images: Literal["skip", "fail"] = run_only("skip")
    """skip: report a broken image and go on without it; fail: end the run."""
    linear_probe: bool = run_only(False)
    """Print the error of a linear classifier on the features of --pretrained; train nothing."""
    knn: bool = run_only(False)
    """Print the error of the nearest neighbours among the features of --pretrained; train nothing."""

    @property
    def augments(self) -> bool:
        fixed = dataclasses.replace(self.augmentation, magnitude=9) == PhotoAugmentation(flip=False)
        return not (fixed and self.crop == "centre" and self.repeats == 1)

    def without_augmentation(self) -> Self:
        return dataclasses.replace(self, crop="centre", repeats=1, augmentation=PhotoAugmentation(flip=False))

    def on_network(self, model: ModelConfig, size: tuple[int, int] | None, crop: float) -> Self:
        fields: dict[str, Any] = {}
        if size is not None:
            if size[0] != size[1]:
                raise InputError(f"its images are {size[0]}x{size[1]}; expected squares")
            side = size[0]
            scales = tuple(round(scale * side / self.eval_size) for scale in self.eval_scales)
            fields = {"image_size": side, "eval_size": side, "eval_resize": math.floor(side / crop + 1e-6)}
            fields["eval_scales"] = scales
        return dataclasses.replace(self, model=model, normalization="weights", **fields)

    def following(self, recipe: RunConfig, given: Collection[str]) -> tuple[Self, str]:
        """Evaluation follows another size of the training images, in the recipe's proportion."""
        assert isinstance(recipe, ImagenetConfig)
        if self.image_size == recipe.image_size or self.image_size <= 0:
            return self, ""
        ratio = self.image_size / recipe.image_size
        sizes = {name: round(getattr(recipe, name) * ratio) for name in ("eval_resize", "eval_size")}
        sizes = {name: max(size, 1) for name, size in sizes.items() if name not in given}
        scales = {} if "eval_scales" in given else {"eval_scales": tuple(round(s * ratio) for s in recipe.eval_scales)}
        said = " ".join(f"--{name} {size}" for name, size in sizes.items())
        note = f"--image_size {self.image_size}: evaluation follows it: {said}" if said else ""
        return dataclasses.replace(self, **sizes, **scales), note


@dataclasses.dataclass(frozen=True)
class NamedImagenet(NamedRun):
    """A named run on photographs, with the results of its paper.

    Attributes besides those of `NamedRun`:
      facts: exact counts for 1000 classes and 224x224 images.
      published: the error on ImageNet's validation images to compare with, or None.
    """

    config: ImagenetConfig
    facts: PublishedFacts
    published: PublishedResult | None = None

    @property
    def parameters_of_network(self) -> int:
        return self.facts.parameters

    def table_row(self) -> dict[str, str]:
        error, statistic = "-", ""
        if self.published is not None:
            top5 = "-" if self.published.top5_error is None else f"{self.published.top5_error:.2f}"
            error, statistic = f"{self.published.test_error:.2f} / {top5}", self.published.statistic
        return {
            "parameters": f"{self.parameters_of_network:,}",
            "published error %\ntop 1 / top 5": error,
            "statistic": statistic,
            "epochs": str(self.config.epochs),
        }

    def to_compare(self) -> dict[str, Published | None]:
        return {self.config.dataset: self.published}

    def whole_data(self, fields: Mapping[str, Any]) -> dict[str, int]:
        known = image_dataset_info(fields["dataset"])
        return {} if known is None else {"training": known.train_images, "test": known.test_images}
