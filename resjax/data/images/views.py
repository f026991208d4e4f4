"""What the network sees of an image: crops for training, drawn from a generator, and those of evaluation.

A view is `view(image, rng, out)`: it fills uint8 `out`, of shape `view.shape`, from an `EncodedImage`.
"""

import dataclasses
import math
import random
from typing import Protocol

import numpy as np

from resjax.data.images.encoded import EncodedImage
from resjax.errors import InputError


class View(Protocol):
    """Fills an array from an image.

    Attributes:
      shape: of the array.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __call__(self, image: EncodedImage, rng: random.Random | None, out: np.ndarray) -> None: ...


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of random area and shape, resized to a square (Szegedy et al. 2014, arXiv 1409.4842, section 6).

    Attributes:
      size: side of the square.
      least_area: smallest part of the image's area; the largest is 1.
      aspect: smallest and largest width : height; its logarithm is uniform.
    """

    size: int
    least_area: float = 0.08
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self):
        if not (self.size > 0 and 0 < self.least_area <= 1 and 0 < self.aspect[0] <= self.aspect[1]):
            raise InputError(f"random-resized crop: not possible with {self}")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size, 3)

    def __call__(self, image: EncodedImage, rng: random.Random, out: np.ndarray) -> None:
        resize_smooth(image, self.box(image.height, image.width, rng), out)

    def box(self, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
        """Top, left, height and width of a part of an image of `height` x `width` pixels."""
        low, high = self.aspect
        for _ in range(10):
            area = height * width * rng.uniform(self.least_area, 1)
            aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
            box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < box_width <= width and 0 < box_height <= height:
                top, left = rng.randrange(height - box_height + 1), rng.randrange(width - box_width + 1)
                return top, left, box_height, box_width
        # Too long an image: its largest central part of an allowed shape.
        box_width = min(width, round(height * high))
        box_height = min(height, round(width / low))
        return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


@dataclasses.dataclass(frozen=True)
class RandomScaleCrop:
    """A random square of the image, resized to a random shorter side (VGG; He et al. 2015, section 3.4).

    Attributes:
      size: side of the square.
      shortest, longest: bounds of the shorter side, in pixels, drawn uniformly from the integers between.
    """

    size: int
    shortest: int = 256
    longest: int = 480

    def __post_init__(self):
        if not 0 < self.size <= self.shortest <= self.longest:
            raise InputError(f"random-scale crop: a crop of {self.size} from sides of {self.shortest}..{self.longest}")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size, 3)

    def __call__(self, image: EncodedImage, rng: random.Random, out: np.ndarray) -> None:
        resize_smooth(image, self.box(image.height, image.width, rng), out)

    def box(self, height: int, width: int, rng: random.Random) -> tuple[float, float, float, float]:
        """Top, left, height and width of a part of an image of `height` x `width` pixels."""
        side = self.size * min(height, width) / rng.randint(self.shortest, self.longest)
        top, left = rng.uniform(0, height - side), rng.uniform(0, width - side)
        return top, left, side, side


@dataclasses.dataclass(frozen=True)
class CentreCrop:
    """The central square of the image, resized to a shorter side of `resize`, as torchvision evaluates.

    Attributes:
      resize: shorter side in pixels.
      size: side of the square.
    """

    resize: int = 256
    size: int = 224

    def __post_init__(self):
        if not 0 < self.size <= self.resize:
            raise InputError(f"centre crop: a square of {self.size} pixels from a shorter side of {self.resize}")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size, 3)

    def __call__(self, image: EncodedImage, rng: None, out: np.ndarray) -> None:
        scaled = _scaled_size(image, self.resize)
        # Rounded as torchvision does.
        top, left = (int(round((side - self.size) / 2)) for side in scaled)
        resize_exactly(image.pixels(), scaled, (top, left), out)


@dataclasses.dataclass(frozen=True)
class FiveCrops:
    """The squares at the four corners and in the centre; with their mirror images, the standard 10 crops."""

    resize: int = 256
    size: int = 224

    def __post_init__(self):
        CentreCrop.__post_init__(self)

    @property
    def shape(self) -> tuple[int, ...]:
        return (5, self.size, self.size, 3)

    def __call__(self, image: EncodedImage, rng: None, out: np.ndarray) -> None:
        height, width = scaled = _scaled_size(image, self.resize)
        down, right = height - self.size, width - self.size
        pixels = image.pixels()
        corners = ((0, 0), (0, right), (down, 0), (down, right), (int(round(down / 2)), int(round(right / 2))))
        for corner, part in zip(corners, out, strict=True):
            resize_exactly(pixels, scaled, corner, part)


@dataclasses.dataclass(frozen=True)
class ThreeSquares:
    """Squares as large as the shorter side, at both ends and in the middle of the longer one, resized to `size`.

    They cover every image up to a shape of 3 : 1.
    """

    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size, 3)

    def __call__(self, image: EncodedImage, rng: None, out: np.ndarray) -> None:
        height, width = scaled = _scaled_size(image, self.size)
        pixels = image.pixels()
        for part, square in zip((0, 0.5, 1), out, strict=True):
            corner = (int(round(part * (height - self.size))), int(round(part * (width - self.size))))
            resize_exactly(pixels, scaled, corner, square)


def resize_smooth(image: EncodedImage, box: tuple[float, float, float, float], out: np.ndarray) -> None:
    """Resizes the part `box` (top, left, height, width) of an image to `out`, bicubic as in fb.resnet.torch.

    A JPEG is decoded at a smaller scale where `out` needs no more.
    """
    import cv2

    reduction = min(box[2] / out.shape[0], box[3] / out.shape[1])
    # A little above 1 lets the decoder take its faster transforms at full size.
    pixels = image.pixels(max(reduction, 1.01))
    rows, columns = pixels.shape[0] / image.height, pixels.shape[1] / image.width
    top, bottom = _inside(box[0] * rows, (box[0] + box[2]) * rows, pixels.shape[0])
    left, right = _inside(box[1] * columns, (box[1] + box[3]) * columns, pixels.shape[1])
    part = pixels[top:bottom, left:right]
    # Bicubic reads 4 x 4 pixels: from a reduction of 2 on, which PNG may ask for, it would skip some.
    area = min(part.shape[0] / out.shape[0], part.shape[1] / out.shape[1]) >= 2
    resized = cv2.resize(
        part, (out.shape[1], out.shape[0]), dst=out, interpolation=cv2.INTER_AREA if area else cv2.INTER_CUBIC
    )
    if resized is not out:
        out[:] = resized


def resize_exactly(pixels: np.ndarray, scaled: tuple[int, int], corner: tuple[int, int], out: np.ndarray) -> None:
    """The part at `corner`, as large as `out`, of `pixels` resized to `scaled`: bilinear, with antialiasing."""
    from PIL import Image

    (height, width), (top, left) = scaled, corner
    rows, columns = pixels.shape[0] / height, pixels.shape[1] / width
    box = (left * columns, top * rows, (left + out.shape[1]) * columns, (top + out.shape[0]) * rows)
    box = (*box[:2], min(box[2], pixels.shape[1]), min(box[3], pixels.shape[0]))
    out[:] = Image.fromarray(pixels).resize((out.shape[1], out.shape[0]), Image.Resampling.BILINEAR, box=box)


def _scaled_size(image: EncodedImage, shorter: int) -> tuple[int, int]:
    """Height and width with the shorter side at `shorter`, the longer truncated as torchvision does."""
    if image.height <= image.width:
        return shorter, int(shorter * image.width / image.height)
    return int(shorter * image.height / image.width), shorter


def _inside(start: float, stop: float, size: int) -> tuple[int, int]:
    """Whole pixels from `start` to `stop`, at least one, inside 0..size."""
    first = min(round(start), size - 1)
    return first, max(min(round(stop), size), first + 1)
