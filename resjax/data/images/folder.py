"""Folders of images: `DIR/train/CLASS/IMAGE` and `DIR/val/CLASS/IMAGE`, or `DIR/CLASS/IMAGE` to be split.

`resjax.data.images.layout` lists the other layouts that are read.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resjax.data.images.encoded import READ_FORMATS, BrokenImage, file_bytes
from resjax.data.images.labels import expected_lists, find_list, read_labelled
from resjax.data.images.layout import (
    TEST,
    TRAIN,
    VAL,
    Index,
    find_splits,
    first,
    flat_images,
    passed_over_note,
    read_classes,
    split_role,
)
from resjax.data.images.listing import list_images
from resjax.data.images.source import EvaluationImages, ImageDataset
from resjax.errors import InputError, printable, unknown_name

HELD_OUT, ALL = "held_out", "all"
SPLITS = (VAL, TEST, TRAIN, HELD_OUT, ALL)


class FolderImages:
    """Some of the files below a folder, with their labels.

    Args:
      index: all files.
      chosen: bool [N], which of the files; None for all.
      labels: int32 [N], if they differ from those of `index`.
    """

    def __init__(self, index: Index, chosen: np.ndarray | None = None, labels: np.ndarray | None = None):
        chosen = np.ones(len(index.files), bool) if chosen is None else chosen
        self._folder, self._classes = str(index.folder), index.class_names
        self._files, self._sizes, self._own = index.files[chosen], index.sizes[chosen], index.labels[chosen]
        self._heads = index.heads[chosen]
        self._labels = self._own if labels is None else labels[chosen]

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> tuple[bytes, int]:
        return file_bytes(self.name(index)), int(self._labels[index])

    def name(self, index: int) -> str:
        return os.path.join(self._folder, os.fsdecode(bytes(self._files[index])))

    def positions_in(self, other: "FolderImages") -> list[int]:
        """Positions of the images that `other` also has, byte for byte, under any name and class."""
        heads = [set(images._size_and_head()) for images in (self, other)]
        alike = heads[0] & heads[1]
        there = {other._digest(i) for i, key in enumerate(other._size_and_head()) if key in alike} - {None}
        return [i for i, key in enumerate(self._size_and_head()) if key in alike and self._digest(i) in there]

    def _size_and_head(self) -> Iterator[tuple[int, int]]:
        return zip(self._sizes.tolist(), self._heads.tolist(), strict=True)

    def _digest(self, index: int) -> bytes | None:
        try:
            return hashlib.sha256(self.read(index)[0]).digest()
        except BrokenImage:  # gone since; reading it says so
            return None

    def describe(self) -> dict[str, Any]:
        names = [os.fsencode(name) for name in self._classes]
        rows = zip(self._files.tolist(), self._sizes.tolist(), self._own.tolist(), strict=True)
        lines = sorted(b"%b\0%d\0%b\n" % (file, size, names[label]) for file, size, label in rows)
        counts = np.bincount(self._own, minlength=len(names))
        return {
            "images": len(lines),
            "per_class": {name: int(count) for name, count in zip(self._classes, counts, strict=True)},
            "fingerprint": hashlib.sha256(b"".join(lines)).hexdigest(),
        }


def open_folder(
    folder: str | os.PathLike, validation_fraction: float = 0.1, split_seed: int = 0, must_have_split: bool = False
) -> ImageDataset:
    """The images of a folder to train and to test on.

    With folders `train` and `val` in it (or `Training`, `seg_train`, `validation`, .. in any case), those are the
    splits; without `val`, `test` is used. Otherwise the folder, or its `train`, is split at random, by class.

    Args:
      folder: the folder.
      validation_fraction: fraction of each class to test on, if the folder has no split of its own.
      split_seed: seed of that split.
      must_have_split: whether a folder without images to test on is an error.

    Raises:
      InputError: for a folder that cannot be read or understood, a class without an image, or splits whose classes
        differ; the message names the folder.
    """
    folder = _existing(folder)
    if not 0 < validation_fraction < 1:
        raise InputError(f"validation_fraction: expected a number in (0, 1), got {validation_fraction}")
    try:
        splits, beside = find_splits(folder)
        if not splits and not must_have_split:
            return _divided(folder, read_classes(folder), validation_fraction, split_seed, ())
        if TRAIN not in splits:
            there = f"it has {', '.join(path.name for path in splits.values())}, but " if splits else ""
            raise InputError(f"{folder}: {there}no folder `train` of class folders to train on")
        notes: tuple[str, ...] = (f"{folder}: not read, beside the splits: {first(beside)}",) if beside else ()
        train = read_classes(splits[TRAIN])
        if VAL in splits:
            if TEST in splits:
                notes += (f"{folder}: tested on {splits[VAL].name}; {splits[TEST].name} is not read",)
            return _official(folder, train, _labelled(splits[VAL], VAL, train.class_names, single=True), VAL, notes)
        if TEST in splits:
            try:
                test = _labelled(splits[TEST], TEST, train.class_names, single=True)
            except _Unlabelled as error:
                notes += (f"{error}; it is not read",)
            else:
                return _official(folder, train, test, TEST, notes)
        if must_have_split:
            raise InputError(f"{folder}: has no folder `val` of labelled images to test on")
        return _divided(folder, train, validation_fraction, split_seed, notes)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error}); check its permissions") from error


def evaluation_folder(
    folder: str | os.PathLike, split: str | None = None, validation_fraction: float = 0.1, split_seed: int = 0
) -> EvaluationImages:
    """The images of a folder to evaluate on. It need not hold training images.

    Args:
      folder: with split folders, or a split folder itself, or a bare folder of class folders.
      split: "val", "test" or "train", which are folders; "held_out", the images that `open_folder` tests on if there
        are no such folders; "all", every image of a folder of class folders. None takes the first of val, test and all
        that is there.
      validation_fraction, split_seed: for "held_out", the values that the network was trained with.

    Raises:
      InputError: for a folder or split that is missing or has an unknown layout.
    """
    folder = _existing(folder)
    if split is not None and split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    try:
        splits, _ = find_splits(folder)
        if split == HELD_OUT:
            found = open_folder(folder, validation_fraction, split_seed)
            if found.test_split != HELD_OUT:
                raise InputError(f"{folder}: no images are held out: it has a split {found.test_split} of its own")
            description = f"{folder}: {len(found.test):,} images held out, {found.num_classes:,} classes"
            known = {name: getattr(found, name) for name in ("class_names", "notes", "broken", "oriented")}
            return EvaluationImages(images=found.test, split=split, description=description, **known)
        if not splits:
            if split not in (None, ALL) and split_role(folder.name) != split:
                raise InputError(f"{folder}: has no folder `{split}`; without --split all of its images are taken")
            role = split_role(folder.name)
            index = _labelled(folder, role or VAL, None, single=True)
            return _evaluation(folder, index, split or ALL, ())
        chosen = split or next((name for name in (VAL, TEST) if name in splits), None)
        if chosen is None or chosen == ALL or chosen not in splits:
            there = ", ".join(f"{path.name} (--split {role})" for role, path in splits.items())
            asked = f"has no split {chosen!r}" if split else "has neither val nor test"
            raise InputError(
                f"{folder}: {asked}; it has {there}; --split held_out takes the images that a network trained on it"
                " was tested on"
            )
        train = None
        if TRAIN in splits and flat_images(list_images(splits[chosen])):
            train = read_classes(splits[TRAIN]).class_names
        notes: tuple[str, ...] = ()
        if split is None and VAL in splits and TEST in splits:
            notes = (f"{folder}: evaluated on {splits[VAL].name}; --split test takes {splits[TEST].name}",)
        return _evaluation(folder, _labelled(splits[chosen], chosen, train, single=True), chosen, notes)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error}); check its permissions") from error


class _Unlabelled(InputError):
    """A folder of images without classes."""


def _existing(folder: str | os.PathLike) -> Path:
    folder = Path(os.path.expanduser(folder))
    if not os.path.isdir(folder):
        raise InputError(f"{printable(folder, 300)}: {'is no folder' if os.path.exists(folder) else 'does not exist'};"
                         f" give a folder of class folders of images ({READ_FORMATS})")  # fmt: skip
    return folder


def _labelled(folder: Path, role: str, class_names: Sequence[str] | None, single: bool = False) -> Index:
    """The images of a split, labelled by its class folders or by a list."""
    listing = list_images(folder)
    if not flat_images(listing) or (class_names is not None and set(listing.directories) & set(class_names)):
        return read_classes(folder, single, listing)
    path = find_list(folder, role)
    if path is None:
        raise _Unlabelled(
            f"{folder}: holds {len(listing.files):,} images and nothing says their classes; expected"
            f" {expected_lists(folder)}"
        )
    return read_labelled(folder, listing, path, class_names)


def _evaluation(folder: Path, index: Index, split: str, notes: tuple[str, ...]) -> EvaluationImages:
    of = folder if split == ALL else f"{folder}, {split}"
    return EvaluationImages(
        images=FolderImages(index),
        class_names=index.class_names,
        split=split,
        description=f"{of}: {len(index.files):,} images of {len(index.class_names):,} classes",
        notes=(*notes, *index.notes, *passed_over_note(folder, [index])),
        broken=index.broken,
        oriented=index.oriented,
    )


def _official(folder: Path, train: Index, test: Index, split: str, notes: tuple[str, ...]) -> ImageDataset:
    unknown = sorted(set(test.class_names) - set(train.class_names))
    if unknown:
        raise InputError(
            f"{test.folder}: has classes that {train.folder} has not: {first(unknown)}; both need the same class names"
        )
    missing = sorted(set(train.class_names) - {test.class_names[label] for label in np.unique(test.labels)})
    if missing:
        notes += (f"{test.folder} has no image of {len(missing)} classes: {first(missing)}",)
    numbers = {name: label for label, name in enumerate(train.class_names)}
    labels = np.array([numbers[name] for name in test.class_names], np.int32)[test.labels]
    training, tested = FolderImages(train), FolderImages(test, labels=labels)
    notes += _repeated_note(training, tested)
    return ImageDataset(
        train=training,
        test=tested,
        class_names=train.class_names,
        description=f"{folder}: {len(train.files):,} images to train on and {len(test.files):,} to test on,"
        f" {len(train.class_names):,} classes",
        test_split=split,
        notes=(*notes, *train.notes, *test.notes, *passed_over_note(folder, [train, test])),
        broken=train.broken + test.broken,
        oriented=train.oriented + test.oriented,
    )


def _repeated_note(train: FolderImages, test: FolderImages) -> tuple[str, ...]:
    repeated = test.positions_in(train)
    if not repeated:
        return ()
    return (
        f"{len(repeated):,} of {len(test):,} test images are training images, too, for example"
        f" {test.name(repeated[0])}: the error on them says nothing of new images",
    )


def _divided(folder: Path, index: Index, fraction: float, seed: int, notes: tuple[str, ...]) -> ImageDataset:
    """A random fraction of each class to test on, at least one image of each."""
    tested = np.zeros(len(index.files), bool)
    for label, name in enumerate(index.class_names):
        members = np.flatnonzero(index.labels == label)
        if len(members) < 2:
            raise InputError(
                f"{index.folder / name}: one image alone cannot be split into training and test images; add images"
            )
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        tested[np.random.default_rng((seed, label)).permutation(members)[:count]] = True
    train, test = (FolderImages(index, part) for part in (~tested, tested))
    held_out = f"{folder} has no split of its own: {len(test):,} images, {fraction:.0%} of each class, are tested on"
    return ImageDataset(
        train=train,
        test=test,
        class_names=index.class_names,
        description=f"{folder}: {len(index.files):,} images, {len(index.class_names):,} classes",
        test_split=HELD_OUT,
        notes=(held_out, *notes, *_repeated_note(train, test), *index.notes, *passed_over_note(folder, [index])),
        broken=index.broken,
        oriented=index.oriented,
    )
