"""Lists the images below a folder, and caches what their first bytes say.

Every call lists all files with size and time of change, so that an added, removed or replaced file is noticed. Opening
files takes longer: the result for a file of the same size and time of change comes from the user's cache directory.
"""

import collections
import concurrent.futures
import functools
import hashlib
import io
import logging
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs

from resjax.data.images.encoded import HEAD_BYTES, SUFFIXES, image_format, why_no_image
from resjax.data.images.orientation import UPRIGHT

_log = logging.getLogger(__name__)
_FORMAT = 3
_THREADS = 16
# Files of servers, operating systems and programs. Names with a leading dot are left out, too.
_SYSTEM_FOLDERS = {
    "@eadir", "@recycle", "@recently-snapshot", "@__thumb", "@tmp", "#recycle", "#snapshot", "__macosx", "__pycache__",
    "$recycle.bin", "system volume information", "lost+found", "network trash folder", "temporary items",
}  # fmt: skip
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", ".ds_store", ".directory", ".nomedia"}


class Listing(NamedTuple):
    """The content of a folder, in the order of names, files before folders.

    Attributes:
      directories: relative paths of the folders, with "/" between parts.
      files: relative paths of the images, bytes [N], encoded by the file system's encoding.
      sizes: in bytes, int64 [N].
      heads: digests of the first bytes, uint64 [N].
      oriented: bool [N], whether the first bytes have an EXIF orientation other than upright.
      broken: position in `files` of each file that is not an image, and why.
      passed_over: number of files that are not read, by suffix.
    """

    directories: list[str]
    files: np.ndarray
    sizes: np.ndarray
    heads: np.ndarray
    oriented: np.ndarray
    broken: dict[int, str]
    passed_over: collections.Counter[str]


class Entries(NamedTuple):
    """The content of one folder: names of folders; name, size and time of change (ns) of images; files not read."""

    folders: list[str]
    images: list[tuple[str, int, int]]
    passed_over: collections.Counter[str]


def list_images(folder: Path) -> Listing:
    """Lists everything below a folder.

    Raises:
      OSError: for a folder below it that cannot be listed.
    """
    folder = folder.resolve()
    top = read_folder(folder)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        below = list(threads.map(functools.partial(_walk, str(folder), ancestors=(_key(folder),)), top.folders))
        directories = [directory for part in below for directory, _ in part]
        found = [(name, size, changed) for name, size, changed in top.images]
        passed_over = collections.Counter(top.passed_over)
        for part in below:
            for directory, entries in part:
                found += [(f"{directory}/{name}", size, changed) for name, size, changed in entries.images]
                passed_over += entries.passed_over
        files = np.array([os.fsencode(name) for name, _, _ in found], np.bytes_)
        numbers = np.array([(size, changed) for _, size, changed in found], np.int64).reshape(-1, 2)
        broken, oriented, heads = _first_bytes(folder, files, numbers, threads)
    return Listing(directories, files, numbers[:, 0], heads, oriented, broken, passed_over)


def read_folder(path: str | os.PathLike[str]) -> Entries:
    """The entries of one folder, sorted by name, without files of operating systems and file servers."""
    folders: list[str] = []
    images: list[tuple[str, int, int]] = []
    passed_over: collections.Counter[str] = collections.Counter()
    with os.scandir(os.fspath(path)) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = entry.name
            if entry.is_dir():
                if not (name.startswith(".") or name.lower() in _SYSTEM_FOLDERS):
                    folders.append(name)
                continue
            if name.startswith("._") or name.lower() in _SYSTEM_FILES:
                continue
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                passed_over["with a leading dot"] += 1
                continue
            if suffix not in SUFFIXES and suffix:
                passed_over[suffix] += 1
                continue
            try:
                status = entry.stat()
            except OSError:  # a broken link: reading it says so
                images.append((name, -1, 0))
                continue
            if not stat.S_ISREG(status.st_mode) or (not suffix and not _is_image(entry.path)):
                passed_over["without a suffix" if stat.S_ISREG(status.st_mode) else "no regular file"] += 1
                continue
            images.append((name, status.st_size, status.st_mtime_ns))
    return Entries(folders, images, passed_over)


def _is_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return image_format(file.read(18)) is not None
    except OSError:
        return False


def _key(path: str | os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _walk(root: str, relative: str, ancestors: tuple) -> list[tuple[str, Entries]]:
    """Each folder from `relative` downwards with its entries. Links are followed, but not in circles."""
    path = os.path.join(root, relative)
    key = _key(path)
    if key in ancestors:
        return []
    entries = read_folder(path)
    found = [(relative, entries)]
    for name in entries.folders:
        found += _walk(root, f"{relative}/{name}", (*ancestors, key))
    return found


def _first_bytes(
    folder: Path, files: np.ndarray, numbers: np.ndarray, threads: concurrent.futures.Executor
) -> tuple[dict[int, str], np.ndarray, np.ndarray]:
    """Reasons why files are not images, orientations, and digests: from the cache, or from the files' first bytes."""
    path = _cache_path(folder)
    saved = _read_cache(path, folder)
    if saved is not None and np.array_equal(saved["files"], files) and np.array_equal(saved["numbers"], numbers):
        known = np.arange(len(files))
    else:
        known = np.full(len(files), -1)
        if saved is not None:
            before = dict(zip(_rows(saved["files"], saved["numbers"]), range(len(saved["files"])), strict=True))
            known = np.array([before.get(row, -1) for row in _rows(files, numbers)], np.int64)
    broken, oriented, heads = {}, np.zeros(len(files), bool), np.zeros(len(files), np.uint64)
    if saved is not None:
        heads[known >= 0] = saved["heads"][known[known >= 0]]
        oriented[known >= 0] = saved["oriented"][known[known >= 0]]
        reasons = dict(zip(saved["broken"].tolist(), _strings(saved["reasons"]), strict=True))
        if reasons:
            broken = {now: reasons[then] for now, then in enumerate(known.tolist()) if then in reasons}
    # A file that could not be read may be readable now: a change of permissions does not change its time.
    new = sorted({*np.flatnonzero(known < 0).tolist(), *broken})
    if new:
        _log.info("%s: reading the first bytes of %d files", folder, len(new))
        names = [os.path.join(folder, os.fsdecode(files[position])) for position in new]
        for position, (reason, turned, head) in zip(new, threads.map(_look, names, chunksize=64), strict=True):
            oriented[position], heads[position] = turned, head
            broken.pop(position, None)
            if reason is not None:
                broken[position] = reason
    if saved is None or (known < 0).any() or len(known) != len(saved["files"]):
        _write_cache(path, files, numbers, oriented, heads, broken)
    return dict(sorted(broken.items())), oriented, heads


def _rows(files: np.ndarray, numbers: np.ndarray) -> Iterator[tuple]:
    return zip(files.tolist(), *numbers.T.tolist(), strict=True)


def _look(path: str) -> tuple[str | None, bool, int]:
    """Facts that need no decoding: why a file is not an image, or None; whether it has an orientation; a digest."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return error.strerror or str(error), False, 0
    digest = int.from_bytes(hashlib.blake2b(head, digest_size=8).digest())
    return why_no_image(head, path), _notes_orientation(head), digest


def _notes_orientation(head: bytes) -> bool:
    start = head.find(b"Exif\0\0")
    if start < 0:
        return False
    from PIL import Image

    exif = Image.Exif()
    try:
        exif.load(head[start:])
        return exif.get(274, UPRIGHT) in range(2, 9)
    except Exception:  # cut off here, or no EXIF
        return False


def _cache_path(folder: Path) -> Path:
    key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return platformdirs.user_cache_path("resjax") / "folders" / f"{folder.name}-{key}.npz"


def _read_cache(path: Path, folder: Path) -> dict[str, np.ndarray] | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            if saved["format"] != _FORMAT:
                return None
            found = {name: saved[name] for name in ("files", "numbers", "oriented", "heads", "broken", "reasons")}
            lengths = [len(part) for part in found.values()]
            if len(set(lengths[:4])) != 1 or lengths[4] != lengths[5]:
                raise ValueError("its parts do not belong together")
            return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s: unreadable index (%s); reading %s again", path, error, folder)
        return None


def _write_cache(
    path: Path,
    files: np.ndarray,
    numbers: np.ndarray,
    oriented: np.ndarray,
    heads: np.ndarray,
    broken: dict[int, str],
) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        format=_FORMAT,
        files=files,
        numbers=numbers,
        oriented=oriented,
        heads=heads,
        broken=np.array(list(broken), np.int64),
        reasons=_bytes(broken.values()),
    )
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            file.write(buffer.getvalue())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        _log.warning("%s: the index cannot be kept (%s)", path, error)


def _bytes(texts: Iterable[str]) -> np.ndarray:
    return np.array([os.fsencode(text) for text in texts], np.bytes_)


def _strings(array: np.ndarray) -> list[str]:
    return [os.fsdecode(text) for text in array.tolist()]
