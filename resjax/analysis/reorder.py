"""Swaps blocks of one shape (Veit et al. 2016, arXiv 1605.06431, section 4.2, figure 5 b)."""

import collections
from typing import Any

import numpy as np
from jax.sharding import Mesh

from resjax.analysis.chain import Chain
from resjax.errors import InputError
from resjax.models import Network, restack


def exchangeable_blocks(variables: Any) -> list[np.ndarray]:
    """Indices of the blocks of one shape in each stage: all but the first, which may change resolution and width."""
    groups, first = [], 0
    for stage in _stage_names(variables):
        blocks = sum(name.startswith("block_") for name in restack(variables, ())["params"][stage])
        groups.append(np.arange(first + 1, first + blocks))
        first += blocks
    return groups


def swapped_orders(seed: int, groups: list[np.ndarray], num_blocks: int, swaps: np.ndarray) -> np.ndarray:
    """Orders of the blocks after random swaps within groups: numbers of swaps [P] -> int [P, num_blocks].

    The first orders of all numbers are one walk, swap after swap, and so are the second ones. Each is as random as one
    that is drawn alone, and has more in common with the one before, which is then run once for both.

    Raises:
      InputError: if no group has two blocks.
    """
    sizes = np.array([len(group) * (len(group) - 1) for group in groups])
    if sizes.sum() == 0:
        raise InputError("reorder: no stage has two blocks of one shape after its first")
    rng = np.random.default_rng(seed)
    orders = np.tile(np.arange(num_blocks), (len(swaps), 1))
    walks: dict[int, tuple[int, np.ndarray]] = {}
    counts: collections.Counter[int] = collections.Counter()
    for place in np.argsort(swaps, kind="stable").tolist():
        number = int(swaps[place])
        walk = counts[number]
        counts[number] += 1
        done, order = walks.get(walk, (0, orders[place]))
        order = order.copy()
        for group in rng.choice(len(groups), number - done, p=sizes / sizes.sum()):
            i, j = rng.choice(groups[group], 2, replace=False)
            order[[i, j]] = order[[j, i]]
        orders[place], walks[walk] = order, (number, order)
    return orders


def kendall_tau(orders: np.ndarray) -> np.ndarray:
    """Kendall's rank correlation of each order with the original: int [P, n] -> [P]; 1 if nothing moved.

    Example:
      >>> kendall_tau(np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0]])).round(3).tolist()
      [1.0, 0.333, -1.0]
    """
    i, j = np.triu_indices(orders.shape[1], 1)
    return np.sign(orders[:, j] - orders[:, i]).mean(-1)


def predict_reordered(
    model: Network,
    variables: Any,
    images: np.ndarray,
    orders: np.ndarray,
    batch_size: int = 256,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """The classes that a network predicts with its blocks in other orders.

    What two orders have in common up to the first block in which they differ is computed once.

    Args:
      model: a residual network, or its plain twin.
      variables: variables of the model.
      images: normalised, [N, H, W, C].
      orders: int [P, n]: the block at each position, within `exchangeable_blocks`.
      batch_size: images at a time, over all devices.
      mesh: devices that a batch is split over; default: all.

    Returns:
      int32 [P, N].

    Raises:
      InputError: for a network without blocks, an order that moves blocks of different shapes, no images, or a
        batch that the devices do not divide.
    """
    chain = Chain(model, variables, images, mesh)
    groups = exchangeable_blocks(variables)
    restored = np.array(orders)
    for group in groups:
        restored[:, group] = np.sort(restored[:, group])
    if orders.shape[1:] != (len(chain),) or np.any(restored != np.arange(len(chain))):
        raise InputError("orders: expected permutations [P, n] within each of exchangeable_blocks(variables)")
    variants = [[(block, True, True) for block in order] for order in orders.tolist()]
    return chain.predict(variants, images, batch_size)


def _stage_names(variables):
    names = [name for name in variables["params"] if name.startswith("stage_")]
    return sorted(names, key=lambda name: int(name.removeprefix("stage_")))
