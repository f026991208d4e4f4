"""Loads a dataset by name from a prepared TFDS directory, the published files, a download, or a user's own arrays."""

import os
from pathlib import Path

from resjax.data.arrays import embedded, files
from resjax.data.arrays.cache import load_cached
from resjax.data.arrays.prepare import download_and_prepare
from resjax.data.catalog import CATALOG, DatasetInfo
from resjax.data.formats import cifar_archives, digit_files
from resjax.data.formats.stl10 import FILES
from resjax.data.formats.tfds_directory import data_roots, find_prepared
from resjax.data.source import Dataset, Source
from resjax.errors import InputError, unknown_name


def list_datasets() -> list[str]:
    """Returns the sorted names that `load_dataset` and `dataset_info` take."""
    return sorted([*CATALOG, files.NAME])


def dataset_info(name: str, data_dir: str | os.PathLike | None = None) -> DatasetInfo:
    """Returns the facts about the dataset `name`.

    Args:
      name: one of `list_datasets()`.
      data_dir: for "arrays", the file or folder; its labels and training images are then read. Other datasets need
        none, and are described without any I/O.

    Raises:
      InputError: for an unknown name, with the nearest known ones; for arrays that cannot be used.

    Example:
      >>> info = dataset_info("cifar10")
      >>> info.split_sizes["train"], info.image_shape, info.class_names[0]
      (50000, (32, 32, 3), 'airplane')
      >>> dataset_info("cifar01")
      Traceback (most recent call last):
        ...
      resjax.errors.InputError: unknown dataset 'cifar01'; did you mean 'cifar10', 'cifar100', ...
    """
    if not isinstance(name, str):
        raise InputError(f"dataset name: expected a string, got {name!r} (known: {', '.join(list_datasets())})")
    if name == files.NAME:
        return files.open_arrays(data_dir).info
    if name not in CATALOG:
        raise unknown_name("dataset", name, list_datasets())
    return CATALOG[name]


def load_dataset(name: str, split: str, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Loads one split of a dataset into memory, in its official order.

    Looks in `data_dir`, and in `tensorflow_datasets` inside it, for a directory prepared by TFDS (`array_record` or
    `tfrecord`; `data_dir` may also be the dataset's own folder or one version in it), then for the published archives
    or their unpacked files. If nothing is found, the dataset is downloaded and prepared in `data_dir` as TFDS would do
    it, unless that folder holds something else.
    Decoded images are kept in the user's cache directory; `cifar10_mini` comes with the repository. "arrays" reads an
    `.npz` file or a folder of `.npy` files, see `resjax.data.arrays.files`.

    Args:
      name: one of `list_datasets()`.
      split: one of `dataset_info(name, data_dir).split_sizes`. A single pair of images and labels is also "test".
      data_dir: by default the environment variable `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`; for "arrays" the
        file or folder.

    Returns:
      `Dataset(images, labels)`: uint8 `[N, H, W, C]` and int32 `[N]`. With TFDS's feature `id` the order is by id,
      which is the order of the published files; without it (MNIST, Fashion-MNIST) the stored order.

    Raises:
      InputError: for an unknown name or split, missing data without a network, a `data_dir` that holds something else,
        or files that are truncated, corrupt, or of the wrong size; the message names the file and the way out.

    Example:
      >>> images, labels = load_dataset("cifar10_mini", "test")
      >>> images.shape, labels.shape
      ((1000, 32, 32, 3), (1000,))
    """
    if name == files.NAME:
        return files.open_arrays(data_dir).load(split)
    info = dataset_info(name)
    info.require_split(split)
    if name == embedded.NAME:
        return embedded.load(info, split, None if data_dir is None else Path(os.path.expanduser(data_dir)))
    roots = data_roots(data_dir)
    try:
        return _load(info, split, roots, given=data_dir is not None)
    except OSError as error:  # permissions, a lost network disk, an impossible path
        raise InputError(
            f"data_dir {roots[0]}: cannot be read ({error}); check the path and its permissions"
        ) from error


def _load(info: DatasetInfo, split: str, roots: tuple[Path, ...], given: bool) -> Dataset:
    root = roots[0]
    if root.exists() and not root.is_dir():
        way_out = f"`--dataset {files.NAME}` reads it" if _is_array(root) else "give the folder it lies in"
        raise InputError(f"data_dir {root}: expected a folder, found a file; {way_out}")
    source = _find(info, split, roots)
    if source is None:
        _check_may_download(info, roots, given)
        try:
            download_and_prepare(info, root, looked_for=_looked_for(info, roots))
        except InputError:
            # Hosts that share a disk may prepare at the same time: one succeeds, the others find its result.
            if _find(info, split, roots) is None:
                raise
        source = _find(info, split, roots)
    if source is None:
        raise InputError(f"{root}: has no {info.name} in it after its download; {_looked_for(info, roots)}")
    return load_cached(source, info, split)


def _find(info: DatasetInfo, split: str, roots: tuple[Path, ...]) -> Source | None:
    for find in (find_prepared, cifar_archives.find_cifar, digit_files.find_digits):
        for folder in roots:
            source = find(info, split, folder)
            if source is not None:
                return source
    return None


def _check_may_download(info: DatasetInfo, roots: tuple[Path, ...], given: bool) -> None:
    """Raises `InputError` if a user's folder holds something unknown, rather than download beside it."""
    for folder in (root / info.name for root in roots):
        # Folders that TFDS is writing, or could not finish, have "incomplete" in their names.
        there = [entry for entry in _entries(folder) if "incomplete" not in entry.name]
        if there:
            raise InputError(
                f"data_dir {roots[0]}: found {folder}, but no {info.name} in it: it holds {_listed(there)};"
                f" {_looked_for(info, roots)}. Complete that folder; or rename it, and {info.name} is downloaded"
            )
    root = roots[0]
    there = _entries(root)
    prepared = (
        f"{pattern}/dataset_info.json" for folder in ("", "tensorflow_datasets/") for pattern in ("*/*", "*/*/*")
    )
    is_data_dir = (root / "downloads").is_dir() or any(next(root.glob(pattern), None) for pattern in prepared)
    if given and there and not is_data_dir:
        own = f"`--dataset {files.NAME}` reads arrays of your own. " if any(map(_is_array, there)) else ""
        raise InputError(
            f"data_dir {root}: holds {_listed(there)}, but no {info.name}; {_looked_for(info, roots)}. {own}To download"
            f" {info.name}, give a new or empty folder, or leave --data_dir out"
        )


def _is_array(path: Path) -> bool:
    return path.suffix in (".npz", ".npy") or path.name in FILES or digit_files.is_idx(path)


def _entries(folder: Path) -> list[Path]:
    visible = (entry for entry in folder.iterdir() if not entry.name.startswith(".")) if folder.is_dir() else ()
    return sorted(visible)


def _listed(entries: list[Path]) -> str:
    names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _looked_for(info: DatasetInfo, roots: tuple[Path, ...]) -> str:
    published = cifar_archives.accepted_names(info.name) + digit_files.accepted_names(info.name)
    places = " and ".join(f"{folder}{'' if folder.is_dir() else ' (does not exist)'}" for folder in roots)
    return f"looked for {info.name}/VERSION/dataset_info.json, {', '.join(published)} in {places}"
