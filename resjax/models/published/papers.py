"""The papers of the networks, and the classes that hold their exact counts and published errors.

The tables are in `published.cifar` and `published.imagenet`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Aggregate = Literal["single", "mean", "median", "best", "not_stated"]
View = Literal["one_crop", "ten_crops", "multi_scale", "one_scale"]
Epoch = Literal["last", "lowest_validation_error"]

_VIEWS = {
    "one_crop": "1-crop",
    "ten_crops": "10-crop",
    "multi_scale": "multi-scale, fully convolutional",
    "one_scale": "one scale",
}
_EPOCHS = {"last": "last step", "lowest_validation_error": "test error at the lowest validation error"}


@dataclasses.dataclass(frozen=True)
class Paper:
    """The paper of a family."""

    title: str
    authors: str
    year: int
    arxiv: str

    def __str__(self) -> str:
        return f"{self.authors} {self.year}, arXiv {self.arxiv}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A number that a paper, or the authors' code, printed, and how it was measured.

    Attributes:
      dataset: its TFDS name, e.g. "cifar10", "svhn_cropped", "imagenet2012" (there, the validation set).
      origin: the paper, or the published code.
      place: the place in it, e.g. "table 4".
      aggregate: the statistic over runs that the number is; "not_stated" if the source does not say.
      runs: number of runs, if the source says it.
      mean, std: of the same runs, in percent, if the number is another statistic; std is the sample standard deviation.
      epoch: the epoch after which the network was tested, if the source says it.
      view: the crops of a test image, for photographs.
      size: side of the crop in pixels, if the source says it.
      mirrored: whether the predictions of an image and of the mirrored image were averaged.
      augmented: whether the training images were augmented.
      whitened: whether the images were ZCA-whitened.
      options: arguments of `resjax.create_model` in which the network differs from the entry that lists the number.
      batch_size: images in a training step, if that distinguishes it from another result of the network.
      epochs: length of training, likewise.
      note: anything else, in words.
    """

    dataset: str
    origin: Paper | str
    place: str
    aggregate: Aggregate = "not_stated"
    runs: int | None = None
    mean: float | None = None
    std: float | None = None
    epoch: Epoch | None = None
    view: View | None = None
    size: int | None = None
    mirrored: bool = False
    augmented: bool = True
    whitened: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    batch_size: int | None = None
    epochs: int | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """The number, in percent."""
        raise NotImplementedError

    @property
    def source(self) -> str:
        """The paper or code, and the place in it."""
        return f"{self.origin}, {self.place}"

    @property
    def statistic(self) -> str:
        """How it was measured, in words, e.g. "median of 5 (mean 4.89 +- 0.14)" or "10-crop 224"."""
        view = _VIEWS[self.view] if self.view else ""
        parts = [
            self._aggregate(),
            _EPOCHS[self.epoch] if self.epoch else "",
            f"{view} {self.size}" if self.size else view,
            "with mirrored images" if self.mirrored else "",
            "ZCA whitening" if self.whitened else "",
            "" if self.augmented else "no augmentation",
            *(_option(key, value) for key, value in self.options.items()),
            f"batch {self.batch_size}" if self.batch_size else "",
            f"{self.epochs} epochs" if self.epochs else "",
            self.note,
        ]
        return ", ".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """`value`, `statistic`, `source` and `aggregate`, and each field that differs from its default."""
        said = {"value": self.value, "statistic": self.statistic, "source": self.source, "aggregate": self.aggregate}
        told = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if not _is_default(self, field)
        }
        return said | told | {"origin": str(self.origin)}

    def _aggregate(self) -> str:
        match self.aggregate:
            case "single":
                return "single run"
            case "not_stated":
                return "" if self.view or self.epoch else "statistic not stated"
            case "mean":
                return f"mean of {self.runs} runs"
        return f"{self.aggregate} of {self.runs}" + (f" (mean {self.mean:.2f} +- {self.std:.2f})" if self.mean else "")


def _is_default(result: Published, field: dataclasses.Field) -> bool:
    value = getattr(result, field.name)
    return value == (field.default if field.default_factory is dataclasses.MISSING else field.default_factory())


def _option(key: str, value: Any) -> str:
    if key == "dropout_rate":
        return f"dropout {value}"
    return f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}"


@dataclasses.dataclass(frozen=True)
class PublishedResult(Published):
    """A published test error.

    Attributes, in addition to those of `Published`:
      test_error: top-1 error in percent.
      top5_error: top-5 error in percent, where printed.
    """

    test_error: float
    top5_error: float | None = None

    @property
    def value(self) -> float:
        return self.test_error


@dataclasses.dataclass(frozen=True)
class PublishedMeanIou(Published):
    """A published mean intersection over union of the classes.

    Attributes, in addition to those of `Published`:
      mean_iou: in percent.
    """

    mean_iou: float

    @property
    def value(self) -> float:
        return self.mean_iou


@dataclasses.dataclass(frozen=True)
class PublishedFacts:
    """Exact counts of a network and its published results; the first result is the one to compare with."""

    parameters: int
    multiply_adds: int
    results: tuple[PublishedResult, ...] = ()

    def having(self, **fields: Any) -> tuple[PublishedResult, ...]:
        """The results whose fields have all of these values, e.g. `having(dataset="cifar10", whitened=False)`."""
        return tuple(
            result for result in self.results if all(getattr(result, field) == value for field, value in fields.items())
        )


HE_2015 = Paper("Deep Residual Learning for Image Recognition", "He et al.", 2015, "1512.03385")
HE_2016 = Paper("Identity Mappings in Deep Residual Networks", "He et al.", 2016, "1603.05027")
ZAGORUYKO_2016 = Paper("Wide Residual Networks", "Zagoruyko & Komodakis", 2016, "1605.07146")
XIE_2016 = Paper("Aggregated Residual Transformations for Deep Neural Networks", "Xie et al.", 2016, "1611.05431")
HUANG_2016_DENSE = Paper("Densely Connected Convolutional Networks", "Huang et al.", 2016, "1608.06993")
HUANG_2016_DEPTH = Paper("Deep Networks with Stochastic Depth", "Huang et al.", 2016, "1603.09382")
SRIVASTAVA_2015 = Paper("Training Very Deep Networks", "Srivastava et al.", 2015, "1507.06228")
VEIT_2016 = Paper(
    "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", "Veit et al.", 2016, "1605.06431"
)
WU_2016 = Paper("Wider or Deeper: Revisiting the ResNet Model for Visual Recognition", "Wu et al.", 2016, "1611.10080")
ZHANG_2019 = Paper("Fixup Initialization: Residual Learning Without Normalization", "Zhang et al.", 2019, "1901.09321")
JORDAN_2024 = Paper("94% on CIFAR-10 in 3.29 Seconds on a Single GPU", "Jordan", 2024, "2404.00498")

# Where authors published code, trained networks or logs.
FB_TORCH = "github.com/facebookarchive/fb.resnet.torch"
HE_2015_CODE = "github.com/KaimingHe/deep-residual-networks"
ZAGORUYKO_2016_CODE = "github.com/szagoruyko/wide-residual-networks"
HUANG_2016_DENSE_CODE = "github.com/liuzhuang13/DenseNet"
SRIVASTAVA_2015_CODE = "github.com/flukeskywalker/highway-networks"
WU_2016_CODE = "github.com/itijyou/ademxapp"
TORCHVISION = "torchvision"
