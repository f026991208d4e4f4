"""What the input of trained weights is: images of any size to what the network takes."""

import dataclasses
import functools
import math
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resjax.data.images.encoded import MOST_PIXELS, BrokenImage, file_bytes
from resjax.data.images.views import CentralPart
from resjax.data.masks.reading import read_image
from resjax.data.resize import INTERPOLATIONS, resize
from resjax.errors import InputError

# Luma of ITU-R 601 in 16 bits, as Pillow makes gray of colours.
_LUMA = (19595, 38470, 7471)
# Of pixels of natural images, for weights that are not divided by one.
_USUAL_STD = 64.0
_FAR, _FLAT = 2.0, 0.1
_said: set[str] = set()


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["mean", "std"],
    meta_fields=["size", "crop", "interpolation", "source"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Preprocessing:
    """Resizes images, cuts the centre out, and computes (pixels - mean) / std. May be called, or passed, in `jax.jit`.

    Attributes:
      mean, std: of pixels 0 .. 255, float32 [C], or [H, W, C] of each pixel.
      size: height and width of the network's input; None leaves images at their own.
      crop: fraction of the resized image, along each side, that is cut out of its centre.
      interpolation: of the resizing, with antialiasing: "bilinear", "bicubic" or "lanczos".
      source: whose input it is, for messages.
    """

    mean: jax.Array
    std: jax.Array
    size: tuple[int, int] | None = None
    crop: float = 1.0
    interpolation: str = "bilinear"
    source: str = "the weights"

    @property
    def channels(self) -> int:
        """Of the network's input."""
        return self.mean.shape[-1]

    @property
    def view(self) -> CentralPart | None:
        """The part of an image that the network sees, also for `resjax.data.images.ImageStream`; None: all of it."""
        if self.size is None:
            return None
        # As timm: 224 of 0.95 is 235. A size divided by a fraction of whole pixels is meant to be whole.
        height, width = (math.floor(side / self.crop + 1e-6) for side in self.size)
        return CentralPart((height, width), self.size, self.interpolation)

    def __call__(self, images: Any) -> jax.Array:
        """The network's input, float32 [N, H, W, C].

        Args:
          images: uint8 [N, H, W, C], or [H, W, C] for a single image. Or the path of an image file, or a sequence of
            paths, of such images or of Pillow's, of different sizes: they are read and resized on the host, turned
            upright as their EXIF orientation says. A gray image is repeated for a network of colours, colours become
            gray for one of gray images.

        Raises:
          InputError: for other types, shapes and channels, for floating point, for a file that cannot be read.
        """
        if isinstance(images, (str, os.PathLike)) or _is_pillow(images):
            images = [images]
        if isinstance(images, Sequence):
            images = self._stack(images)
        images = images[None] if getattr(images, "ndim", 0) == 3 else images
        _check(images)
        self.warn_if_far(images)
        return _network_input(self, images)

    def warn_if_far(self, images: Any) -> None:
        """Warns, once for each source, of uint8 images [N, H, W, C] whose mean or spread no such weights have seen.

        That is a channel's mean more than two standard deviations off, or a spread below a tenth of it: images of
        values 0 and 1, inverted digits, files that decode to black. Of traced arrays nothing is known.
        """
        if isinstance(images, jax.core.Tracer) or self.source in _said or not images.size:
            return
        step = max(1, min(images.shape[1:3]) // 64)
        pixels = _with_channels(np.asarray(images[:, ::step, ::step]), self.channels)
        # Each channel in one piece of memory: sums along it take a tenth of the time.
        pixels = np.moveaxis(pixels, -1, 0).reshape(self.channels, -1).astype(np.float32)
        mean = np.asarray(self.mean, np.float32).reshape(-1, self.channels).mean(0)
        std = np.asarray(self.std, np.float32).reshape(-1, self.channels).mean(0)
        spread = np.where(std < 8, _USUAL_STD, std)
        off = np.abs(pixels.mean(1) - mean) / spread
        contrast = pixels.std(1) / spread
        if off.max() <= _FAR and contrast.max() >= _FLAT:
            return
        _said.add(self.source)
        warnings.warn(
            f"{self.source}: these images have mean {_numbers(pixels.mean(1))} and standard deviation"
            f" {_numbers(pixels.std(1))}; it was trained on images of mean {_numbers(mean)} and standard"
            f" deviation of about {_numbers(spread)}: expected are pixels 0 .. 255, not inverted. Said once",
            stacklevel=3,
        )

    def _stack(self, images: Sequence[Any]) -> np.ndarray:
        """Files and images of different sizes as one array, uint8 [N, H, W, 3]; resized by Pillow."""
        view = self.view
        if not images:
            raise InputError("images: expected at least one, got an empty sequence")
        read = [_pixels(image, i) for i, image in enumerate(images)]
        if view is None:
            if len({pixels.shape for pixels in read}) > 1:
                raise InputError(
                    f"images: of different sizes, and {self.source} does not say to which they are resized: give images"
                    " of one size"
                )
            return np.stack(read)
        stacked = np.empty((len(read), *view.shape), np.uint8)
        for pixels, out in zip(read, stacked, strict=True):
            view.cut(np.ascontiguousarray(_with_channels(pixels, 3)), out)
        return stacked


def preprocessing_of(about: Mapping[str, Any], source: str) -> Preprocessing:
    """The preprocessing of weights from what is said `about` them, see `resjax.pretrained_info`.

    Raises:
      InputError: where mean and std are missing, or an entry is none.
    """
    if "mean" not in about or "std" not in about:
        raise InputError(
            f"{source}: says nothing of the mean and std of its input; save it again with resjax.save_pretrained(..,"
            ' about={"mean": .., "std": ..})'
        )
    try:
        mean, std = (np.asarray(about[key], np.float32) for key in ("mean", "std"))
        size = about.get("size", mean.shape[:2] if mean.ndim == 3 else None)
        size = None if size is None else tuple(int(side) for side in size)
        crop, interpolation = float(about.get("crop", 1.0)), about.get("interpolation", "bilinear")
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{source}: mean, std, size or crop are no numbers; save or download it again") from None
    is_size = size is None or (len(size) == 2 and min(size) > 0 and math.prod(size) <= MOST_PIXELS)
    fits = mean.ndim in (1, 3) and std.ndim in (1, 3) and mean.shape[-1:] == std.shape[-1:]
    fits = fits and all(array.ndim == 1 or array.shape[:2] == size for array in (mean, std))
    if not (fits and is_size and np.isfinite(mean).all() and (std > 0).all() and np.isfinite(std).all()):
        raise InputError(
            f"{source}: mean {mean.shape}, std {std.shape} and size {size} do not fit each other: expected [C] or"
            " [H, W, C], std > 0; save or download it again"
        )
    if not 0 < crop <= 1 or interpolation not in INTERPOLATIONS:
        raise InputError(
            f"{source}: crop {crop} and interpolation {interpolation!r}: expected a fraction in (0, 1], and one of"
            f" {', '.join(INTERPOLATIONS)}"
        )
    return Preprocessing(jnp.asarray(mean), jnp.asarray(std), size, crop, interpolation, source)


@jax.jit
def _network_input(preprocess: Preprocessing, images: jax.Array) -> jax.Array:
    images = _with_channels(images, preprocess.channels)
    view = preprocess.view
    if view is not None and images.shape[1:3] != view.size:
        images = resize(images, *_resizing(view, images.shape))
    return (images.astype(jnp.float32) - preprocess.mean) / preprocess.std


def _resizing(view: CentralPart, shape: tuple[int, ...]) -> tuple:
    scaled, corner = view.place(shape[1], shape[2])
    return scaled, view.interpolation, corner, view.size


def _check(images: Any) -> None:
    if not (hasattr(images, "ndim") and hasattr(images, "dtype")):
        raise InputError(f"images: expected uint8 [N, H, W, C], or paths of image files, got {type(images).__name__}")
    if images.ndim != 4:
        raise InputError(f"images: expected uint8 [N, H, W, C] or [H, W, C], got shape {images.shape}")
    if images.dtype != np.uint8:
        way_out = "; of values 0 .. 1, (255 * x).round().astype('uint8') makes it" if images.dtype.kind == "f" else ""
        raise InputError(f"images: expected pixels as uint8 0 .. 255, got {images.dtype}{way_out}")
    if images.shape[-1] not in (1, 3) or 0 in images.shape[1:3]:
        way_out = "; images[..., :3] leaves an alpha channel out" if images.shape[-1] == 4 else ""
        if not way_out and images.shape[1] in (1, 3):
            way_out = "; images.transpose(0, 2, 3, 1) puts the channels last"
        raise InputError(f"images: expected [N, H, W, C] of 1 or 3 channels, got shape {images.shape}{way_out}")


def _with_channels(images: Any, channels: int) -> Any:
    """uint8 [.., C] as [.., channels]."""
    found = images.shape[-1]
    if found == channels:
        return images
    if (found, channels) == (1, 3):
        return images.repeat(3, -1)
    if (found, channels) == (3, 1):
        sums = sum(images[..., i : i + 1].astype("int32") * luma for i, luma in enumerate(_LUMA))
        return ((sums + 0x8000) >> 16).astype("uint8")
    raise InputError(f"images: expected {channels} channels, got shape {images.shape}")


def _pixels(image: Any, index: int) -> np.ndarray:
    """One of several images, uint8 [H, W, C]."""
    if isinstance(image, (str, os.PathLike)):
        path = pathlib.Path(image).expanduser()
        try:
            return read_image(file_bytes(path), str(path))
        except BrokenImage as error:
            raise InputError(f"{path}: {error}") from None
    if _is_pillow(image) and not image.mode.startswith(("I", "F")):  # those have no 8 bits
        from PIL import ImageOps

        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    array = np.asarray(image)
    if array.ndim != 3:
        raise InputError(f"images[{index}]: expected a path, or uint8 [H, W, C], got shape {array.shape}")
    _check(array[None])
    return array


def _is_pillow(image: Any) -> bool:
    return hasattr(image, "convert") and hasattr(image, "mode")


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.0f}" for value in values)
