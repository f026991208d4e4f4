"""Named runs: a config with its source and its published results."""

import dataclasses
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from experiments.configs.base import Config, RunConfig
from experiments.configs.model import as_lists, differing
from resjax.data import dataset_info
from resjax.models.published import Published, PublishedFacts

# Deviations that several recipes have.
SKIPPED = "the incomplete batch of each epoch is skipped"
LAST = "the last epoch is reported; the paper does not say how it selects one"
FAN_OUT = "initial variances use fan-out, as in fb.resnet.torch; the papers only cite He et al. 2015"


def bn_of_gpu(images: str) -> str:
    """The deviation that the source's BN takes the statistics of `images` images, on one GPU."""
    return f"BN normalises over the whole batch, the source over the {images} images of a GPU (--model.norm_scope)"


# These fields of a run say which data and which seed, not which recipe.
_NOT_RECIPE = ("seed", "dataset")
# Fields of the network that change its training, but not the function that it computes.
TRAINING_OF_NETWORK = ("model.norm_scope", "model.norm_scale_init", "model.kernel_init")
# Fields whose default follows --pretrained, and --freeze trunk.
_OF_WEIGHTS = ("model.name", "normalization", "image_size", "eval_size", "eval_resize", "eval_scales")
_OF_FROZEN = ("crop", "repeats", "augmentation.")
_LISTED = 4


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A run beside the published result of its recipe, see `compare`.

    Attributes:
      published: the result of the same network on the same test images; None if there is none.
      changes: how the run differs from the recipe: {field: description}. Empty for the recipe itself.
    """

    published: Published | None
    changes: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def is_like_for_like(self) -> bool:
        """Whether the run follows the recipe, so that it can be compared with the published number."""
        return self.published is not None and not self.changes

    @property
    def label(self) -> str:
        """The published number in words, with this run's changes; "" if there is none."""
        if self.published is None:
            return ""
        text = f"published {self.published.value:.2f} % ({self.published.statistic})"
        named = [*self.changes][:_LISTED]
        if len(self.changes) > _LISTED:
            named.append(f"{len(self.changes) - _LISTED} more")
        return f"{text} (with changed {', '.join(named)})" if named else text

    def to_json(self) -> dict[str, Any]:
        """The entries of summary.json and model cards: "published", or null, and "not_the_recipe", in words."""
        published = None if self.published is None else self.published.to_json()
        return {"published": published, "not_the_recipe": list(self.changes.values())}


@dataclasses.dataclass(frozen=True)
class NamedRun:
    """A named run.

    Attributes:
      config: the recipe.
      source: where the recipe comes from.
      deviations: where the recipe differs from its source, or adds what the source does not say.
    """

    config: RunConfig
    source: str
    deviations: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    @property
    def parameters_of_network(self) -> int:
        """Exact number of parameters on the config's own dataset."""
        raise NotImplementedError

    def table_row(self) -> dict[str, str]:
        """What a table of configs shows of it between its name and its source, by the column's head."""
        raise NotImplementedError

    def to_compare(self) -> dict[str, Published | None]:
        """Every dataset of the recipe, with the published result to compare with."""
        raise NotImplementedError

    def published_for(self, dataset: str) -> Published | None:
        """The published number to compare with on a dataset, or None."""
        return self.to_compare().get(dataset)

    def whole_data(self, fields: Mapping[str, Any]) -> dict[str, int]:
        """The numbers of "training" and "test" images in the whole dataset of a run with these fields, if known."""
        return {}

    @property
    def batch_sizes(self) -> Sequence[int]:
        """The batches that `for_images` may choose among."""
        return (self.config.batch_size,)

    def for_images(self, train_images: int) -> Self:
        """The same recipe for so many training images: a recipe that is no paper's own may follow the data."""
        return self

    def class_names(self, dataset: str) -> Sequence[str] | None:
        """The classes of a dataset that a person's files may replace by others; None where that cannot be."""
        return None


@dataclasses.dataclass(frozen=True)
class NamedConfig(NamedRun):
    """A named classification run, with the results of its paper.

    Attributes besides those of `NamedRun`:
      facts: exact counts for 10 classes and 32x32x3 images, and the errors that the source published.
    """

    config: Config
    facts: PublishedFacts

    @property
    def parameters_of_network(self) -> int:
        return self.facts.parameters

    def table_row(self) -> dict[str, str]:
        errors = [self.published_for(dataset) for dataset in ("cifar10", "cifar100", "svhn_cropped")]
        errors = errors[:2] if errors[2] is None else errors
        printed = " / ".join(f"{error.test_error:.2f}" if error else "-" for error in errors)
        if not any(errors) and (other := self.published_for(self.config.dataset)):
            printed = f"{other.test_error:.2f} ({other.dataset})"
        # Forward, and twice as much backward, in convolutions and linear layers.
        step = 3 * 2 * self.facts.multiply_adds
        work = step * self.whole_data(self.config.identity())["training"] * self.config.epochs
        return {
            "parameters": f"{self.parameters_of_network:,}",
            "published error %\nC10 / C100 / SVHN": printed,
            "epochs": str(self.config.epochs),
            "training\nPFLOP": f"{work / 1e15:.3g}",
        }

    def to_compare(self) -> dict[str, Published | None]:
        compared = {}
        for result in self.facts.results:
            compared.setdefault(result.dataset, result)
        return compared or {self.config.dataset: None}

    def whole_data(self, fields: Mapping[str, Any]) -> dict[str, int]:
        sizes = dataset_info(fields["dataset"]).split_sizes
        extra = sizes["extra"] if fields["extra"] else 0
        return {"training": sizes["train"] + extra - fields["validation_images"], "test": sizes["test"]}


def compare(
    named: NamedRun,
    fields: Mapping[str, Any],
    train_images: int | None = None,
    test_images: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Comparison:
    """Compares a run with a published number. This is the only rule for it:

    * The run has another network (any `model.` field except `TRAINING_OF_NETWORK`) or other test images (a dataset
      without a published result, another test split, a part of the test images, a person's own classes or values of the
      masks): the number is not shown.
    * The network and the test images are the same, and another setting that decides the result has changed (epochs,
      batch, optimizer, augmentation, evaluation, a part of the training images): the number is shown with the changes,
      and no difference is taken.
    * Only the seed has changed: the number is shown, and the ledger takes the difference.

    The place of the dataset, and of the weights that a recipe starts from, do not count as changes.

    Args:
      named: the recipe.
      fields: the fields of the run, see `RunConfig.identity`.
      train_images, test_images: numbers of images of the run, if known.
      class_names: names of its classes, if known.
    """
    recipe = recipe_beside(named, fields)
    if named.config.has_frozen_statistics:  # starts from a classifier's weights; everyone keeps them elsewhere
        del recipe["pretrained"], recipe["weights_key"]
    changes = {
        key: f"{key} {_said(key, fields, named)} (recipe: {_said(key, recipe, named)})"
        for key in differing(recipe, fields)
        if key not in _NOT_RECIPE
    }
    other = {key for key in changes if _decides_what_is_measured(key)}
    published = named.to_compare()
    dataset = fields["dataset"]
    if dataset not in published:
        other.add("dataset")
        changes["dataset"] = f"dataset {dataset} (recipe: {', '.join(published)})"
    whole = named.whole_data(fields) if dataset in published else {}
    for split, images in (("training", train_images), ("test", test_images)):
        if images is not None and images != whole.get(split, images):
            changes[f"{split} images"] = f"{images:,} of {whole[split]:,} {split} images"
            other |= {split} & {"test"}
    known = named.class_names(dataset) if dataset in published else None
    if known is not None and class_names is not None and list(class_names) != list(known):
        changes["classes"] = f"classes {_listed(class_names)} (recipe: {_listed(known)})"
        other.add("classes")
    return Comparison(None if other else published[dataset], changes)


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_LISTED])}{', ..' if len(names) > _LISTED else ''}"


def _decides_what_is_measured(field: str) -> bool:
    return field in ("test_split", "mask_values") or (field.startswith("model.") and field not in TRAINING_OF_NETWORK)


def _said(key: str, fields: Mapping[str, Any], named: NamedRun) -> str:
    """A field's value in words. A network's field that is left out has the value that the network's name implies."""
    if key in fields or not key.startswith("model."):
        return value_text(fields.get(key))
    own = type(named.config.model)(fields["model.name"])
    return value_text(own.get(key.removeprefix("model.")))


def value_text(value: Any) -> str:
    """A field's value as text."""
    return " ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)


def network_text(fields: Mapping[str, Any]) -> str:
    """The network's name, and the structure that the name does not say, e.g. "resnet_20, shortcut none"."""
    told = [
        f"{key.removeprefix('model.')} {value_text(value)}"
        for key, value in fields.items()
        if key.startswith("model.") and value is not None and key not in ("model.name", *TRAINING_OF_NETWORK)
    ]
    return ", ".join([fields["model.name"], *told])


def changed_fields(named: NamedRun, config: RunConfig) -> dict[str, object]:
    """The fields that decide the result and differ from the named config."""
    here = config.identity()
    return {key: changed_value(key, here, config) for key in differing(here, recipe_beside(named, here))}


def for_images(
    named: NamedRun, config: RunConfig, given: Collection[str], train_images: int
) -> tuple[NamedRun, RunConfig]:
    """The recipe for so many training images, and the config with its changes, but for the flags that were given."""
    own = named.for_images(train_images)
    if own is named:
        return named, config
    before, after = named.config.identity(), own.config.identity()
    values = {key: after.get(key) for key in differing(before, after) if key not in given}
    changed = type(config).from_identity(config.identity() | config.run_options() | values)
    return own, changed


def changes_to_repeat(named: NamedRun, fields: Mapping[str, Any], config: RunConfig) -> dict[str, object]:
    """The fields that a command must name to repeat a run: those that differ from the named config.

    Of a run on trained weights, also those that follow the weights: the recipe's own value would not be a default.
    """
    changed = differing(fields, recipe_beside(named, fields))
    following: tuple[str, ...] = ()
    if fields.get("pretrained") and "normalization" in fields:
        following += _OF_WEIGHTS
    if fields.get("freeze") == "trunk":
        following += _OF_FROZEN
    changed += [key for key in fields if key.startswith(following) and key not in changed]
    return {key: changed_value(key, fields, config) for key in changed}


def changed_value(key: str, fields: Mapping[str, object], config: RunConfig) -> object:
    """The value of a flat field. A network's field that is left out has the network's own value."""
    return fields[key] if key in fields else as_lists(config.model.get(key.removeprefix("model.")))


def plain_name(name: str) -> str:
    """A network's or config's name as others may write it, to compare with: WRN-28-10, wide_resnet50_2, resnet50."""
    return re.sub("[^a-z0-9]", "", name.lower()).replace("wideresnet", "wrn")


def with_optimizer_kind(config: RunConfig, kind: str) -> RunConfig:
    """The config with the optimizer `kind`, see `OptimizerConfig.with_kind`; the config itself if it has that kind.

    Learning rates of its schedule keep their ratio to the peak.
    """
    if kind == config.optimizer.kind:
        return config
    optimizer = config.optimizer.with_kind(kind)
    ratio = optimizer.learning_rate / config.optimizer.learning_rate
    rates = {name: getattr(config.schedule, name) * ratio for name in ("warmup_from", "final")}
    return dataclasses.replace(config, optimizer=optimizer, schedule=dataclasses.replace(config.schedule, **rates))


def recipe_beside(named: NamedRun, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's fields to compare a run with, with the values that go with the run's kind of optimizer."""
    key = "optimizer.kind"
    there = fields.get(key, named.config.optimizer.kind)
    return with_optimizer_kind(named.config, there).identity() | {key: named.config.optimizer.kind}


def command(program: str, name: str, changed: Mapping[str, object]) -> str:
    """The command line of the config `name` with the `changed` fields; `parse` reads it back."""
    words = [program, "--config", name]
    for field, value in changed.items():
        *groups, last = field.split(".")
        # A flag without a word, but for the fields of a network's objects, model.stochastic_depth.rescale: None, too.
        if isinstance(value, bool) and len(groups) < 2:
            words.append("--" + ".".join([*groups, last if value else f"no_{last}"]))
        else:
            values = value if isinstance(value, (list, tuple)) else [value]
            words += [f"--{field}", *(shlex.quote(_word(item)) for item in values)]
    return " ".join(words)


def _word(item: object) -> str:
    return ",".join(map(str, item)) if isinstance(item, (list, tuple)) else str(item)
