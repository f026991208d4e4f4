"""Tells whether the folders of a dataset are splits, classes, or neither.

These layouts are read: `DIR/SPLIT/CLASS/IMAGE`; `DIR/CLASS/IMAGE`; either with a folder `images`, or one of the class's
name, between class and image; a split's folder within a folder of the same split; and a flat folder with a list of
labels (see `resjax.data.images.labels`). Anything else is an error: a guess would train on meaningless labels.
"""

import collections
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resjax.data.images.encoded import READ_FORMATS
from resjax.data.images.listing import Listing, list_images, read_folder
from resjax.errors import InputError

TRAIN, VAL, TEST = "train", "val", "test"
_WORDS = {
    "train": TRAIN, "training": TRAIN, "trn": TRAIN,
    "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL,
    "test": TEST, "testing": TEST, "tst": TEST,
}  # fmt: skip
# Further words in the names of split folders: training_set, seg_train, ILSVRC2012_img_val.
_FILLERS = {"set", "data", "dataset", "split", "images", "image", "imgs", "img", "seg", "ilsvrc", "imagenet", "folder"}
_IMAGE_FOLDERS = {"images", "image", "imgs", "img", "photos", "jpeg", "jpg", "jpegimages", "png"}


class Index(NamedTuple):
    """The readable images of a split.

    Attributes:
      folder: the folder that the files lie below.
      class_names: in the order of their labels.
      files: relative paths, bytes [N].
      sizes: in bytes, int64 [N].
      heads: digests of their first bytes, uint64 [N].
      labels: int32 [N].
      broken: (path, reason) of files that have an image's name and are not images.
      oriented: number of files with an EXIF orientation other than upright.
      passed_over: number of files that are not read, by suffix.
      notes: notes for the user.
    """

    folder: Path
    class_names: tuple[str, ...]
    files: np.ndarray
    sizes: np.ndarray
    heads: np.ndarray
    labels: np.ndarray
    broken: tuple[tuple[str, str], ...]
    oriented: int
    passed_over: collections.Counter
    notes: tuple[str, ...] = ()


def sorted_classes(names: Iterable[str]) -> list[str]:
    """Class names in the order of their labels: numbers in numeric order, other names as text."""
    names = sorted(names)
    if names and all(re.fullmatch("[0-9]+", name) for name in names):
        names.sort(key=int)
    return names


def split_role(name: str) -> str | None:
    """The split that a folder's name stands for, in upper or lower case: "train", "val", "test", or None."""
    words = re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower())
    roles = []
    for word in words:
        whole = next((whole for filler in ("set", "data", "") if (whole := word.removesuffix(filler)) in _WORDS), None)
        if whole is not None:
            roles.append(_WORDS[whole])
        elif word not in _FILLERS:
            return None
    return roles[0] if roles and len(set(roles)) == 1 else None


def find_splits(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The split folders in a folder, by split, and the names of the other folders.

    A class may be called "train": it holds images, and lies beside other folders of images.

    Raises:
      InputError: for two folders of one split, and for split folders that hold images without classes.
    """
    entries = read_folder(folder)
    named = {name: role for name in entries.folders if (role := split_role(name))}
    if not named:
        return {}, []
    inside = {name: read_folder(folder / name) for name in entries.folders}
    splits = [name for name in named if inside[name].folders and not inside[name].images]
    classes = [name for name in entries.folders if name not in named and inside[name].images]
    if not splits and classes:
        odd = [name for name, role in named.items() if role != TRAIN]
        if odd:
            raise InputError(
                f"{folder / odd[0]}: holds images, as the class folders beside it ({first(classes, 3)}) do, but has the"
                f" name of a split; expected {folder / odd[0]}/CLASS/IMAGE, or another name if it is a class"
            )
        return {}, []
    by_role: dict[str, Path] = {}
    for name, role in named.items():
        if not (inside[name].images or inside[name].folders):
            if role != TEST:
                raise InputError(f"{folder / name}: is empty; expected images in {folder / name}/CLASS")
            continue
        if role in by_role:
            raise InputError(
                f"{folder}: {by_role[role].name} and {name} both look like its {role} split; give --data_dir a folder"
                f" with one of them (links to folders are followed)"
            )
        by_role[role] = _innermost(folder / name, role)
    return by_role, [name for name in entries.folders if name not in named] if by_role else []


def _innermost(path: Path, role: str) -> Path:
    """seg_train/seg_train/CLASS: a split's folder in a folder of the same split."""
    entries = read_folder(path)
    if len(entries.folders) == 1 and not entries.images and split_role(entries.folders[0]) == role:
        return _innermost(path / entries.folders[0], role)
    return path


def read_classes(folder: Path, single: bool = False, listing: Listing | None = None) -> Index:
    """The images of a folder of class folders.

    Args:
      folder: the folder.
      single: whether a single class is allowed.
      listing: the folder's listing, if it is known.

    Raises:
      InputError: for a folder with no class folder or only one, for folders around class folders, and for a class
        without an image.
    """
    listing = list_images(folder) if listing is None else listing
    class_names = sorted_classes(name for name in listing.directories if "/" not in name)
    if not class_names:
        raise InputError(f"{folder}: holds {_what(listing)} and no class folders; expected {folder}/CLASS/IMAGE,"
                         f" images being {READ_FORMATS}")  # fmt: skip
    parts = [file.split(b"/", 2) for file in listing.files.tolist()]
    _refuse_groups(folder, class_names, parts, single)
    numbers = {os.fsencode(name): label for label, name in enumerate(class_names)}
    labels = np.array([numbers[part[0]] if len(part) > 1 else -1 for part in parts], np.int32)
    notes = []
    if loose := int((labels < 0).sum()):
        notes.append(f"{folder}: {loose:,} images beside the class folders are of no class, and are not read")
    kept = labels >= 0
    # The images are grouped by class, in the order of the labels.
    order = np.flatnonzero(kept)[np.argsort(labels[kept], kind="stable")]
    index = select(folder, listing, class_names, order, labels[order])._replace(notes=tuple(notes))
    empty = sorted(set(range(len(class_names))) - set(index.labels.tolist()))
    if empty:
        reason = f" ({index.broken[0][0]}: {index.broken[0][1]})" if index.broken else ""
        raise InputError(
            f"{folder}: no image in {first([class_names[label] for label in empty])}{reason}; add images to these class"
            f" folders, or give a folder without them; images are {READ_FORMATS}"
        )
    return index


def select(folder: Path, listing: Listing, class_names: Sequence[str], order: np.ndarray, labels: np.ndarray) -> Index:
    """The images of a listing at the positions `order`, with their labels; broken images are listed separately."""
    path = str(folder)
    broken = tuple(
        (os.path.join(path, os.fsdecode(listing.files[position])), listing.broken[position])
        for position in order.tolist()
        if position in listing.broken
    )
    sound = np.array([position not in listing.broken for position in order.tolist()], bool)
    order = order[sound]
    return Index(
        folder,
        tuple(class_names),
        listing.files[order],
        listing.sizes[order],
        listing.heads[order],
        labels[sound].astype(np.int32),
        broken,
        int(listing.oriented[order].sum()),
        listing.passed_over,
    )


def _refuse_groups(folder: Path, class_names: list[str], parts: list[list[bytes]], single: bool) -> None:
    """Refuses folders that hold only folders of images, unless they can only be classes."""
    direct = {os.fsdecode(name) for name in {part[0] for part in parts if len(part) == 2}}
    below = collections.defaultdict(set)
    for part in {tuple(part[:2]) for part in parts if len(part) > 2}:
        outer, inner = map(os.fsdecode, part)
        below[outer].add(inner)
    groups = [name for name in class_names if name in below and name not in direct]
    if len(class_names) == 1 and groups:
        only = folder / groups[0]
        raise InputError(
            f"{folder}: holds one folder, {groups[0]}, with {len(below[groups[0]])} folders of images in it; if these"
            f" are the classes or splits, give --data_dir {only}"
        )
    for name in groups:
        held = below[name]
        if len(held) > 1 or not (held <= {name} or next(iter(held)).lower() in _IMAGE_FOLDERS):
            raise InputError(
                f"{folder / name}: holds no image of its own, only the folders {first(sorted(held))}; expected"
                f" {folder}/CLASS/IMAGE: if these are the classes, give --data_dir {folder / name}"
            )
    if len(class_names) == 1 and not single:
        raise InputError(
            f"{folder}: holds one class folder, {class_names[0]}; a classifier needs two or more, as"
            f" {folder}/CLASS/IMAGE"
        )


def flat_images(listing: Listing) -> bool:
    """Whether all images lie in the folder itself, or in its only folder `images`."""
    parents = {os.path.dirname(os.fsdecode(file)).lower() for file in listing.files.tolist()}
    return len(listing.files) > 0 and (parents == {""} or (len(parents) == 1 and parents <= _IMAGE_FOLDERS))


def passed_over_note(folder: Path, indices: Iterable[Index]) -> tuple[str, ...]:
    """One note on the files that are not read, or none."""
    counts = sum((index.passed_over for index in indices), collections.Counter())
    if not counts:
        return ()
    listed = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(8))
    more = f" and {sum(counts.values()) - sum(n for _, n in counts.most_common(8)):,} others" if len(counts) > 8 else ""
    return (f"{folder}: passed over as no images: {listed}{more} (read are {READ_FORMATS})",)


def _what(listing: Listing) -> str:
    if len(listing.files):
        return f"{len(listing.files):,} images"
    return ", ".join(f"{count:,} {suffix}" for suffix, count in listing.passed_over.most_common(3)) or "no image"


def first(names: list[str], most: int = 5) -> str:
    """The first few of `names`, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
