"""Views of an image for the network: random crops for training, and fixed crops for evaluation.

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
      shape: shape of the array.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __call__(self, image: EncodedImage, rng: random.Random | None, out: np.ndarray) -> None: ...


class _RandomCrop:
    """A random part of the image, resized to a square of `size`."""

    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size, 3)

    def __call__(self, image: EncodedImage, rng: random.Random | None, out: np.ndarray) -> None:
        resize_smooth(image, self.box(image.height, image.width, _drawn_from(rng, self)), out)

    def box(self, height: int, width: int, rng: random.Random) -> tuple[float, float, float, float]:
        """Top, left, height and width of a part of an image of `height` x `width` pixels."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(_RandomCrop):
    """A random part of random area and aspect, resized to a square (Szegedy et al. 2014, arXiv 1409.4842, section 6).

    Attributes:
      size: side of the square.
      min_area: minimum fraction of the image's area; the maximum is 1.
      aspect: minimum and maximum of width / height; its logarithm is uniform.
    """

    size: int
    min_area: float = 0.08
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self):
        if not (self.size > 0 and 0 < self.min_area <= 1 and 0 < self.aspect[0] <= self.aspect[1]):
            raise InputError(f"random-resized crop: not possible with {self}")

    def box(self, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
        """Top, left, height and width of a part of an image of `height` x `width` pixels."""
        low, high = self.aspect
        for _ in range(10):
            area = height * width * rng.uniform(self.min_area, 1)
            aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
            box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < box_width <= width and 0 < box_height <= height:
                top, left = rng.randrange(height - box_height + 1), rng.randrange(width - box_width + 1)
                return top, left, box_height, box_width
        # The image is too long: take its largest central part of an allowed shape.
        box_width = min(width, round(height * high))
        box_height = min(height, round(width / low))
        return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


@dataclasses.dataclass(frozen=True)
class RandomScaleCrop(_RandomCrop):
    """A random square of the image, resized to a random shorter side (VGG; He et al. 2015, section 3.4).

    Attributes:
      size: side of the square.
      shortest, longest: bounds of the shorter side in pixels, which is drawn uniformly from the integers between them.
    """

    size: int
    shortest: int = 256
    longest: int = 480

    def __post_init__(self):
        if not 0 < self.size <= self.shortest <= self.longest:
            raise InputError(f"random-scale crop: a crop of {self.size} from sides of {self.shortest}..{self.longest}")

    def box(self, height: int, width: int, rng: random.Random) -> tuple[float, float, float, float]:
        """Top, left, height and width of a part of an image of `height` x `width` pixels."""
        side = self.size * min(height, width) / rng.randint(self.shortest, self.longest)
        top, left = rng.uniform(0, height - side), rng.uniform(0, width - side)
        return top, left, side, side


@dataclasses.dataclass(frozen=True)
class CentralPart:
    """The central part of the image, resized to cover a rectangle.

    Attributes:
      covered: height and width that the resized image covers, one of them exactly.
      size: height and width of the part.
      interpolation: "bilinear", "bicubic" or "lanczos"; with antialiasing.
      gap: a JPEG is decoded at a half, a quarter or an eighth of its size while it stays at least so many times larger
        than what it is resized to; by default never, so that the result is exactly that of the full size.
    """

    covered: tuple[int, int]
    size: tuple[int, int]
    interpolation: str = "bilinear"
    gap: float = math.inf

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.size, 3)

    def __call__(self, image: EncodedImage, rng: random.Random | None, out: np.ndarray) -> None:
        scaled, corner = self.place(image.height, image.width)
        reduction = min(image.height / scaled[0], image.width / scaled[1]) / self.gap
        # Below a half, only the decoder's faster and less exact transforms would be gained.
        pixels = image.pixels(reduction if reduction >= 2 else 1)
        resize_exactly(pixels, scaled, corner, out, self.interpolation)

    def cut(self, pixels: np.ndarray, out: np.ndarray) -> None:
        """Fills `out` from pixels that are decoded, uint8 [H, W, 3]."""
        scaled, corner = self.place(*pixels.shape[:2])
        resize_exactly(pixels, scaled, corner, out, self.interpolation)

    def place(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of a whole image of `height` x `width` when resized, and top and left of the part."""
        scaled = covering(height, width, self.covered)
        # Rounded as torchvision does.
        top, left = (int(round((side - part) / 2)) for side, part in zip(scaled, self.size, strict=True))
        return scaled, (top, left)


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
        _check_square(self.size, self.resize)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size, 3)

    def __call__(self, image: EncodedImage, rng: random.Random | None, out: np.ndarray) -> None:
        CentralPart((self.resize, self.resize), (self.size, self.size))(image, rng, out)


@dataclasses.dataclass(frozen=True)
class FiveCrops:
    """The squares at the four corners and in the centre. With their mirror images they are the standard 10 crops."""

    resize: int = 256
    size: int = 224

    def __post_init__(self):
        _check_square(self.size, self.resize)

    @property
    def shape(self) -> tuple[int, ...]:
        return (5, self.size, self.size, 3)

    def __call__(self, image: EncodedImage, rng: random.Random | None, out: np.ndarray) -> None:
        height, width = scaled = covering(image.height, image.width, (self.resize, self.resize))
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

    def __call__(self, image: EncodedImage, rng: random.Random | None, out: np.ndarray) -> None:
        height, width = scaled = covering(image.height, image.width, (self.size, self.size))
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
    # A reduction a little above 1 lets the decoder use its faster transforms at full size.
    pixels = image.pixels(max(reduction, 1.01))
    rows, columns = pixels.shape[0] / image.height, pixels.shape[1] / image.width
    top, bottom = _inside(box[0] * rows, (box[0] + box[2]) * rows, pixels.shape[0])
    left, right = _inside(box[1] * columns, (box[1] + box[3]) * columns, pixels.shape[1])
    part = pixels[top:bottom, left:right]
    # Bicubic reads 4 x 4 pixels, so it would skip some at a reduction of 2 or more, which PNG may need.
    area = min(part.shape[0] / out.shape[0], part.shape[1] / out.shape[1]) >= 2
    resized = cv2.resize(
        part, (out.shape[1], out.shape[0]), dst=out, interpolation=cv2.INTER_AREA if area else cv2.INTER_CUBIC
    )
    if resized is not out:
        out[:] = resized


def resize_exactly(
    pixels: np.ndarray,
    scaled: tuple[int, int],
    corner: tuple[int, int],
    out: np.ndarray,
    interpolation: str = "bilinear",
) -> None:
    """The part at `corner`, as large as `out`, of `pixels` resized to `scaled`, with antialiasing."""
    from PIL import Image

    (height, width), (top, left), method = scaled, corner, Image.Resampling[interpolation.upper()]
    rows, columns = pixels.shape[0] / height, pixels.shape[1] / width
    box = (left * columns, top * rows, (left + out.shape[1]) * columns, (top + out.shape[0]) * rows)
    box = (*box[:2], min(box[2], pixels.shape[1]), min(box[3], pixels.shape[0]))
    out[:] = Image.fromarray(pixels).resize((out.shape[1], out.shape[0]), method, box=box)


def _check_square(size: int, resize: int) -> None:
    if not 0 < size <= resize:
        raise InputError(f"centre crop: a square of {size} pixels from a shorter side of {resize}")


def _drawn_from(rng: random.Random | None, view: View) -> random.Random:
    if rng is None:
        raise InputError(f"{view}: draws its crops, but no seed was given to draw from; give `StreamConfig` a seed")
    return rng


def covering(height: int, width: int, covered: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image of `height` x `width` that is resized to cover a rectangle, in its own shape.

    The longer side is truncated as torchvision does.
    """
    if height * covered[1] <= width * covered[0]:
        return covered[0], max(int(covered[0] * width / height), covered[1])
    return max(int(covered[1] * height / width), covered[0]), covered[1]


def _inside(start: float, stop: float, size: int) -> tuple[int, int]:
    """Whole pixels from `start` to `stop`, at least one, within 0..size."""
    first = min(round(start), size - 1)
    return first, max(min(round(stop), size), first + 1)
