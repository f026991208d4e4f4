"""Fine-tuning: how deep a parameter lies, and which parameters are trained."""

import re
from collections.abc import Callable
from typing import Any

import jax
import optax

from resjax.errors import InputError

# Names of the networks' parts; a transition, or what follows the last stage, belongs to the stage before it.
_NUMBERED = re.compile(r"(?:stage|transition|conv)_(\d+)")
_STAGES = re.compile(r"stages:(\d+)")


def layer_depths(params: Any) -> tuple[Any, int]:
    """The depth of each parameter, and that of the head, the largest.

    The stem has depth 0, stage i has i, and what follows the last of S stages has S. The head, a module named
    `head..`, has S + 1. In a `SegmentationNetwork`, the trunk's parts count.
    """
    paths = [_names(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    last = max((int(match[1]) for names in paths if (match := _NUMBERED.fullmatch(names[0]))), default=0)

    def depth(path, _):
        name = _names(path)[0]
        if name.startswith("head"):
            return last + 1
        match = _NUMBERED.fullmatch(name)
        return int(match[1]) if match else last if name.startswith("final") else 0

    return jax.tree_util.tree_map_with_path(depth, params), last + 1


def trained_parameters(freeze: str) -> Callable[[Any], Any] | None:
    """The mask of the parameters that are trained: parameters -> a tree of bool; None if all are.

    Args:
      freeze: "none"; "trunk": all but the head stay as they are; "stages:N": the stem and the first N stages stay.

    Raises:
      InputError: for another text. The function raises it where a network has fewer stages.

    Example:
      >>> params = {"stem": {"kernel": 0}, "stage_1": {"kernel": 0}, "stage_2": {"kernel": 0}, "head": {"bias": 0}}
      >>> trained_parameters("stages:1")(params)
      {'head': {'bias': True}, 'stage_1': {'kernel': False}, 'stage_2': {'kernel': True}, 'stem': {'kernel': False}}
    """
    if freeze == "none":
        return None
    match = _STAGES.fullmatch(freeze)
    if freeze != "trunk" and match is None:
        raise InputError(f"freeze: expected none, trunk or stages:N, e.g. stages:2, got {freeze!r}")

    def mask(params: Any) -> Any:
        depths, head = layer_depths(params)
        frozen = int(match[1]) if match else head - 1
        if frozen > head - 1:
            raise InputError(f"freeze: the network has {head - 1} stages, got {freeze!r}; expected stages:N up to that")
        return jax.tree.map(lambda depth: depth > frozen, depths)

    return mask


def train_only(optimizer: optax.GradientTransformation, trained: Callable[[Any], Any]) -> optax.GradientTransformation:
    """`optimizer` for the parameters that the mask of `trained_parameters` chooses; the others stay as they are.

    No velocity or decay is kept for the others. `make_train_step(.., trained=trained)` leaves out their gradients.
    """

    def labels(params):
        return jax.tree.map(lambda own: "trained" if own else "frozen", trained(params))

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def _names(path: tuple[Any, ...]) -> list[str]:
    """The keys of a path, without that of a segmentation network's trunk."""
    names = [str(entry.key) for entry in path]
    return names[1:] if names[0] == "trunk" and len(names) > 1 else names
