"""Segmentation runs by name: Wu et al. 2016 (arXiv 1611.10080), section 5, and a first run on drawn images.

python -m experiments.segmentation --config resnet_38_a1_voc --data_dir VOC2012 --pretrained DIR
"""

import dataclasses
from typing import Any

from experiments.configs.base import ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from experiments.configs.named import Comparison, NamedRun
from resjax.data.augment_masks import MaskAugmentation
from resjax.models.published import WU_2016


@dataclasses.dataclass(frozen=True)
class SegmentationModelConfig(ModelConfig):
    """The trunk and its head; a field at None keeps the network's own default."""

    output_stride: int = 8
    """Pixels of the image to one of the trunk's output."""
    head_width: int = 512
    """Channels of the head's first convolution."""
    head_dilation: int = 12
    """Dilation of the head's convolutions."""


@dataclasses.dataclass(frozen=True)
class SegmentationConfig(RunConfig):
    """A segmentation run. The result is a function of these fields."""

    model: SegmentationModelConfig
    dataset: str = "voc"
    """shapes, voc and pascal_context (folders), oxford_iiit_pet, scene_parse150, cityscapes."""
    train_split: str | None = None
    """Split to train on; default: the dataset's own."""
    test_split: str | None = None
    """Split to test on; default: the dataset's own."""
    longer_side: int = 0
    """Pixels to which the longer side of every image is resized, for training and test; 0 keeps their sizes."""
    pretrained: str | None = None
    """Weights of the trunk's classifier: a folder of resjax.save_pretrained, or a .safetensors or .pth file."""
    frozen_statistics: bool = False
    """Normalise by the running BN statistics in training, too."""
    coarse_loss: bool = False
    """Compare coarse logits with subsampled labels in training, not enlarged logits with all labels."""
    ohem_threshold: float = 0.0
    """Online hard example mining: pixels count whose probability is at most this; 0 takes all."""
    ohem_least: int = 256
    """Online hard example mining: pixels that count at least."""
    head_factor: float = 1.0
    """Factor of the head's learning rate."""
    augmentation: MaskAugmentation = MaskAugmentation()
    eval_scales: tuple[float, ...] = (1.0,)
    """Scales at which test images are seen; their predictions are averaged."""
    eval_flip: bool = False
    """Average in the prediction of the mirrored image."""
    eval_window: int = 0
    """Side in pixels of the windows in which larger test images are worked through; 0 takes whole images."""


@dataclasses.dataclass(frozen=True)
class NamedSegmentation(NamedRun):
    """A named segmentation run beside what its paper published.

    Attributes, beside those of `NamedRun`:
      parameters: exact number.
      published: mean IoU in percent, or None.
      statistic: what the published number is.
    """

    config: SegmentationConfig
    parameters: int
    published: float | None = None
    statistic: str = ""

    @property
    def parameters_of_network(self) -> int:
        return self.parameters

    def to_compare(self) -> dict[str, Comparison | None]:
        result = None if self.published is None else Comparison(self.published, self.statistic, self.source)
        return {self.config.dataset: result}


# The authors give the length and schedule of Cityscapes alone.
_OWN_LENGTH = "the source is silent on length and schedule: {} epochs, falling linearly to 0, are our own choice"
# 140 epochs at 0.0016, then 64 that fall linearly from 0.0008.
_CITYSCAPES_SCHEDULE = ScheduleConfig(kind="piecewise", boundaries=(140,), factor=0.5, cooldown_epochs=64)


def _wu_2016(
    dataset: str,
    epochs: int,
    parameters: int,
    published: float | None,
    statistic: str,
    *notes: str,
    model: str = "a1",
    schedule: ScheduleConfig | None = None,
    **fields: Any,
):
    config = SegmentationConfig(
        model=SegmentationModelConfig(f"wider_resnet_38_{model}"),
        dataset=dataset,
        epochs=epochs,
        batch_size=16,
        frozen_statistics=True,
        coarse_loss=True,
        ohem_threshold=0.6,
        ohem_least=256,
        augmentation=MaskAugmentation(crop=500, scale_min=0.7, scale_max=1.3, flip=True),
        # MXNet's SGD (sgd_mom_update) keeps the rate in its velocity, as Caffe's does.
        optimizer=OptimizerConfig(
            learning_rate=0.0016,
            momentum=0.9,
            momentum_form="caffe",
            weight_decay=5e-4,
            decay="not_biases",
            bias_factor=2.0,
        ),
        schedule=schedule or ScheduleConfig(kind="linear"),
        eval_batch_size=16,
        # --test-flipping in the commands of their README.
        eval_flip=True,
        **fields,
    )
    pretraining = "ImageNet" if model == "a1" else "ImageNet and then, for 45k iterations, on Places"
    deviations = (
        f"starts from --pretrained, the classifier's weights, which the authors train on {pretraining}",
        "labels and coarse logits are compared at every eighth pixel from the first on",
    )
    if schedule is None:
        deviations += (_OWN_LENGTH.format(epochs),)
    deviations += notes
    return NamedSegmentation(
        config,
        f"{WU_2016}, section 5",
        parameters,
        published,
        statistic,
        deviations=deviations,
    )


def _ade20k(model: str, published: float, statistic: str) -> NamedSegmentation:
    return _wu_2016(
        *("scene_parse150", 64, 124_637_142, published, statistic),
        "tests at half the stride, in four shifted passes (--test-steps 2), are not there",
        "the labels are resized with their images, to a longer side of 500 pixels; the authors compare at full size",
        "that images have this size in training, too, is our own choice",
        model=model,
        longer_side=500,
    )


CONFIGS: dict[str, NamedSegmentation] = {
    "quickstart": NamedSegmentation(
        SegmentationConfig(
            model=SegmentationModelConfig("resnet_14", output_stride=2, head_width=64, head_dilation=2),
            dataset="shapes",
            epochs=12,
            batch_size=8,
            # Most pixels are background that is soon easy. The threshold is above the share of background, so that a
            # network that knows nothing but that share learns from every pixel.
            ohem_threshold=0.9,
            ohem_least=512,
            augmentation=MaskAugmentation(crop=64, scale_min=0.8, scale_max=1.25, brightness=0.2, contrast=0.2),
            optimizer=OptimizerConfig(learning_rate=0.06, nesterov=True, weight_decay=5e-4),
            schedule=ScheduleConfig(kind="one_cycle", warmup_epochs=2),
            eval_batch_size=64,
            eval_flip=True,
        ),
        "a first run: a ResNet of output stride 2 on drawn images, minutes on two CPU cores",
        212_246,
    ),
    "resnet_38_a1_voc": _wu_2016(
        *("voc", 44, 124_042_581, 80.84, "VOC 2012 val, one model, one scale, with mirrored images"),
        "test images keep their size; the authors bring the longer side, 500 pixels in nearly all of them, to 500",
        # Their train+.lst: VOC's own images and those of SBD, 10,582 together.
        train_split="trainaug",
    ),
    "resnet_38_a1_cityscapes": _wu_2016(
        *("cityscapes", 204, 124_033_363, 78.08, "Cityscapes val, one scale, with mirrored images"),
        schedule=_CITYSCAPES_SCHEDULE,
    ),
    "resnet_38_a2_cityscapes": _wu_2016(
        *("cityscapes", 204, 124_033_363, None, ""),
        "published on the test server alone: 78.4 %, on val nothing to compare with",
        model="a2",
        schedule=_CITYSCAPES_SCHEDULE,
    ),
    "resnet_38_a1_ade20k": _ade20k("a1", 43.34, "ADE20K val, one scale, with mirrored images"),
    "resnet_38_a2_ade20k": _ade20k("a2", 43.73, "ADE20K val, one scale; of a listing of the paper"),
    "resnet_38_a1_pascal_context": _wu_2016(
        *("pascal_context", 64, 124_222_332, 48.1, "PASCAL Context val; of a listing of the paper"),
        "that listing does not say which model it is, and what it is tested with",
    ),
}
