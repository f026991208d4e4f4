"""Converts a stage's variables between one entry per block and stacked blocks for `lax.scan`."""

import dataclasses
from collections.abc import Collection
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

Module = TypeVar("Module", bound=nn.Module)


def stacked_stages(tree: Any) -> set[str]:
    """Names of the stages with stacked blocks, in variables or any tree of their structure."""
    names = set()
    for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
        keys = [str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path]
        names |= {stage for stage, inner in zip(keys, keys[1:], strict=False) if inner == "blocks"}
    return names


def unrolled(model: Module) -> Module:
    """The same network (and its trunk) with separate variables for every block, as files and other libraries have them.

    It has no compiled loop over its blocks.
    """
    fields: dict[str, Any] = {
        field.name: unrolled(getattr(model, field.name))
        for field in dataclasses.fields(model)
        if field.name != "parent" and isinstance(getattr(model, field.name, None), nn.Module)
    }
    if getattr(model, "scan", False):
        fields["scan"] = False
    return model.clone(**fields) if fields else model


def restack(tree: Any, stacked: Collection[str]) -> Any:
    """The same numbers with stacked blocks in exactly the stages `stacked`; nothing is computed.

    Args:
      tree: variables, or any tree that holds such dictionaries, e.g. a train state with its optimizer state.
      stacked: names of stages, e.g. `model.stacked_stages`; none of them for the unrolled form.
    """

    # An optimizer without state for some parameters has empty nodes in their place, which have no number of blocks.
    counts = {}
    for node in filter(_has_stages, jax.tree.leaves(tree, is_leaf=_has_stages)):
        for name, stage in node.items():
            if isinstance(stage, dict) and (leaves := jax.tree.leaves(stage.get("blocks"))):
                counts[name] = leaves[0].shape[0]

    def convert(node):
        if not _has_stages(node):
            return node
        apart = {name: _unstack(value, counts.get(name)) for name, value in node.items() if name.startswith("stage_")}
        return node | apart | {name: _stack(value) for name, value in node.items() if name in stacked}

    return jax.tree.map(convert, tree, is_leaf=_has_stages)


def _has_stages(node):
    return isinstance(node, dict) and any(isinstance(name, str) and name.startswith("stage_") for name in node)


def _stack(stage):
    names = sorted((name for name in stage if name.startswith("block_") and name != "block_1"), key=_number)
    if not names:
        return stage
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(stage[name] for name in names))
    return {name: value for name, value in stage.items() if name not in names} | {"blocks": stacked}


def _unstack(stage, count):
    if "blocks" not in stage:
        return stage
    blocks = {f"block_{i + 2}": jax.tree.map(lambda leaf, i=i: leaf[i], stage["blocks"]) for i in range(count)}
    return {name: value for name, value in stage.items() if name != "blocks"} | blocks


def _number(name):
    return int(name.removeprefix("block_"))
