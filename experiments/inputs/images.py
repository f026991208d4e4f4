"""Small images in memory: normalisation, preprocessing, and the whitening of a stem."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.configs.base import Config
from experiments.inputs.splits import data_info
from resjax import preprocessing as preprocessing_of_weights
from resjax.data import dataset_info
from resjax.data.augment import alternation, augment
from resjax.data.normalization import ContrastNormalization, Normalization, Whitening, patch_whitening
from resjax.errors import InputError
from resjax.interop.network_input import Preprocessing

_log = logging.getLogger(__name__)

# Images whose patches are whitened, as in airbench94.
_WHITENED = 5000


def normalization(
    config: Config, train_images: np.ndarray, known: Preprocessing | None = None
) -> Callable[[jax.Array], jax.Array]:
    """What a config's network takes of uint8 images; statistics are those of train_images, uint8 [N, H, W, C].

    `known` is what a finished run says of the input of the weights that it started from.
    """
    match config.normalization:
        case "weights":
            return known or preprocessing_of_weights(str(config.pretrained))
        case "mean_std" | "cifar10_mean_std":
            info = dataset_info("cifar10") if config.normalization == "cifar10_mean_std" else data_info(config)
            if len(info.mean) not in (1, train_images.shape[-1]):
                raise InputError(
                    f"--normalization {config.normalization}: its numbers are of {len(info.mean)} channels, these"
                    f" images have {train_images.shape[-1]}; use --normalization mean_std"
                )
            return Normalization(jnp.asarray(info.mean, jnp.float32), jnp.asarray(info.std, jnp.float32))
        case "gcn":
            return ContrastNormalization()
        case "gcn_mean":
            return ContrastNormalization.fit(train_images)
        case "scale_256":
            channels = train_images.shape[-1]
            return Normalization(jnp.zeros(channels, jnp.float32), jnp.full(channels, 256, jnp.float32))
        case "gcn_zca":
            return Whitening.fit(train_images)
    mean = train_images.mean(0, dtype=np.float64)
    std = 1.0 if config.normalization == "per_pixel_mean" else train_images.std(dtype=np.float64)
    return Normalization(jnp.asarray(mean, jnp.float32), jnp.asarray([std] * train_images.shape[-1], jnp.float32))


def preprocessing(config: Config, train_images: np.ndarray) -> dict[str, Any]:
    """`normalize`, `prepare` and `steps_per_epoch` of a config's `Task`; train_images is uint8 [N, H, W, C]."""
    info = data_info(config)
    normalize = normalization(config, train_images)
    if isinstance(normalize, Preprocessing):
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *rest: _log.warning("%s", message)
            normalize.warn_if_far(train_images)

    def prepare(key, images, labels, epoch=None):
        mirrored = None if epoch is None else alternation(images, epoch)
        return augment(key, normalize(images), labels, info.num_classes, config.augmentation, mirrored)

    steps_per_epoch = len(train_images) // config.batch_size if config.augmentation.alternating_flip else None
    return {"normalize": normalize, "prepare": prepare, "steps_per_epoch": steps_per_epoch}


def whitened(model: nn.Module, normalize: Callable[[jax.Array], jax.Array], train_images: np.ndarray) -> nn.Module:
    """A network whose stem whitens patches with that of the training images, uint8 [N, H, W, C]; others as they are."""
    if not hasattr(model, "whitening_init"):
        return model
    kernel = jnp.asarray(patch_whitening(np.asarray(normalize(train_images[:_WHITENED]))))
    return model.clone(whitening_init=lambda key, shape, dtype: kernel.astype(dtype))
