"""What several residual streams, or attention over depth, have learned: how much of which block each block reads.

Zhu et al. 2024, Hyper-Connections, arXiv 2409.19606, section 4.5; Kimi Team 2026, Attention Residuals, arXiv
2603.15031.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from resjax.analysis.chain import without_recomputation
from resjax.errors import InputError
from resjax.layers import MIXING, HyperConnections
from resjax.models import Network, restack, unrolled


@dataclasses.dataclass(frozen=True)
class StageMixing:
    """The learned weights of one stage; B of its blocks have several streams, all but the first.

    Attributes:
      stage: its name.
      connections: float64 [B + 1, B + 1], mean over images: in row i how much of each source the i-th block reads, in
        the last row how much the stage returns. Source 0 is the output of the stage's first block, source j the branch
        of the j-th block with streams. In a plain residual network all are 1, up to the diagonal. Where the order of a
        block has a nonlinearity behind the addition, it is taken for the identity.
      matrices: of `HyperConnections`, float64 [B, n + 1, n + 1], mean over images: the matrix of each block as equation
        1 of the paper has it, B in its first row, A_m in its first column, A_r in the rest; None of
        `AttentionResiduals`.
    """

    stage: str
    connections: np.ndarray
    matrices: np.ndarray | None = None


def stream_mixing(model: Network, variables: Any, images: np.ndarray) -> list[StageMixing]:
    """The learned weights of each stage of more than one block.

    Args:
      model, variables: a residual network with `streams`.
      images: normalised, [N, H, W, C], one batch. Weights that depend on the image are averaged over them.

    Raises:
      InputError: for a network with one residual stream, or no images.
    """
    rule = getattr(model, "streams", None)
    if rule is None:
        raise InputError(
            f"{type(model).__name__}: has one residual stream; streams=resjax.HyperConnections(4) has four"
        )
    if len(images) == 0:
        raise InputError("images: expected at least one")
    network = without_recomputation(unrolled(model))

    def weights(variables, images):
        return network.apply(variables, images, mutable=["intermediates"])[1]

    kept = jax.jit(weights)(restack(variables, ()), np.asarray(images, np.float32))
    found = []
    for stage, parts in sorted(kept.get("intermediates", {}).items()):
        number = len(parts) if isinstance(rule, HyperConnections) else len(parts) - 1
        blocks = [parts[f"block_{i + 2}"]["streams"][MIXING][0] for i in range(number)]
        if isinstance(rule, HyperConnections):
            factors = [tuple(np.asarray(each, np.float64) for each in block) for block in blocks]
            matrices = np.stack([_as_in_the_paper(k, block) for k, block in enumerate(factors)])
            found.append(StageMixing(stage, _unfolded(factors), matrices))
        else:
            rows = [*blocks, parts["merge"][MIXING][0]]
            connections = np.zeros((len(rows), len(rows)))
            for i, row in enumerate(rows):
                connections[i, : i + 1] = np.asarray(row, np.float64).mean((1, 2, 3))
            found.append(StageMixing(stage, connections))
    return found


def _as_in_the_paper(k, factors):
    """The matrix [n + 1, n + 1] of the k-th block, with streams that keep their numbers, as the layer's do not."""
    n = factors[0].shape[-1]
    read, mix, write = (
        each.reshape(-1, *shape).mean(0) for each, shape in zip(factors, ((n,), (n, n), (n,)), strict=True)
    )
    matrix = np.zeros((n + 1, n + 1))
    matrix[0, 1:], matrix[1:, 0] = np.roll(write, k), np.roll(read, k)
    matrix[1:, 1:] = np.roll(mix, (k, k), (0, 1))
    return matrix


def _unfolded(factors):
    """The connections of blocks with (read, mix, write) each, for each image or for all."""
    images = max((len(read) for read, _, _ in factors if read.ndim > 1), default=1)
    n = factors[0][0].shape[-1]
    held = np.zeros((images, n, len(factors) + 1))  # how much of each source is in each stream
    held[..., 0] = 1
    rows = []
    for k, (read, mix, write) in enumerate(factors):
        rows.append(np.einsum("...n,...ns->...s", read, held))
        held = np.einsum("...nm,...ns->...ms", mix, held)
        held[..., k + 1] += write
        held = np.roll(held, -1, axis=-2)
    return np.stack([*rows, held.mean(-2)], axis=-2).mean(0)
