"""The papers behind the networks, and the form in which their exact counts and published errors are tabulated.

The tables themselves are `published_cifar` and `published_imagenet`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Paper:
    """Where a family comes from."""

    title: str
    authors: str
    year: int
    arxiv: str

    def __str__(self) -> str:
        return f"{self.authors} {self.year}, arXiv {self.arxiv}"


@dataclasses.dataclass(frozen=True)
class PublishedResult:
    """A test error that a paper, or the authors' code, printed.

    Attributes:
      dataset: its TFDS name, e.g. "cifar10", "svhn_cropped", "imagenet2012" (there, the validation set).
      test_error: top-1 error in percent.
      statistic: what the number is: a single run, a median, which crops, and whatever in the training or in the network
        was not as in the first result of the name.
      source: paper and table, or the published code.
      top5_error: top-5 error in percent, where printed.
    """

    dataset: str
    test_error: float
    statistic: str
    source: str
    top5_error: float | None = None


@dataclasses.dataclass(frozen=True)
class Facts:
    """Exact counts of a network and what was published of it, the entry to compare with first."""

    parameters: int
    multiply_adds: int
    results: tuple[PublishedResult, ...] = ()


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
JORDAN_2024 = Paper("94% on CIFAR-10 in 3.29 Seconds on a Single GPU", "Jordan", 2024, "2404.00498")
