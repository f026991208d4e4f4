"""`load_dataset`: one name, three roads (prepared TFDS directory, published files, download), one checked result."""

import os
from pathlib import Path

from resjax.data import cifar_archives, digit_files, embedded
from resjax.data.cache import load_cached
from resjax.data.catalog import DatasetInfo, dataset_info
from resjax.data.prepare import download_and_prepare
from resjax.data.source import Dataset, Source
from resjax.data.tfds_directory import find_prepared
from resjax.errors import InputError


def load_dataset(name: str, split: str, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Loads one split of a dataset into memory, in its official order.

    Looks in `data_dir`, and in `tensorflow_datasets` inside it, for a directory prepared by TFDS (`array_record` or
    `tfrecord`; `data_dir` may also be the dataset's own folder or one version in it), then for the published archives
    or their unpacked files. What is found nowhere is downloaded and prepared in `data_dir` as TFDS would do it.
    Decoded images are kept in the user's cache directory; `cifar10_mini` comes with the repository.

    Args:
      name: one of `list_datasets()`.
      split: one of `dataset_info(name).split_sizes`.
      data_dir: by default the environment variable `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.

    Returns:
      `Dataset(images, labels)`: uint8 `[N, H, W, C]` and int32 `[N]`. With TFDS's feature `id` the order is by id,
      which is the order of the published files; without it (MNIST, Fashion-MNIST) the stored order.

    Raises:
      InputError: for an unknown name or split, missing data without a network, or files that are truncated, corrupt,
        or of the wrong size; the message names the file and the way out.
    """
    info = dataset_info(name)
    info.require_split(split)
    if name == embedded.NAME:
        return embedded.load(info, split, None if data_dir is None else Path(data_dir).expanduser())
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    try:
        return _load(info, split, root)
    except OSError as error:  # permissions, a lost network disk, an impossible path
        raise InputError(f"data_dir {root}: cannot be read ({error}); check the path and its permissions") from error


def _load(info: DatasetInfo, split: str, root: Path) -> Dataset:
    if root.exists() and not root.is_dir():
        raise InputError(f"data_dir {root}: expected a folder, found a file; give the folder it lies in")
    source = _find(info, split, root)
    if source is None:
        try:
            download_and_prepare(info, root, looked_for=_looked_for(info, root))
        except InputError:
            # Hosts that share a disk prepare at the same time: one is first, the others fail and find its result.
            if _find(info, split, root) is None:
                raise
        source = _find(info, split, root)
    return load_cached(source, info, split)


def _roots(root: Path) -> tuple[Path, Path]:
    return root, root / "tensorflow_datasets"


def _find(info: DatasetInfo, split: str, root: Path) -> Source | None:
    for find in (find_prepared, cifar_archives.find_cifar, digit_files.find_digits):
        for folder in _roots(root):
            source = find(info, split, folder)
            if source is not None:
                return source
    return None


def _looked_for(info: DatasetInfo, root: Path) -> str:
    published = cifar_archives.accepted_names(info.name) + digit_files.accepted_names(info.name)
    places = " and ".join(f"{folder}{'' if folder.is_dir() else ' (does not exist)'}" for folder in _roots(root))
    return f"looked for {info.name}/VERSION/dataset_info.json, {', '.join(published)} in {places}"
