"""The two forms of a stage's variables: a block each, or stacked for `lax.scan`; the same numbers."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from resjax.models.network import Network, ResidualNetwork


def stacked_stages(tree: Any) -> set[str]:
    """Names of the stages whose blocks are stacked, in variables or in any tree of their structure."""
    names = set()
    for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
        keys = [str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path]
        names |= {stage for stage, inner in zip(keys, keys[1:], strict=False) if inner == "blocks"}
    return names


def unrolled(model: Network) -> Network:
    """The same network with every block's variables apart, as files and other libraries have them."""
    return model.clone(scan=False) if isinstance(model, ResidualNetwork) else model


def restack(tree: Any, stacked: Collection[str]) -> Any:
    """The same numbers with the blocks of exactly the stages `stacked` in stacked form; nothing is computed.

    Args:
      tree: variables, or any tree that holds such dictionaries: a train state, with its optimizer's.
      stacked: names of stages, e.g. `model.stacked_stages`; none of them for the unrolled form.
    """

    def convert(node):
        if not _has_stages(node):
            return node
        return {
            name: _stack(value) if name in stacked else _unstack(value) if name.startswith("stage_") else value
            for name, value in node.items()
        }

    return jax.tree.map(convert, tree, is_leaf=_has_stages)


def _has_stages(node):
    return isinstance(node, dict) and any(isinstance(name, str) and name.startswith("stage_") for name in node)


def _stack(stage):
    names = sorted((name for name in stage if name.startswith("block_") and name != "block_1"), key=_number)
    if not names:
        return stage
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(stage[name] for name in names))
    return {name: value for name, value in stage.items() if name not in names} | {"blocks": stacked}


def _unstack(stage):
    if "blocks" not in stage:
        return stage
    count = jax.tree.leaves(stage["blocks"])[0].shape[0]
    blocks = {f"block_{i + 2}": jax.tree.map(lambda leaf, i=i: leaf[i], stage["blocks"]) for i in range(count)}
    return {name: value for name, value in stage.items() if name != "blocks"} | blocks


def _number(name):
    return int(name.removeprefix("block_"))
