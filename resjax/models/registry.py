"""Names of networks: from a paper's name to a module and to what is known of it."""

import dataclasses
import fnmatch
from typing import Any

from flax import linen as nn

from resjax.errors import InputError, did_you_mean
from resjax.models import cost
from resjax.models.families import FAMILIES, Family, find_family
from resjax.models.published import Facts, Paper, PublishedResult
from resjax.models.published_cifar import CIFAR_NETWORKS
from resjax.models.published_imagenet import IMAGENET_NETWORKS

NETWORKS = CIFAR_NETWORKS | IMAGENET_NETWORKS


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a named network.

    Attributes:
      name: the name that `create_model` takes.
      paper: where the network comes from.
      parameters: exact number of trained parameters, with `num_classes` classes.
      multiply_adds: of one forward pass of one image of `input_size`.
      num_blocks: residual blocks, the length of a gate array.
      input_size: (H, W, C) of the images of the paper.
      num_classes: classes that the counts are for.
      published: test errors that the papers or their authors' code printed; the first is the one to compare with.
    """

    name: str
    paper: Paper
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
    """
    return sorted(fnmatch.filter(NETWORKS, pattern))


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
    """
    family, groups = _find(name)
    fields = {field.name for field in dataclasses.fields(family.module)} - {"parent", "name"}
    for override in overrides:
        if override not in fields:
            raise InputError(
                f"{name} takes no {override!r}{did_you_mean(override, fields)} (it takes {', '.join(sorted(fields))})"
            )
    try:
        return family.module(**(family.fields(*groups) | overrides))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def model_info(name: str) -> ModelInfo:
    """What is known of a network: paper, exact counts, published errors, input size.

    Raises:
      InputError: for an unknown name.
    """
    model, (family, _) = create_model(name), _find(name)
    shape = family.input_shape
    facts = NETWORKS.get(name) or Facts(cost.parameter_count(model, shape), cost.multiply_adds(model, shape))
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


def _find(name: str) -> tuple[Family, tuple[str, ...]]:
    found = find_family(name) if isinstance(name, str) else None
    if found is None:
        raise _unknown(str(name))
    return found


def _unknown(name: str) -> InputError:
    names = [family.names for family in FAMILIES]
    related = [valid for valid in names if name.lower().startswith(valid.split("_")[0])]
    return InputError(
        f"unknown model {name!r}{did_you_mean(name, NETWORKS)} (names are {', '.join(related or names)};"
        " resjax.list_models() lists those that papers tabulate)"
    )
