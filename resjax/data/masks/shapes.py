"""`shapes`: textured geometric objects on textured backgrounds, with exact masks, drawn by NumPy from a seed.

Every image depends only on (seed, split, index). Colours and textures of objects and backgrounds come from one
distribution, so that only the outline tells the class.
"""

import numpy as np

NAME = "shapes"
CLASS_NAMES = ("background", "disk", "ring", "square", "triangle", "cross")
SIZE = 64
SPLIT_SIZES = {"train": 2048, "test": 256}
_SEED = 20161130
_OBJECTS = (1, 4)


def draw_split(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8 [N, 64, 64, 3] and masks uint8 [N, 64, 64] of "train" or "test"."""
    number = tuple(SPLIT_SIZES).index(split)
    drawn = [draw(np.random.default_rng((_SEED, number, index))) for index in range(SPLIT_SIZES[split])]
    images, masks = zip(*drawn, strict=True)
    return np.stack(images), np.stack(masks)


def draw(rng: np.random.Generator, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """One image uint8 [size, size, 3] and its mask uint8 [size, size]; later objects cover earlier ones."""
    image, mask = _texture(rng, size), np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(_OBJECTS[0], _OBJECTS[1] + 1)):
        label = rng.integers(1, len(CLASS_NAMES))
        inside = _OUTLINES[CLASS_NAMES[label]](*_own_coordinates(rng, size))
        image = np.where(inside[..., None], _texture(rng, size), image)
        mask[inside] = label
    noise = rng.normal(0, 6, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8), mask


def _own_coordinates(rng, size):
    """Coordinates of each pixel in the frame of an object that is moved, turned and enlarged; 1 is its radius."""
    radius = rng.uniform(0.16, 0.28) * size
    centre = rng.uniform(0.8 * radius, size - 0.8 * radius, 2)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = (np.arange(size) - c for c in centre)
    y, x = np.meshgrid(y / radius, x / radius, indexing="ij")
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _texture(rng, size):
    """Two colours that waves of random direction and length mix, float [size, size, 3]."""
    colours = rng.uniform(0, 255, (2, 3))
    y, x = np.mgrid[:size, :size]
    angle, wavelength, phase = rng.uniform(0, np.pi), rng.uniform(4, 24), rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength + phase)
    share = 0.5 + rng.uniform(0, 0.35) * wave
    return colours[0] + share[..., None] * (colours[1] - colours[0])


def _triangle(x, y):
    return (y > -0.5) & (np.abs(x) * np.sqrt(3) + y < 1)


# Each fills about as much of the unit disk as its shape allows.
_OUTLINES = {
    "disk": lambda x, y: x**2 + y**2 < 0.85**2,
    "ring": lambda x, y: (x**2 + y**2 < 1) & (x**2 + y**2 > 0.5**2),
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) < 0.75,
    "triangle": lambda x, y: _triangle(x / 1.15, y / 1.15),
    "cross": lambda x, y: (np.minimum(np.abs(x), np.abs(y)) < 0.28) & (np.maximum(np.abs(x), np.abs(y)) < 1),
}
