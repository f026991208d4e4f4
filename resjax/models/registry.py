"""Networks by name: families register themselves here; a name gives a module and its published facts."""

import dataclasses
import fnmatch
import importlib
import inspect
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from flax import linen as nn

from resjax.errors import InputError, did_you_mean
from resjax.models import cost
from resjax.models.published import Paper, PublishedFacts, PublishedResult

CIFAR_SHAPE = (32, 32, 3)
IMAGENET_SHAPE = (224, 224, 3)
MNIST_SHAPE = (28, 28, 1)
PLUGINS = "RESJAX_PLUGINS"
"""Environment variable: names of modules, separated by commas, that register networks when they are imported."""

# One name for one network: no leading zeros, no digits but ASCII's.
NUMBER = "([1-9][0-9]{0,4})"
_PLACEHOLDER = re.compile(r"<([^>]+)>")
_SAMPLES = (1, 2, 8, 16, 50, 100)
_MOST_BLOCKS = 10_000  # or layers; the papers' deepest has 600, and each is traced by itself where nothing is scanned

T = TypeVar("T", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks whose names follow one pattern.

    Attributes:
      names: the names, as shown to users: `<n>` stands for any number, `<a|b>` for one of the listed words.
      pattern: regular expression of a whole name; its groups are the arguments of `fields`.
      module: class of the networks.
      fields: the module's fields for a name; raises InputError for numbers that the family does not have.
      paper: the paper of the networks; None for networks without one.
      input_shape: (H, W, C) of the paper's images.
      facts: exact counts and published errors by name. `list_models` lists these names.
    """

    names: str
    pattern: str
    module: type[nn.Module]
    fields: Callable[..., dict[str, Any]]
    paper: Paper | None
    input_shape: tuple[int, int, int]
    facts: Mapping[str, PublishedFacts]

    def matches(self, name: str) -> bool:
        """Whether `name` follows the pattern."""
        return re.fullmatch(self.pattern, name) is not None

    def fields_of(self, name: str) -> dict[str, Any]:
        """The fields of the network `name`, which follows the pattern."""
        match = re.fullmatch(self.pattern, name)
        groups = match.groups() if match else ()
        return self.fields(*(int(group) if group.isdecimal() else group for group in groups))

    def listed(self) -> set[str]:
        """The tabulated names, and the name itself if it stands for one network."""
        return set(self.facts) | ({self.names} if not _PLACEHOLDER.search(self.names) else set())

    def samples(self) -> Iterator[str]:
        """The listed names and some others, to find families with a name in common."""
        yield from self.listed()
        # Odd parts are placeholders.
        choices = [
            [part] if i % 2 == 0 else part.split("|") if "|" in part else map(str, _SAMPLES)
            for i, part in enumerate(_PLACEHOLDER.split(self.names))
        ]
        yield from filter(self.matches, map("".join, itertools.product(*choices)))


# Defaults for modules that lack these properties of a `Network`.
_DEFAULTS = {
    "num_blocks": 0,
    "has_skips": False,
    "stacked_stages": frozenset(),
    "features_only": False,
    "first_kernel": None,
    "first_trained_kernel": None,
    "torch_names": (),
}
_FAMILIES: dict[str, Family] = {}


def register_model(
    names: str,
    pattern: str | None = None,
    *,
    module: type[nn.Module] | None = None,
    paper: Paper | None = None,
    input_shape: tuple[int, int, int] = CIFAR_SHAPE,
    facts: Mapping[str, PublishedFacts] | None = None,
) -> Callable[[T], T]:
    """Decorator that gives a network its name: on a module's class, or on a function that returns a module's fields.

        @resjax.register_model("tiny_<width>")
        class Tiny(nn.Module):
            num_classes: int = 10
            width: int = 8

            @nn.compact
            def __call__(self, images, train=False): ...

    Then `create_model("tiny_16")` is `Tiny(width=16)`. The network may be a `resjax.models.Network` or any linen module
    with a field `num_classes` that is called as above. Files and commands name the class, so that the module that
    registers it must be imported first. Modules named in the environment variable RESJAX_PLUGINS are imported.

    Args:
      names: the family's names: `<..>` stands for a number, `<a|b>` for one of the listed words. On a class, `<..>`
        holds the name of the field that takes the number.
      pattern: regular expression of a whole name, if `names` is not enough; one group for each placeholder.
      module: the module's class, if a function is decorated. The function takes the pattern's groups, digits as int.
      paper: the paper of the networks.
      input_shape: (H, W, C) of the images that the networks are for.
      facts: exact counts and published errors by name. The family takes and lists the names of its pattern.

    Raises:
      InputError: for a name that another family has, or a class that does not meet the conditions above.
    """
    found = _PLACEHOLDER.findall(names)
    if pattern is None:
        parts = _PLACEHOLDER.split(names)
        pattern = "".join(
            re.escape(part) if i % 2 == 0 else f"({part})" if "|" in part else NUMBER for i, part in enumerate(parts)
        )

    def register(decorated: T) -> T:
        network: Any = module or decorated
        _check_contract(names, network)
        fields: Callable[..., dict[str, Any]] = decorated
        if module is None:
            if unknown := [name for name in found if name not in network.__dataclass_fields__]:
                raise InputError(
                    f"register_model({names!r}): {network.__name__} has no field {unknown[0]!r}; name fields of it in"
                    " <..>, or decorate a function that returns the fields"
                )
            fields = lambda *values: dict(zip(found, values, strict=True))  # noqa: E731
        if network.__module__.partition(".")[0] != "resjax":  # of someone else: it may not take a name of ours
            importlib.import_module("resjax.models.families")
        own = {name: entry for name, entry in (facts or {}).items() if re.fullmatch(pattern, name)}
        family = Family(names, pattern, network, fields, paper, input_shape, own)
        _check_new(family)
        _FAMILIES[names] = family
        for name, value in _DEFAULTS.items():
            if not hasattr(network, name):
                setattr(network, name, value)
        return decorated

    return register


def unregister_model(names: str) -> None:
    """Undoes `register_model` for these `names`."""
    del _FAMILIES[names]


def families() -> list[Family]:
    """All families, including those of the modules in RESJAX_PLUGINS.

    Raises:
      InputError: for such a module that cannot be imported.
    """
    importlib.import_module("resjax.models.families")
    for plugin in filter(None, map(str.strip, os.environ.get(PLUGINS, "").split(","))):
        try:
            importlib.import_module(plugin)
        except ImportError as error:
            raise InputError(
                f"{PLUGINS}: cannot import {plugin!r} ({error}); give names of modules on Python's path, separated by"
                " commas"
            ) from None
    return list(_FAMILIES.values())


def modules() -> dict[str, type[nn.Module]]:
    """The registered classes by name."""
    return {family.module.__name__: family.module for family in families()}


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(H, W, C) of images that a network of a registered class is for."""
    return next(family.input_shape for family in families() if family.module is type(model))


def find_family(name: str) -> Family | None:
    """The family of a name, or None.

    Raises:
      InputError: for a name of more than one family.
    """
    found = [family for family in families() if isinstance(name, str) and family.matches(name)]
    if len(found) > 1:
        raise InputError(f"{name}: a name of {' and of '.join(f.names for f in found)}: register one under another")
    return found[0] if found else None


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """PublishedFacts about a named network.

    Attributes:
      name: the name that `create_model` takes.
      paper: the network's paper; None for a network without one.
      parameters: exact number of trained parameters, with `num_classes` classes.
      multiply_adds: multiply-adds of one forward pass for one image of `input_size`.
      num_blocks: residual blocks, the length of a gate array.
      input_size: (H, W, C) of the images of the paper.
      num_classes: classes that the counts are for.
      published: test errors from the papers or their authors' code; compare with the first.
    """

    name: str
    paper: Paper | None
    parameters: int
    multiply_adds: int
    num_blocks: int
    input_size: tuple[int, int, int]
    num_classes: int
    published: tuple[PublishedResult, ...]


def list_models(pattern: str = "*") -> list[str]:
    """Sorted names of the networks that the papers tabulate, filtered by shell wildcards, e.g. `"wrn*"`.

    `create_model` also takes every other valid depth and width of a family, e.g. `"resnet_26"`, `"wrn_22_2"`.
    A `preresnet` for CIFAR has basic blocks below depth 164, and bottlenecks from there on where the depth is 9 n + 2.

    Example:
      >>> resjax.list_models("wrn_40_*")
      ['wrn_40_1', 'wrn_40_10', 'wrn_40_2', 'wrn_40_4', 'wrn_40_8']
    """
    return sorted(fnmatch.filter({name for family in families() for name in family.listed()}, pattern))


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Creates a network by its paper's name.

    Args:
      name: e.g. `"resnet_20"`, `"preresnet_164"`, `"wrn_28_10"`, `"resnext_50_32x4d"`, `"densenet_121"`.
      **overrides: fields of the module, e.g. `num_classes=100`, `dtype=jnp.bfloat16`, `dropout_rate=0.3`,
        `stochastic_depth=resjax.StochasticDepth(0.5)`, `features_only=True`.

    Returns:
      A linen module; `module.num_blocks` is the length of its gate arrays.

    Raises:
      InputError: for an unknown name, an unknown override, or a value that the family does not have.

    Example:
      >>> model = resjax.create_model("wrn_16_2", num_classes=100)
      >>> model.num_blocks
      6
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
      >>> jax.eval_shape(model.apply, variables, jnp.zeros((8, 32, 32, 3))).shape
      (8, 100)
    """
    family = _known(name)
    fields = set(field_names(family.module))
    for override in overrides:
        if override not in fields:
            raise InputError(
                f"{name} takes no {override!r}{did_you_mean(override, fields)} (it takes {', '.join(sorted(fields))})"
            )
    try:
        model = family.module(**(family.fields_of(name) | overrides))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if model.num_blocks > _MOST_BLOCKS:
        raise InputError(f"{name}: {model.num_blocks:,} blocks or layers, expected at most {_MOST_BLOCKS:,}")
    return model


def model_info(name: str) -> ModelInfo:
    """PublishedFacts about a network: paper, exact counts, published errors, input size.

    Raises:
      InputError: for an unknown name.

    Example:
      >>> info = resjax.model_info("resnet_20")
      >>> info.parameters, info.num_blocks, info.published[0].test_error
      (269722, 9, 8.75)
      >>> info.paper.arxiv
      '1512.03385'
    """
    model, family = create_model(name), _known(name)
    shape = family.input_shape
    facts = family.facts.get(name) or PublishedFacts(
        cost.parameter_count(model, shape), cost.multiply_adds(model, shape)
    )
    return ModelInfo(
        name=name,
        paper=family.paper,
        parameters=facts.parameters,
        multiply_adds=facts.multiply_adds,
        num_blocks=model.num_blocks,
        input_size=shape,
        num_classes=model.num_classes,
        published=facts.results,
    )


def field_names(module: type) -> list[str]:
    """The fields of a module's class, without the fields that flax adds."""
    return [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]


def familiar_name(name: str) -> str | None:
    """The name here of a network that papers or other libraries write otherwise; None where there is none.

    Example:
      >>> [resjax.models.registry.familiar_name(name) for name in ("resnet50", "wide_resnet50_2", "WRN-28-10")]
      ['resnet_50', 'wrn_50_2', 'wrn_28_10']
    """
    text = re.sub(r"[\s-]+", "_", str(name).strip().lower())
    text = re.sub(r"^(wide_?resnet|wrn)_?(?=\d)", "wrn_", text)
    text = re.sub(r"^pre_?act(ivation)?_?resnet", "preresnet", text)
    text = re.sub(r"^([a-z]+(?:_bc)?)_?(?=\d)", r"\1_", text)
    return text if find_family(text) else None


def _known(name: str) -> Family:
    if family := find_family(name):
        return family
    if (ours := familiar_name(name)) is not None:
        raise InputError(f"unknown model {str(name)!r}; its name here is {ours!r}")
    names = [family.names for family in families()]
    related = [valid for valid in names if str(name).lower().startswith(valid.split("_")[0])]
    raise InputError(
        f"unknown model {str(name)!r}{did_you_mean(str(name), list_models())} (names are"
        f" {', '.join(related or names)}; resjax.list_models() lists those that papers tabulate; a network of your own"
        f" has a name after @resjax.register_model, with its module in {PLUGINS})"
    )


def _check_contract(names: str, network: Any) -> None:
    """Raises InputError unless `network` is a linen module that can be created, trained and saved by name."""
    what = f"register_model({names!r}): "
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise InputError(f"{what}expected a flax.linen.Module, or a function with module=.., got {network!r}")
    if "num_classes" not in network.__dataclass_fields__:
        raise InputError(f"{what}{network.__name__} has no field num_classes: add `num_classes: int = 10`")
    parameters = list(inspect.signature(network.__call__).parameters)[1:]
    if not parameters or "train" not in parameters[1:2]:
        raise InputError(
            f"{what}{network.__name__} is called with ({', '.join(parameters)}): expected (images, train=False)"
        )


def _check_new(family: Family) -> None:
    """Raises InputError if another family has one of its names, or another class has the name of its class."""
    for other in _FAMILIES.values():
        same_class = _path(other.module) == _path(family.module)
        if same_class and other.names == family.names:  # a notebook's cell or a module that was run again
            continue
        if other.module.__name__ == family.module.__name__ and not same_class:
            raise InputError(
                f"register_model({family.names!r}): a class {other.module.__name__} is registered as {other.names}, and"
                " files tell classes by name: rename yours"
            )
        common = [name for name in family.samples() if other.matches(name)]
        common += [name for name in other.samples() if family.matches(name)]
        if common or other.names == family.names:
            raise InputError(
                f"register_model({family.names!r}): {(common or [family.names])[0]!r} is already a name of"
                f" {other.names} ({other.module.__name__}): choose another"
            )


def _path(module: type) -> tuple[str, str]:
    return module.__module__, module.__qualname__
