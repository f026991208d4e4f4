"""Images in folders and in records, and masks."""

import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np

from resjax.errors import InputError
from tests.fuzz.files import described, example, framed, pixels, png
from tests.fuzz.formats.format import Format
from tests.fuzz.formats.published import odd_description, odd_record
from tests.helpers.voc_folder import encoded


def _photographs(folder: Path) -> None:
    target = described(folder, "imagenette/160px-v2", "1.0.0", "tfrecord", {"train": 6, "validation": 3}, 10)
    for split, number in (("train", 6), ("validation", 3)):
        images = [encoded(pixels(20, 24 + i, 3), "JPEG") for i in range(number)]
        records = [example(image=image, label=label) for label, image in enumerate(images)]
        (target / f"imagenette-{split}.tfrecord-00000-of-00001").write_bytes(framed(records))


def _read_photographs(folder: Path, rng: random.Random) -> Any:
    from resjax.data.images import open_images

    dataset = open_images("imagenette", folder)
    found = [_seen(dataset.train), _seen(dataset.test)]
    if any(image is None for part in found for image in part):
        raise InputError("an image is broken, which commands say and leave out")
    return [found, dataset.class_names]


def _seen(source: Any, orientation: str = "ignore") -> list[Any]:
    """What views take of each image; None of a broken one, which commands say and leave out."""
    from resjax.data.images import BrokenImage, CentreCrop, EncodedImage, RandomResizedCrop

    found: list[Any] = []
    for index in range(min(len(source), 50)):
        try:
            data, label = source.read(index)
            image = EncodedImage(data, orientation)
            views = [np.zeros((16, 16, 3), np.uint8) for _ in range(2)]
            CentreCrop(18, 16)(image, None, views[0])
            RandomResizedCrop(16)(image, random.Random(index), views[1])
            found.append((label, views))
        except BrokenImage as error:
            assert str(error).strip() and "\n" not in str(error), repr(str(error))
            found.append(None)
    return found


_SUFFIXES = {"PNG": "png", "JPEG": "jpg", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp", "PPM": "ppm",
             "JPEG2000": "jp2", "TGA": "tga", "ICO": "ico", "PCX": "pcx", "SGI": "sgi", "QOI": "qoi", "DDS": "dds",
             "AVIF": "avif"}  # fmt: skip


def _folder_of_images(folder: Path) -> None:
    from PIL import Image, features

    Image.init()
    kinds = [kind for kind in _SUFFIXES if kind in Image.SAVE and (kind != "AVIF" or features.check("avif"))]
    for number, kind in enumerate(kinds):
        path = folder / "ab"[number % 2] / f"{kind}.{_SUFFIXES[kind]}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(pixels(24, 20 + number, 3), kind))
    exif = Image.Exif()
    exif[274] = 6
    (folder / "a" / "turned.jpg").write_bytes(encoded(pixels(24, 30, 3), "JPEG", exif=exif))
    (folder / "b" / "gray.png").write_bytes(encoded(pixels(24, 30).astype(np.uint16) * 99, "PNG"))


def _read_folder(folder: Path, rng: random.Random) -> Any:
    from resjax.data.images import CentreCrop, ImageStream, StreamConfig, open_folder

    dataset = open_folder(folder)
    if rng.random() < 0.03:
        config = StreamConfig(
            (CentreCrop(18, 16),), rng.choice((1, 4, 64)), rng.choice((0, None)), exif_orientation="apply"
        )
        with ImageStream(dataset.train, config) as stream:
            return [next(stream) for _ in range(3)]
    return [_seen(dataset.train, "apply"), _seen(dataset.test), dataset.identity()]


def odd_image(rng: random.Random, folder: Path) -> None:
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg", ".tif", ".bmp")))
    sides = (1, 1, 2, 3000, 9000, 20_000, 70_000, 2**31 - 1)
    path.write_bytes(png(rng, rng.choice(sides), rng.choice(sides)))


def _odd_name(rng: random.Random, folder: Path) -> None:
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    names = (
        b"\xff\xfe.png",
        b"a\nb.png",
        b"[bold].png",
        b"<script>.png",
        b"x" * 250 + b".png",
        b"-.png",
        b".png",
        b"~",
    )
    os.rename(os.fsencode(path), os.path.join(os.fsencode(path.parent), rng.choice(names)))


def _all_broken(rng: random.Random, folder: Path) -> None:
    for path in folder.rglob("*.*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: rng.choice((0, 60, 200))])


def _masks(folder: Path) -> None:
    from tests.helpers.voc_folder import SIZES, random_image, write_voc

    images = {f"im{i}.{suffix}": encoded(random_image(*SIZES[i]), kind)
              for i, (suffix, kind) in enumerate((("png", "PNG"), ("jpg", "JPEG"), ("bmp", "BMP")))}  # fmt: skip
    masks = {f"im{i}.png": encoded(np.full(SIZES[i], i, np.uint8), palette=i == 1) for i in range(3)}
    write_voc(folder, images, masks, {"train": "im2\nim0\nim1\n"}, classes="a\nb\nc\n")


def _read_masks(folder: Path, rng: random.Random) -> Any:
    from resjax.data import load_masks

    side, values = rng.choice(((0, None), (0, None), (16, None), (0, (0, 1, 2)), (0, (0, 255, 7))))
    data = load_masks("voc", "train", folder, side, mask_values=values)
    return [*data, data.identity(3)]


def _large_masks(rng: random.Random, folder: Path) -> None:
    """One long image and one high one: small files, and a canvas for both of them."""
    long, wide = rng.choice(((30_000, 1), (9000, 2), (60_000, 30), (3000, 3000)))
    for name, (height, width) in (("im0", (long, wide)), ("im2", (wide, long))):
        gray = np.zeros((height, width), np.uint8)
        (folder / "JPEGImages" / f"{name}.{'png' if name == 'im0' else 'bmp'}").write_bytes(encoded(gray, "PNG"))
        (folder / "SegmentationClass" / f"{name}.png").write_bytes(encoded(gray, "PNG"))


def _odd_mask(rng: random.Random, folder: Path) -> None:
    from PIL import Image

    mask = rng.choice(
        (
            pixels(6, 9, 3),
            pixels(6, 9, 4),
            pixels(6, 9).astype(np.uint16),
            pixels(6, 9).astype(np.int32) - 99,
            pixels(6, 9).astype(np.float32),
            pixels(6, 9) > 9,
        )
    )
    kind = "TIFF" if mask.dtype.kind in "if" else rng.choice(("PNG", "TIFF"))
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, kind, **({"save_all": True, "append_images": [Image.fromarray(mask)]}
                                                if kind == "TIFF" and rng.random() < 0.5 else {}))  # fmt: skip
    (folder / "SegmentationClass" / "im0.png").write_bytes(buffer.getvalue())


FORMATS = {
    "photographs": Format(
        _photographs, _read_photographs, (odd_description, odd_record), ("*.tfrecord-*",), 2, needs="simplejpeg"
    ),
    "images": Format(_folder_of_images, _read_folder, (odd_image, _odd_name, _all_broken), weight=3, needs="grain"),
    "masks": Format(_masks, _read_masks, (_large_masks, odd_image, _odd_name, _odd_mask), weight=3),
}
