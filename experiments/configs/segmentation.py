"""Named segmentation runs: Wu et al. 2016 (arXiv 1611.10080), section 5, and a first run on drawn images.

python -m experiments.segmentation --config resnet_38_a1_voc --data_dir VOC2012 --pretrained DIR
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.configs.base import ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from experiments.configs.named import NamedRun
from resjax.data import list_mask_datasets, mask_dataset_info
from resjax.data.augment.options import MaskAugmentation
from resjax.models.published import WU_2016, Published, PublishedMeanIou

if TYPE_CHECKING:
    from flax import linen as nn


class SegmentationModelConfig(ModelConfig):
    """The trunk's name, and the fields of trunk and head that differ from those of that name."""

    def networks(self) -> "list[tuple[type[nn.Module], dict[str, Any]]]":
        from resjax.models.segmentation import HEAD_FIELDS, SegmentationNetwork

        if not (networks := super().networks()):
            return []
        [(trunk, values)] = networks
        if "output_stride" in values:
            values |= {"output_stride": 8} | trunk.dense_prediction
        del values["frozen_statistics"]  # a flag of the run
        head = {field.name: field.default for field in dataclasses.fields(SegmentationNetwork)}
        return [(trunk, values), (SegmentationNetwork, {field: head[field] for field in HEAD_FIELDS})]


# In the order of the splits of a `MaskDatasetInfo`.
_SPLIT_FIELDS = ("train_split", "test_split")


@dataclasses.dataclass(frozen=True)
class SegmentationConfig(RunConfig):
    """A segmentation run. The result is a function of these fields."""

    PROGRAM = "python -m experiments.segmentation"
    model: SegmentationModelConfig
    dataset: str = "voc"
    """shapes, voc and pascal_context (folders), oxford_iiit_pet, scene_parse150, cityscapes."""
    train_split: str | None = None
    """Split to train on; default: the dataset's own."""
    test_split: str | None = None
    """Split to test on; default: the dataset's own."""
    longer_side: int = 0
    """Pixels to which the longer side of every image is resized, in training and test; 0 keeps the sizes."""
    mask_values: tuple[int, ...] | None = None
    """Folders: the mask value of each class, in order, e.g. 0 255; default: value k is class k. 255 is ignored unless
    it is listed. A value between two listed ones takes the nearer one."""
    frozen_statistics: bool = False
    """Use the running BN statistics in training, too."""
    coarse_loss: bool = False
    """Training loss on coarse logits and subsampled labels, not on enlarged logits and all labels."""
    ohem_threshold: float = 0.0
    """Online hard example mining: only pixels with at most this probability count; 0: all pixels count."""
    ohem_min_pixels: int = 256
    """Online hard example mining: minimum number of pixels that count."""
    head_factor: float = 1.0
    """Factor of the learning rate of the head."""
    augmentation: MaskAugmentation = MaskAugmentation()
    eval_scales: tuple[float, ...] = (1.0,)
    """Scales of the test images; their predictions are averaged."""
    eval_flip: bool = False
    """Also predict the mirrored image, and average."""
    eval_window: int = 0
    """Side in pixels of the windows that cover larger test images; 0 takes whole images."""

    def identity(self) -> dict[str, Any]:
        """As of `RunConfig`; a split that the dataset has by default is None, whether it was given or not."""
        fields = super().identity()
        if self.dataset in list_mask_datasets():
            for field, usual in zip(_SPLIT_FIELDS, mask_dataset_info(self.dataset).splits, strict=True):
                fields[field] = None if fields[field] == usual else fields[field]
        return fields

    @property
    def has_frozen_statistics(self) -> bool:
        return self.frozen_statistics

    def create_model(self, num_classes: int) -> "nn.Module":
        from resjax.models import create_segmentation_model

        return create_segmentation_model(
            self.model.name,
            num_classes,
            **self.model_options(),
            frozen_statistics=self.frozen_statistics,
            coarse_training=self.coarse_loss,
        )


@dataclasses.dataclass(frozen=True)
class NamedSegmentation(NamedRun):
    """A named segmentation run, with the result of its paper.

    Attributes besides those of `NamedRun`:
      parameters: exact number of parameters.
      published: the mean IoU to compare with, or None.
    """

    config: SegmentationConfig
    parameters: int
    published: PublishedMeanIou | None = None

    @property
    def parameters_of_network(self) -> int:
        return self.parameters

    def table_row(self) -> dict[str, str]:
        return {
            "dataset": self.config.dataset,
            "parameters": f"{self.parameters:,}",
            "published\nmean IoU %": "-" if self.published is None else f"{self.published.value:.2f}",
            "epochs": str(self.config.epochs),
        }

    def to_compare(self) -> dict[str, Published | None]:
        return {self.config.dataset: self.published}

    def whole_data(self, fields: Mapping[str, Any]) -> dict[str, int]:
        info = mask_dataset_info(fields["dataset"])
        chosen = [fields[field] or usual for field, usual in zip(_SPLIT_FIELDS, info.splits, strict=True)]
        roles = zip(("training", "test"), chosen, strict=True)
        return {role: info.split_sizes[split] for role, split in roles if split in info.split_sizes}

    def class_names(self, dataset: str) -> Sequence[str]:
        return mask_dataset_info(dataset).class_names


# The authors give length and schedule only for Cityscapes.
_OWN_LENGTH = "the source does not give length and schedule: {} epochs, falling linearly to 0, are our own choice"
# 140 epochs at 0.0016, then 64 epochs that fall linearly from 0.0008.
_CITYSCAPES_SCHEDULE = ScheduleConfig(kind="piecewise", boundaries=(140,), factor=0.5, cooldown_epochs=64)


def _wu_2016(
    dataset: str,
    epochs: int,
    parameters: int,
    published: PublishedMeanIou | None,
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
        ohem_min_pixels=256,
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
        f"starts from a classifier's weights (--pretrained), which the authors train on {pretraining}",
        "labels are compared with coarse logits at every eighth pixel, starting at the first",
    )
    if schedule is None:
        deviations += (_OWN_LENGTH.format(epochs),)
    deviations += notes
    return NamedSegmentation(
        config,
        f"{WU_2016}, section 5",
        parameters,
        published,
        deviations=deviations,
    )


def _published(dataset: str, mean_iou: float, note: str, **protocol: Any) -> PublishedMeanIou:
    """The result of one model, tested at one scale unless `protocol` says otherwise."""
    fields = {"view": "one_scale"} | protocol
    return PublishedMeanIou(mean_iou, dataset=dataset, origin=WU_2016, place="section 5", note=note, **fields)


def _ade20k(model: str, mean_iou: float, note: str, **protocol: Any) -> NamedSegmentation:
    return _wu_2016(
        *("scene_parse150", 64, 124_637_142, _published("scene_parse150", mean_iou, note, **protocol)),
        "tests at half the stride, in four shifted passes (--test-steps 2), are not implemented",
        "the labels are resized with their images, to a longer side of 500 pixels; the authors compare at full size",
        "resizing to this size in training, too, is our own choice",
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
            # Most pixels are background and soon easy. The threshold is above the fraction of background: a network
            # that knows nothing but that fraction then learns from every pixel.
            ohem_threshold=0.9,
            ohem_min_pixels=512,
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
        *("voc", 44, 124_042_581, _published("voc", 80.84, "VOC 2012 val, one model", mirrored=True)),
        "test images keep their size; the authors bring the longer side, 500 pixels in nearly all of them, to 500",
        # Their train+.lst: VOC's own images and those of SBD, 10,582 together.
        train_split="trainaug",
    ),
    "resnet_38_a1_cityscapes": _wu_2016(
        *("cityscapes", 204, 124_033_363, _published("cityscapes", 78.08, "Cityscapes val", mirrored=True)),
        schedule=_CITYSCAPES_SCHEDULE,
    ),
    "resnet_38_a2_cityscapes": _wu_2016(
        *("cityscapes", 204, 124_033_363, None),
        "published only for the test server: 78.4 %; there is no number for val to compare with",
        model="a2",
        schedule=_CITYSCAPES_SCHEDULE,
    ),
    "resnet_38_a1_ade20k": _ade20k("a1", 43.34, "ADE20K val", mirrored=True),
    "resnet_38_a2_ade20k": _ade20k("a2", 43.73, "ADE20K val; of a listing of the paper"),
    "resnet_38_a1_pascal_context": _wu_2016(
        *("pascal_context", 64, 124_222_332),
        _published("pascal_context", 48.1, "PASCAL Context val; of a listing of the paper", view=None),
        "that listing does not say which model it is, or how it is tested",
    ),
}
