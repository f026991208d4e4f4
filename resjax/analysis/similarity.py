"""Similarity of representations by centered kernel alignment (CKA) with linear kernels.

Kornblith et al. 2019, arXiv 1905.00414; in mini-batches, Nguyen et al. 2021, arXiv 2010.15327, section 2.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resjax.analysis.outputs import block_outputs
from resjax.errors import InputError
from resjax.models import Network
from resjax.train.sharding import batch_sharding, check_batch_size, data_mesh, replicated

# The unbiased estimator divides by n (n - 3).
_LEAST = 4


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """CKA of two representations of the same N images, in [0, 1]: float [N, P] and [N, Q].

    ||Y^T X||^2 / (||X^T X|| ||Y^T Y||) of centred features, Frobenius norms, in float64 (section 3, eq. 5).

    Raises:
      InputError: for other shapes, or a representation that is the same for all images.

    Example:
      >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0]])
      >>> round(linear_cka(x, 3 * x[:, ::-1] + 7), 6)  # no matter the order, the scale and the offset of features
      1.0
    """
    x, y = (np.asarray(features, np.float64) for features in (x, y))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise InputError(f"x, y: expected float [N, P] and [N, Q], got shapes {x.shape} and {y.shape}")
    grams = [centred @ centred.T for centred in (x - x.mean(0), y - y.mean(0))]
    norms = [np.linalg.norm(gram) for gram in grams]
    if not all(norms):
        raise InputError("x, y: a representation is the same for all images")
    return float((grams[0] * grams[1]).sum() / (norms[0] * norms[1]))


def unbiased_hsic(grams: np.ndarray) -> np.ndarray:
    """Unbiased estimates of the Hilbert-Schmidt independence criterion, between all pairs: [L, n, n] -> [L, L].

    Song et al. 2012, JMLR 13, eq. 5, as in Nguyen et al. 2021, eq. 3. Their mean over mini-batches does not depend on
    the size of the mini-batches.

    Args:
      grams: kernel matrices of L representations of the same n >= 4 images; the diagonals are not read.

    Raises:
      InputError: for other shapes, or fewer images.
    """
    grams = np.array(grams, np.float64)
    if grams.ndim != 3 or grams.shape[1] != grams.shape[2] or grams.shape[1] < _LEAST:
        raise InputError(f"grams: expected [L, n, n] of n >= {_LEAST} images, got shape {grams.shape}")
    n = grams.shape[1]
    grams[:, np.arange(n), np.arange(n)] = 0
    flat, rows = grams.reshape(len(grams), -1), grams.sum(-1)
    sums = rows.sum(-1)
    terms = flat @ flat.T + np.outer(sums, sums) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T
    return terms / (n * (n - 3))


def block_similarity(
    networks: Sequence[tuple[Network, Any, np.ndarray]], batch_size: int = 256, mesh: Mesh | None = None
) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """CKA between all blocks of one or several networks, in mini-batches (Nguyen et al. 2021, eq. 2).

    In memory are the blocks' outputs for one mini-batch of one network, and a matrix [n, n] of each block.

    Args:
      networks: (model, variables, images) of each; the same images, each as its network takes them, [N, H, W, C].
      batch_size: images of a mini-batch, over all devices. Of N images the last N % batch_size are not read, unless
        there are fewer than one batch.
      mesh: devices that a mini-batch is split over; default: all. One device takes what they do not divide.

    Returns:
      The names of each network's blocks, and CKA float64 [L, L] between all of them, one network after another. Since
      the estimates are unbiased, values may lie slightly outside [0, 1].

    Raises:
      InputError: for networks without blocks, numbers of images that differ, or fewer than 4 images.
    """
    number = len(networks[0][2])
    if any(len(images) != number for *_, images in networks):
        raise InputError(f"networks: expected the same images for all, got {[len(entry[2]) for entry in networks]}")
    size = min(batch_size, number)
    if size < _LEAST:
        raise InputError(f"images, batch_size: expected {_LEAST} images or more in a batch, got {size}")
    mesh = mesh or data_mesh()
    if size % mesh.size and size == number:
        mesh = data_mesh(mesh.devices.ravel()[:1].tolist())
    check_batch_size(size, mesh)
    names, parts = [], []
    for model, variables, images in networks:
        outputs, unstacked, found = block_outputs(model, variables, images)
        names.append(found)
        parts.append(_grams(outputs, unstacked, images, size, mesh))
    sums: Any = 0
    for grams in zip(*parts, strict=True):
        sums = sums + unbiased_hsic(np.concatenate(grams))
    scale = np.sqrt(np.maximum(np.diag(sums), np.finfo(float).tiny))
    return names, sums / np.outer(scale, scale)


def _grams(outputs: Any, variables: Any, images: np.ndarray, size: int, mesh: Mesh) -> Iterator[np.ndarray]:
    """Of each mini-batch the kernel matrices [L, n, n] of the blocks' outputs."""

    def run(variables, images):
        def gram(x):
            # A shift of the features adds to K_ij what depends on i or j alone, which the estimator does not see, and
            # float32 does.
            x = x.reshape(len(x), -1).astype(jnp.float32)
            x = x - x.mean(0)
            return jnp.matmul(x, x.T, precision="highest")

        return jnp.stack([gram(x) for x in outputs(variables, images).values()])

    whole = replicated(mesh)
    compiled = jax.jit(run, in_shardings=(whole, batch_sharding(mesh)), out_shardings=whole)
    for start in range(0, len(images) - size + 1, size):
        yield np.asarray(compiled(variables, np.asarray(images[start : start + size], np.float32)))
