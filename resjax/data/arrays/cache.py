"""Decoded datasets in the user's cache directory: a verified read takes 0.1 s, decoding PNGs takes 5 s.

One split is one file of three consecutive `.npy` arrays (a JSON header, images, labels). A single file is replaced
atomically: processes that read and write at the same time see either the old split or the new one.
"""

import hashlib
import json
import logging
import os
import tempfile
import zlib
from pathlib import Path

import numpy as np
import platformdirs

from resjax.data.catalog import DatasetInfo
from resjax.data.source import Dataset, Source, checked

_log = logging.getLogger(__name__)
_FORMAT = 1


def load_cached(source: Source, info: DatasetInfo, split: str) -> Dataset:
    """Returns the split from the cache if it is valid, else reads `source` and caches that.

    A corrupt or outdated cache is rebuilt with a logged warning; a cache that cannot be written (no permission, full
    disk) is only warned about.

    Raises:
      InputError: if the source must be read and cannot be.
    """
    # Taken before reading, so that a file that changes meanwhile makes the cache stale rather than wrong.
    fingerprint = _fingerprint(source)
    path = _cache_path(source, info, split)
    dataset = _read_cache(path, fingerprint, source, info, split)
    if dataset is None:
        dataset = checked(source.read(), info, split, source.path, source.may_be_partial)
        _write_cache(path, fingerprint, dataset)
    return dataset


def _fingerprint(source: Source) -> list:
    return [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in source.files]


def _cache_path(source: Source, info: DatasetInfo, split: str) -> Path:
    key = hashlib.sha256(os.fsencode(source.path.resolve())).hexdigest()[:16]
    return platformdirs.user_cache_path("resjax") / "datasets" / f"{info.name}-{split}-{key}.npys"


def _header(fingerprint: list, dataset: Dataset) -> dict:
    # crc32 is twice as fast as sha256, and finds damage by disks and copies.
    return {
        "format": _FORMAT,
        "source": fingerprint,
        "images_crc32": zlib.crc32(np.ascontiguousarray(dataset.images).data),
        "labels_crc32": zlib.crc32(np.ascontiguousarray(dataset.labels).data),
    }


def _read_cache(path: Path, fingerprint: list, source: Source, info: DatasetInfo, split: str) -> Dataset | None:
    try:
        with path.open("rb") as file:
            header = json.loads(np.load(file, allow_pickle=False).tobytes())
            if header["format"] != _FORMAT or header["source"] != fingerprint:
                _log.warning("%s: the files of %s changed since it was written; reading them again", path, source.path)
                return None
            dataset = Dataset(np.load(file, allow_pickle=False), np.load(file, allow_pickle=False))
        if _header(fingerprint, dataset) != header:
            raise ValueError("checksum mismatch")
        return checked(dataset, info, split, path, source.may_be_partial)
    except FileNotFoundError:
        return None
    except Exception as error:  # A cache with any fault is rebuilt.
        _log.warning("%s: unreadable cache (%s); reading %s again", path, error, source.path)
        return None


def _write_cache(path: Path, fingerprint: list, dataset: Dataset) -> None:
    header = json.dumps(_header(fingerprint, dataset)).encode()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            for array in (np.frombuffer(header, np.uint8), dataset.images, dataset.labels):
                np.save(file, array, allow_pickle=False)
        os.replace(temporary, path)
    except OSError as error:
        _log.warning("%s: cannot write the cache (%s); the next start decodes the images again", path, error)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
