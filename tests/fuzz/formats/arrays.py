"""Arrays of a person's own, and the embedded images."""

import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.files import pixels
from tests.fuzz.formats.format import Format
from tests.fuzz.formats.published import load_published


def _arrays(folder: Path) -> None:
    content = {"x_train": pixels(8, 5, 4, 3), "y_train": np.arange(8) % 4, "x_test": pixels(4, 5, 4, 3)}
    np.savez_compressed(folder / "a.npz", **content, y_test=np.arange(4), class_names=np.array(list("abcd")))


def _read_arrays(folder: Path, rng: random.Random) -> Any:
    from resjax.data.arrays.files import open_arrays

    found = open_arrays(folder)
    return [found.load("train"), found.load("test"), found.info.class_names]


def _odd_arrays(rng: random.Random, folder: Path) -> None:
    content = dict(np.load(folder / "a.npz"))
    name = rng.choice(list(content))
    dtype = rng.choice(("i8", "u8", "f4", "f8", "?", "c8", "S3", "U3", "M8[s]", "u2", "O"))
    labels = np.array([2**40, -(2**63), 2**31, 0, 1, 2, 3, 1])
    change = rng.randrange(5)
    try:
        if change == 0:
            content[name] = content[name].astype(dtype)
        elif change == 1:
            content["y_train"] = labels if rng.random() < 0.5 else np.full(8, 2**64 - 1, np.uint64)
        elif change == 2:
            content[name] = content[name][..., :0]
        elif change == 3:
            content[rng.choice(("x_val", "names", "data", "\x1b[31m"))] = content.pop(name)
        else:
            content[name] = np.stack([content[name]] * 2)
        np.savez_compressed(folder / "a.npz", **content)
    except ValueError:
        pass
    if rng.random() < 0.3:
        with zipfile.ZipFile(folder / "a.npz", "a") as archive:
            header = repr(
                {"descr": "|u1", "fortran_order": False, "shape": (rng.choice((1, 99, 2**40)), 9000, 9000, 3)}
            )
            data = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode()
            archive.writestr("x_val.npy", data + bytes(99))


def _embedded(folder: Path) -> None:
    from resjax.data.arrays import embedded

    source = Path(embedded.__file__).parent / "cifar10_mini"
    (folder / "cifar10_mini").mkdir()
    for path in source.iterdir():
        if path.name == "sheets.json" or path.name.startswith("test_"):
            (folder / "cifar10_mini" / path.name).write_bytes(path.read_bytes())


def _swapped_positions(rng: random.Random, folder: Path) -> None:
    path = folder / "cifar10_mini" / "sheets.json"
    sheets = json.loads(path.read_text())
    one, two = rng.sample([name for name in sheets if name.startswith("test_")], 2)
    sheets[one]["positions"], sheets[two]["positions"] = sheets[two]["positions"], sheets[one]["positions"]
    path.write_text(json.dumps(sheets))


FORMATS = {
    "arrays": Format(_arrays, _read_arrays, (_odd_arrays,), ("*.npz",), 2),
    "embedded": Format(
        _embedded, load_published("cifar10_mini"), (_swapped_positions,), ("*",), 0.3, special_is_told=True
    ),
}
