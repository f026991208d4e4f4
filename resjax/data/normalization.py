"""Normalisation: by mean and std, of each image by its own contrast, and whitening of whole images and of patches.

Contrast and whitening of whole images follow pylearn2's `make_cifar10_gcn_whitened` (Goodfellow et al. 2013, arXiv
1302.4389, section 5.2).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from resjax.errors import InputError

_SCALE, _SMALLEST, _BIAS = 55.0, 1e-8, 0.1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normalization:
    """(x - mean) / std of pixel values 0..255.

    Attributes:
      mean, std: float32, broadcastable to [H, W, C]: [C] per channel, [H, W, C] per pixel.
    """

    mean: jax.Array
    std: jax.Array

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps uint8 images [N, H, W, C] to float32."""
        return (images.astype(jnp.float32) - self.mean) / self.std


@functools.partial(jax.tree_util.register_dataclass, data_fields=["mean"], meta_fields=["scale"])
@dataclasses.dataclass(frozen=True)
class ContrastNormalization:
    """Global contrast normalisation: an image minus its mean over pixels and channels, at L2 norm `scale`.

    Images without contrast become zero.

    Attributes:
      scale: the norm.
      mean: subtracted from the result, float32 [H, W, C]; None subtracts nothing.
    """

    scale: float = _SCALE
    mean: jax.Array | None = None

    @classmethod
    def fit(cls, images: np.ndarray, chunk: int = 4096) -> "ContrastNormalization":
        """The normalisation that gives these training images, uint8 [N, H, W, C], mean 0 in each pixel; in float64."""
        parts = (_contrast(images[start : start + chunk]).sum(0) for start in range(0, len(images), chunk))
        total = sum(parts, start=np.zeros(()))
        return cls(mean=jnp.asarray((total / len(images)).reshape(images.shape[1:]), jnp.float32))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps uint8 images [N, H, W, C] to float32."""
        centred = images.astype(jnp.float32) - images.mean((1, 2, 3), jnp.float32, keepdims=True)
        norms = jnp.sqrt(jnp.square(centred).sum((1, 2, 3), keepdims=True)) / self.scale
        normalised = centred / jnp.where(norms < _SMALLEST, 1, norms)
        return normalised if self.mean is None else normalised - self.mean


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Whitening:
    """ZCA whitening of contrast-normalised images: (x - mean) @ matrix, where x is the H W C numbers of an image.

    Attributes:
      mean: float32 [H W C].
      matrix: float32 [H W C, H W C], symmetric.
    """

    mean: jax.Array
    matrix: jax.Array

    @classmethod
    def fit(cls, images: np.ndarray, bias: float = _BIAS, chunk: int = 4096) -> "Whitening":
        """The whitening of training images, uint8 [N, H, W, C]: (covariance + bias I)^(-1/2) (in float64).

        Raises:
          InputError: for a single image, which has no covariance.
        """
        if len(images) < 2:
            raise InputError(f"images: whitening needs at least two, got {len(images)}")
        size = int(np.prod(images.shape[1:]))
        total, products = np.zeros(size), np.zeros((size, size))
        for start in range(0, len(images), chunk):
            flat = _contrast(images[start : start + chunk])
            total += flat.sum(0)
            products += flat.T @ flat
        mean = total / len(images)
        covariance = products / len(images) - np.outer(mean, mean)
        values, vectors = np.linalg.eigh(covariance + bias * np.eye(size))
        matrix = (vectors / np.sqrt(values)) @ vectors.T
        return cls(jnp.asarray(mean, jnp.float32), jnp.asarray(matrix, jnp.float32))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps uint8 images [N, H, W, C] to float32."""
        flat = ContrastNormalization()(images).reshape(len(images), -1)
        # Small differences of large numbers need float32: accelerators would multiply in bfloat16.
        return jnp.dot(flat - self.mean, self.matrix, precision=jax.lax.Precision.HIGHEST).reshape(images.shape)


def _contrast(images: np.ndarray) -> np.ndarray:
    """`ContrastNormalization` in float64, flat [N, H W C]."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat -= flat.mean(1, keepdims=True)
    norms = np.sqrt(np.square(flat).sum(1, keepdims=True)) / _SCALE
    return flat / np.where(norms < _SMALLEST, 1, norms)


def patch_whitening(images: np.ndarray, size: int = 2, bias: float = 5e-4) -> np.ndarray:
    """A convolution kernel that whitens patches: float32 [size, size, C, 2 size^2 C].

    Its outputs are the patches' coordinates along the eigenvectors of their second moments, divided by the square root
    of its eigenvalue + bias. The same outputs negated follow, so that a rectifier loses nothing (Page 2019, "How to
    train your ResNet" 8; Jordan 2024, arXiv 2404.00498, section 3.2).

    Args:
      images: normalised images, float [N, H, W, C].
      size: height and width of a patch.
      bias: added to the eigenvalues.
    """
    views = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    channels = images.shape[-1]
    patches = np.moveaxis(views, 3, 5).reshape(-1, size * size * channels).astype(np.float64)
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    kernel = (vectors / np.sqrt(values + bias)).reshape(size, size, channels, -1)
    return np.concatenate([kernel, -kernel], -1).astype(np.float32)
