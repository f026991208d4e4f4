"""Downloads and prepares datasets as TFDS does, but without TensorFlow.

TFDS's own builders for these datasets unpack and encode with TensorFlow. Here its download manager fetches the official
files and compares their checksums, the readers of this package parse them, and the builder receives ready PNG bytes.
The builder writes an ordinary prepared directory (`array_record`), which every TFDS program can read. TFDS writes it
under a temporary name and renames it when it is complete.
"""

import contextlib
import http.client
import io
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resjax.data.catalog import DatasetInfo
from resjax.data.formats.cifar_archives import read_binary_archive
from resjax.data.formats.digit_files import idx_files, mat_file, read_idx, read_mat
from resjax.data.source import Dataset, checked
from resjax.errors import InputError, printable

_TIMEOUT_SECONDS = 5.0
_HEAD_NOT_ALLOWED = (405, 501)


def download_and_prepare(info: DatasetInfo, root: Path, looked_for: str) -> None:
    """Downloads all splits of a dataset and writes `root/NAME/VERSION`.

    Args:
      info: the dataset.
      root: the TFDS data directory; downloads are kept in `root/downloads`.
      looked_for: what is missing and where it was looked for, for the error message.

    Raises:
      InputError: without a network (within seconds), or if a download, its checksum or the writing fails. Nothing
        half-prepared is left behind.
    """
    ways_out = (
        f"{looked_for}. Put the official archive or a prepared TFDS directory into a folder DIR and pass "
        "`--data_dir DIR` (`data_dir=` in Python), or run once on a machine with a network"
    )
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import shuffle
    except ImportError as error:
        raise InputError(
            f"{info.name} not found: {ways_out}. Downloading needs {error.name}: "
            "pip install tensorflow-datasets array-record importlib_resources pillow"
        ) from error
    try:
        with _without_bucket(tfds):
            builder = tfds.builder(info.name, data_dir=root, file_format="array_record")
        urls = {entry.filename: url for url, entry in builder.url_infos.items()}
    except Exception as error:
        said = printable(str(error).partition("\n")[0], 200)
        raise InputError(f"{info.name} not found, and TFDS cannot build it ({said}): {ways_out}") from error
    for url in sorted(urls.values())[:1]:
        reason = why_unreachable(url)
        if reason:
            raise InputError(f"{info.name} not found, and {url} cannot be reached ({reason}): {ways_out}")
    builder._split_generators = lambda manager: _split_generators(info, builder, fetch(manager, urls))
    config = tfds.download.DownloadConfig(try_download_gcs=False, force_checksums_validation=True)
    try:
        with _shuffle_in_memory(shuffle):
            builder.download_and_prepare(download_config=config)
    except InputError:
        raise
    except Exception as error:  # Errors of network, checksum, disk and TFDS have many types; only the message is used.
        said = printable(" ".join(str(error).split()), 300)
        raise InputError(f"{info.name}: download or preparation in {root} failed ({said}): {ways_out}") from error


def why_unreachable(url: str) -> str:
    """Returns why `url` does not answer within seconds, or `""` if it does; proxies are honoured.

    TFDS itself would retry for minutes. Name resolution has no timeout, hence the thread.
    """
    answer = [f"no answer in {_TIMEOUT_SECONDS:g} s"]

    def ask() -> None:
        try:
            # Not `urlopen`: it keeps the proxies of the process's first request.
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.build_opener().open(request, timeout=_TIMEOUT_SECONDS).close()
            answer[0] = ""
        except urllib.error.HTTPError as error:
            answer[0] = "" if error.code in _HEAD_NOT_ALLOWED else str(error)
        except (OSError, ValueError, http.client.HTTPException) as error:
            answer[0] = str(getattr(error, "reason", error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_TIMEOUT_SECONDS + 1)
    return answer[0]


def fetch(download_manager: Any, urls: dict[str, str]) -> dict[str, Path]:
    """Returns the local path of each downloaded file, checksums compared; `urls` maps file names to addresses."""
    return {name: Path(path) for name, path in download_manager.download(urls).items()}


@contextlib.contextmanager
def _without_bucket(tfds: Any) -> Iterator[None]:
    # TFDS would ask its bucket for what this computes, and leaves a temporary folder each time.
    asked = tfds.core.DatasetInfo.initialize_from_bucket
    tfds.core.DatasetInfo.initialize_from_bucket = lambda self: None
    try:
        yield
    finally:
        tfds.core.DatasetInfo.initialize_from_bucket = asked


@contextlib.contextmanager
def _shuffle_in_memory(shuffle: Any) -> Iterator[None]:
    # TFDS spills splits of more than 1 GB to disk through TensorFlow; SVHN's `extra` has 1.3 GB.
    limit = shuffle.MAX_MEM_BUFFER_SIZE
    shuffle.MAX_MEM_BUFFER_SIZE = 4 << 30
    try:
        yield
    finally:
        shuffle.MAX_MEM_BUFFER_SIZE = limit


def _split_generators(info: DatasetInfo, builder: Any, files: dict[str, Path]) -> dict[str, Iterator]:
    """Returns what TFDS's builder of the dataset would: for each split an iterator of (key, example)."""
    if info.name in ("cifar10", "cifar100"):
        (archive,) = files.values()
        splits, coarse, coarse_names = read_binary_archive(archive, info.name)
        builder.info.features["label"].names = list(info.class_names)
        if coarse:
            builder.info.features["coarse_label"].names = coarse_names
        return {
            split: _examples(checked(dataset, info, split, archive), f"{split}_{{:05d}}", coarse.get(split))
            for split, dataset in splits.items()
        }
    if info.name == "svhn_cropped":
        return {split: _svhn_examples(info, split, files[mat_file(split)]) for split in info.split_sizes}
    return {split: _idx_examples(info, split, files) for split in info.split_sizes}


def _svhn_examples(info: DatasetInfo, split: str, path: Path) -> Iterator[tuple[int, dict]]:
    # A generator, so that only one split (`extra` is 1.6 GB) is in memory at a time.
    yield from _examples(checked(read_mat(path), info, split, path), f"{split}_{{:06d}}")


def _idx_examples(info: DatasetInfo, split: str, files: dict[str, Path]) -> Iterator[tuple[int, dict]]:
    images, labels = (files[name] for name in idx_files(split))
    # TFDS's MNIST builders store no id.
    yield from _examples(checked(read_idx(images, labels), info, split, images))


def _examples(
    dataset: Dataset, identifier: str | None = None, coarse: np.ndarray | None = None
) -> Iterator[tuple[int, dict]]:
    for index, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
        example = {"image": _png(image), "label": int(label)}
        if identifier is not None:
            example["id"] = identifier.format(index)
        if coarse is not None:
            example["coarse_label"] = int(coarse[index])
        yield index, example


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()
