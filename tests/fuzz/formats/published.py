"""The published sets, in small: CIFAR's archives and batches, digits, TFDS's directories."""

import dataclasses
import functools
import gzip
import json
import pickle
import pickletools
import random
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz import mutators
from tests.fuzz.files import archive, described, example, framed, gzip_of_zeros, pixels, png
from tests.fuzz.formats.format import Format
from tests.helpers.voc_folder import encoded

IMAGES = 10  # in each split of the published sets here, whose readers are told so, so that a case takes milliseconds


@functools.cache
def _small_catalog() -> None:
    """Tells the readers of the published sets that each split has `IMAGES` images."""
    from resjax.data.catalog import CATALOG
    from resjax.data.formats import cifar_archives

    for name, info in CATALOG.items():
        if name != "cifar10_mini":
            CATALOG[name] = dataclasses.replace(info, split_sizes=dict.fromkeys(info.split_sizes, IMAGES))
    sizes = {"train": IMAGES, "test": IMAGES}
    for name, layouts in cifar_archives._LAYOUTS.items():
        cifar_archives._LAYOUTS[name] = tuple(layout._replace(batch_size=sizes) for layout in layouts)


def load_published(name: str, split: str = "test") -> Callable[[Path, random.Random], Any]:
    def read(folder: Path, rng: random.Random) -> Any:
        from resjax.data import load_dataset

        _small_catalog()
        return load_dataset(name, split, folder)

    return read


# CIFAR's archives and batches


def _binary_archive(folder: Path) -> None:
    rows = np.concatenate([np.arange(IMAGES, dtype=np.uint8)[:, None], pixels(IMAGES, 3072)], 1)
    (folder / "cifar-10-binary.tar.gz").write_bytes(
        archive({"cifar-10-batches-bin/readme.html": b"x", "cifar-10-batches-bin/test_batch.bin": rows.tobytes()})
    )


def _odd_member(rng: random.Random, folder: Path) -> None:
    """A member with a header that is sound and says what cannot be."""
    member = tarfile.TarInfo(rng.choice(("cifar-10-batches-bin/test_batch.bin", "x", "../../outside", "/etc/outside")))
    member.type = rng.choice((b"0", b"0", b"S", b"L", b"K", b"x", b"g", b"1", b"2", b"5", b"7", b"Z"))
    member.size = rng.choice((0, 1, 512, 2**20, 2**33, 2**40, 2**62, 2**80))
    member.linkname = rng.choice(("", "cifar-10-batches-bin/test_batch.bin", "/etc/passwd"))
    content = rng.choice((b"", b"30 mtime=9\n", b"28 size=99999999999999999999\n", bytes(512), rng.randbytes(2048)))
    content += bytes(-len(content) % 512)
    header = member.tobuf(tarfile.GNU_FORMAT)
    path = folder / "cifar-10-binary.tar.gz"
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(rng.choice((header + content + whole, whole[:-1024] + header + content)), 1))


def _bomb(rng: random.Random, folder: Path) -> None:
    path = rng.choice(sorted(folder.glob("*.gz")))
    data = path.read_bytes()
    path.write_bytes(rng.choice((data + gzip_of_zeros(), gzip_of_zeros())))


def _pickled_batch(folder: Path) -> None:
    target = folder / "cifar-10-batches-py"
    target.mkdir()
    content = {"data": pixels(IMAGES, 3072), "labels": list(range(IMAGES)), "filenames": ["a.png"] * IMAGES}
    (target / "test_batch").write_bytes(pickle.dumps(content, 2))


def _odd_pickle(rng: random.Random, folder: Path) -> None:
    """Other instructions than a batch has; none of them names anything that does harm."""
    path = folder / "cifar-10-batches-py" / "test_batch"
    data = path.read_bytes()
    places = [place for _, _, place in pickletools.genops(data)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        code = rng.choice(pickletools.opcodes).code.encode("latin1")
        name = f"c{mutators.CANARY}\nThing\n)R".encode()
        code = rng.choice((code, code, name, b"(" + code, code + rng.randbytes(rng.choice((1, 4, 8)))))
        place = rng.choice(places)
        data = data[:place] + code + data[place:]
    path.write_bytes(data)


def _odd_content(rng: random.Random, folder: Path) -> None:
    content = {"data": pixels(IMAGES, 3072), "labels": list(range(IMAGES))}
    if rng.random() < 0.5:
        content["labels"][rng.randrange(IMAGES)] = rng.choice((-1, 10, 2**31, 2**40, 2**63, 10**400, 0.5, None, "a"))
    else:
        content[rng.choice(("data", "labels"))] = rng.choice(
            (
                np.zeros((IMAGES, 3072), np.dtype("O")),
                np.zeros((IMAGES, 3072), np.int64),
                np.zeros((3072, IMAGES), np.uint8).T,
                np.zeros(3, [("a", "u1"), ("b", "f4")]),
                np.zeros((0, 3072), np.uint8),
                [[]] * IMAGES,
                functools.reduce(lambda inner, _: [inner] * 9, range(40), []),  # small, and a text without end
            )
        )
    (folder / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(content, rng.randrange(6)))


# Digits


def _idx(folder: Path) -> None:
    for kind, array in (("images-idx3", pixels(IMAGES, 28, 28)), ("labels-idx1", np.arange(10, dtype=np.uint8))):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        path = folder / "mnist" / f"t10k-{kind}-ubyte.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(header + array.tobytes(), 1))


def _odd_idx(rng: random.Random, folder: Path) -> None:
    path = rng.choice(sorted(folder.rglob("*.gz")))
    if rng.random() < 0.2:
        return _bomb(rng, path.parent)
    data = bytearray(gzip.decompress(path.read_bytes()))
    place = rng.randrange(16)
    data[place : place + 4] = rng.choice(
        (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\x0e\4", b"\0\1\0\0", rng.randbytes(4))
    )
    path.write_bytes(gzip.compress(bytes(data), 1))


def _mat(folder: Path) -> None:
    from scipy.io import savemat

    content = {"X": np.moveaxis(pixels(IMAGES, 32, 32, 3), 0, 3), "y": np.arange(1, 11, dtype=np.uint8)[:, None]}
    savemat(folder / "test_32x32.mat", content, do_compression=True)


def _odd_mat(rng: random.Random, folder: Path) -> None:
    """Its parts, unpacked, damaged and packed again."""
    path = folder / "test_32x32.mat"
    data = path.read_bytes()
    parts, place = [], 128
    while place < len(data):
        kind, size = struct.unpack("<II", data[place : place + 8])
        parts.append(zlib.decompress(data[place + 8 : place + 8 + size]) if kind == 15 else data[place + 8 :])
        place += 8 + size
    changed = rng.randrange(len(parts))
    parts[changed] = mutators.torn(rng, parts[changed])
    if rng.random() < 0.1:
        parts[changed] = parts[changed] + bytes(200 << 20)
    packed = [zlib.compress(part, 1) for part in parts]
    path.write_bytes(data[:128] + b"".join(struct.pack("<II", 15, len(part)) + part for part in packed))


# TFDS's directories


def _records(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        target = described(folder, "cifar10", "3.0.2", kind, {"test": IMAGES}, 10)
        images = pixels(IMAGES, 32, 32, 3)
        records = [
            example(image=encoded(image, "PNG"), label=number, id=f"test_{number:05}".encode())
            for number, image in enumerate(images)
        ]
        path = target / f"cifar10-test.{kind}-00000-of-00001"
        if kind == "tfrecord":
            path.write_bytes(framed(records))
            return
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()

    return make


def odd_description(rng: random.Random, folder: Path) -> None:
    path = rng.choice(sorted(folder.rglob("*.json")))
    content = json.loads(path.read_text())
    if path.name == "features.json":
        features = content["featuresDict"]["features"]
        thing = rng.choice((f"{mutators.CANARY}.Thing", "os.path.Thing", "tests.fuzz.nothing.Thing", "Thing", ""))
        where = rng.choice((content, features["label"], features["image"]))
        how = rng.randrange(4)
        if how == 0:
            where["pythonClassName"] = thing
        elif how == 1:
            where["python_class_name"] = thing
        elif how == 2:
            features["more"] = {"pythonClassName": thing, "jsonFeature": {"json": "{}"}}
        else:
            content = {"type": thing, "content": content}
    else:
        split = rng.choice(content["splits"])
        split["shardLengths"] = rng.choice(
            ([str(2**62)], ["-1"], ["3", "7"], [], ["x"], [str(IMAGES)] * 5000, ["0"], [1.5], [str(10**30)])
        )
    path.write_text(json.dumps(content))


def odd_record(rng: random.Random, folder: Path) -> None:
    """Sound frames of other records."""
    path = rng.choice(sorted(folder.rglob("*.tfrecord-*")))
    image = rng.choice((b"", b"x", encoded(pixels(5, 5, 3), "PNG"), png(rng, 8, 8), png(rng, 2**31 - 1, 70_000)))
    label = rng.choice((0, 10, -1, 2**31, 2**40, 2**63 - 1))
    records = [example(image=image, label=label), example(label=1), b"", rng.randbytes(50), bytes(4000)]
    path.write_bytes(framed(rng.sample(records, rng.randrange(1, 5))))


FORMATS = {
    "archives": Format(_binary_archive, load_published("cifar10"), (_odd_member, _odd_member, _bomb), ("*.tar.gz",), 2),
    "pickles": Format(_pickled_batch, load_published("cifar10"), (_odd_pickle, _odd_pickle, _odd_content), weight=3),
    "idx": Format(_idx, load_published("mnist"), (_odd_idx,)),
    "mat": Format(_mat, load_published("svhn_cropped"), (_odd_mat,)),
    "tfrecord": Format(
        _records("tfrecord"), load_published("cifar10"), (odd_description, odd_record), ("*.tfrecord-*",), 2
    ),
    "arrayrecord": Format(
        _records("array_record"), load_published("cifar10"), (odd_description,), ("*.array_record-*",)
    ),
}
