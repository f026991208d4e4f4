"""What happens to files on their way, and what a person or an attacker may write into them; each a function of `rng`.

Nothing here harms: what may not run is named by `CANARY`, a module that only notes that it was imported.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

CANARY = "fuzz_canary"
"""A module in every case's folder and on the path, see `tests.fuzz.worker`."""

ODD_NUMBERS = (0, -1, 1, 2, 255, 256, 2**31 - 1, 2**31, 2**40, 2**63, -(2**63), 10**30, 0.5, 1e308, -1e308)
ODD_STRINGS = (
    *("", " ", "\0", "a\nb", "\x1b[31mred", "[bold]x[/bold]", "[/]", "<img src=x onerror=alert(1)>", "é", "\u202e"),
    *("../../outside", "/dev/zero", "~nobody", "x" * 300, "x" * 70_000, "nan", "{}", "%s%n", f"{CANARY}.Thing"),
)
ODD_VALUES: tuple[Any, ...] = (None, True, [], {}, [[1], [2, 3]], {"a": {}}, *ODD_NUMBERS, *ODD_STRINGS)
_WORDS = (b"\0" * 8, b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"\x80")


def torn(rng: random.Random, data: bytes) -> bytes:
    """Bytes as they come from a bad disk or line, or with other lengths in them."""
    place, length = rng.randrange(len(data) + 1), rng.choice((1, 4, 16, 256, 4096))
    kind = rng.randrange(9)
    if kind == 0:
        return data[:place]
    if kind == 1 and data:
        place = min(place, len(data) - 1)
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    if kind == 2:
        return data[:place] + rng.randbytes(length) + data[place + length :]
    if kind == 3:
        return data[:place] + data[place + length :]
    if kind == 4:
        return data[:place] + data[max(place - length, 0) : place] + data[place:]
    if kind == 5:
        return data[:place] + bytes(length) + data[place + length :]
    if kind == 6:  # in the header, where lengths are
        place, word = rng.randrange(min(len(data), 512) + 1), rng.choice(_WORDS)
        return data[:place] + word + data[place + len(word) :]
    if kind == 7:
        return rng.randbytes(length) + data
    return data + rng.randbytes(length)


def edited_json(rng: random.Random, value: Any) -> Any:
    """A JSON value with another at one place of it."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        return rng.choice(ODD_VALUES)
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    changed = dict(value) if isinstance(value, dict) else list(value)
    kind = rng.random()
    if kind < 0.1:
        del changed[key]
    elif kind < 0.2 and isinstance(changed, dict):
        changed[str(rng.choice(ODD_STRINGS))] = changed.pop(key)
    elif kind < 0.25:
        changed[key] = [changed[key]]
    else:
        changed[key] = edited_json(rng, changed[key])
    return changed


def edited_json_text(rng: random.Random, data: bytes) -> bytes:
    """The text of an edited JSON value; sometimes what is no JSON, or nested without end."""
    kind = rng.random()
    if kind < 0.06:
        return b"[" * 100_000
    if kind < 0.12:
        return data.replace(b"1", rng.choice((b"NaN", b"Infinity", b"-1e999", b"9" * 5000)), 1)
    try:
        return json.dumps(edited_json(rng, json.loads(data))).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # damaged before
        return torn(rng, data)


def edited_lines(rng: random.Random, data: bytes) -> bytes:
    """A text with other lines."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    text = rng.choice(ODD_STRINGS).encode("utf-8", "surrogatepass")
    new = rng.choice(
        (b"", text, b"\xff\xfe\x80", b"\0", lines[place] * 2, lines[place] + b" x y z", b"-1", b"9" * 5000)
    )
    kind = rng.randrange(4)
    if kind == 0:
        lines[place] = new
    elif kind == 1:
        lines.insert(place, new)
    elif kind == 2:
        del lines[place]
    else:
        return b"\n".join(lines).decode("latin1").encode(rng.choice(("utf-16", "utf-32", "utf-8")))
    return b"\n".join(lines)


def other_kind(rng: random.Random, path: Path) -> None:
    """In the place of a file: nothing, a folder, a pipe, a device, a link, or one of zeros that takes no space."""
    kind, content = rng.randrange(9), path.read_bytes()
    path.unlink()
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to("/dev/zero")
    elif kind == 3:
        path.symlink_to(path)
    elif kind == 4:
        path.symlink_to(path.with_name("nowhere"))
    elif kind == 5:
        path.write_bytes(b"")
    elif kind == 6:
        with path.open("wb") as file:
            file.truncate(1 << rng.choice((20, 36)))
    elif kind == 7:
        path.write_bytes(content)
        with path.open("rb+") as file:
            file.truncate(1 << 36)


def damage(rng: random.Random, path: Path) -> None:
    """Damages one file, by what its suffix says of it."""
    if rng.random() < 0.15:
        return other_kind(rng, path)
    data = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        data = edited_json_text(rng, data)
    elif path.suffix == ".jsonl" and rng.random() < 0.5:
        lines = data.splitlines() or [b"{}"]
        place = rng.randrange(len(lines))
        data = b"\n".join([*lines[:place], edited_json_text(rng, lines[place]), *lines[place + 1 :]])
    elif path.suffix in (".txt", ".csv", ".jsonl") and rng.random() < 0.7:
        data = edited_lines(rng, data)
    else:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            data = torn(rng, data)
    path.write_bytes(data)


Special = Callable[[random.Random, Path], None]


def damage_folder(rng: random.Random, folder: Path) -> None:
    """Damages one or two files of a folder."""
    for _ in range(rng.choice((1, 1, 2))):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        small = [path for path in files if path.stat().st_size < 1 << 24]
        if small:
            damage(rng, rng.choice(small))


def replace(folder: Path, files: dict[str, bytes]) -> None:
    """The folder with these files, by relative path, and nothing else in it."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    folder.mkdir(parents=True, exist_ok=True)
