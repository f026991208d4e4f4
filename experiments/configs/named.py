"""Runs by name: a config beside its source, and what was published of it."""

import dataclasses

from experiments.configs.base import Config, RunConfig
from resjax.models import Facts, PublishedResult

# What several recipes say of how they deviate.
SKIPPED = "the incomplete batch of each epoch is skipped"
LAST = "the last epoch is reported; the paper says nothing of selection"
FAN_OUT = "convolutions start with variances of fan-out, as in fb.resnet.torch; the papers only name He et al. 2015"


def bn_of_gpu(images: str) -> str:
    """That BN there took the statistics of so many images, on a GPU."""
    return f"BN takes the statistics of the whole batch, there of the {images} images of a GPU (--model.norm_scope)"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A published value of a run's measure.

    Attributes:
      value: in percent.
      statistic: what the number is: a single run, a median, ..
      source: where it is printed.
    """

    value: float
    statistic: str
    source: str

    @classmethod
    def of_error(cls, result: PublishedResult) -> "Comparison":
        """A published test error."""
        return cls(result.test_error, result.statistic, result.source)


@dataclasses.dataclass(frozen=True)
class NamedRun:
    """A named run.

    Attributes:
      config: the recipe.
      source: where the recipe comes from.
      deviations: where the recipe differs from its source, or the source is silent.
    """

    config: RunConfig
    source: str
    deviations: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    @property
    def parameters_of_network(self) -> int:
        """Exact number of parameters on the config's own dataset."""
        raise NotImplementedError

    def to_compare(self) -> dict[str, Comparison | None]:
        """Every dataset that the recipe is for, with what the run is compared with there."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class NamedConfig(NamedRun):
    """A named classification run beside what its paper published.

    Attributes, beside those of `NamedRun`:
      facts: exact counts, for 10 classes and 32x32x3 images, and the errors that the source published.
    """

    config: Config
    facts: Facts

    @property
    def parameters_of_network(self) -> int:
        return self.facts.parameters

    def to_compare(self) -> dict[str, Comparison | None]:
        compared = {}
        for result in self.facts.results:
            compared.setdefault(result.dataset, Comparison.of_error(result))
        return compared or {self.config.dataset: None}

    def published_for(self, dataset: str) -> PublishedResult | None:
        """The published error to compare with on a dataset, or None."""
        return next((result for result in self.facts.results if result.dataset == dataset), None)
