"""Labels of a flat folder of images, from a list that the dataset's authors provide.

These lists are looked for in the folder, in its parent folders, and in the devkit's folder beside it:

* Tiny-ImageNet's `val_annotations.txt`: file, class;
* Kaggle's `LOC_val_solution.csv` of ImageNet;
* the devkit's `ILSVRC2012_validation_ground_truth.txt`: a number for each image, which `meta.mat` beside it translates
  (the numbers are not positions in the sorted class folders);
* `imagenet_2012_validation_synset_labels.txt`: a class for each image;
* `SPLIT.txt`, `SPLIT.csv`, `labels.csv` and similar ones: file and class, or file and a position in the sorted classes
  or in the `synsets.txt` beside it (Caffe's `val.txt`).
"""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from resjax.data.formats.mat_files import read_mat_file
from resjax.data.formats.text_files import read_text
from resjax.data.images.layout import VAL, Index, first, select, sorted_classes
from resjax.data.images.listing import Listing
from resjax.errors import InputError, printable

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_SYNSETS_BY_NUMBER = "imagenet_2012_validation_synset_labels.txt"
_KAGGLE = "LOC_val_solution.csv"
_OF_IMAGENET = ("val_annotations.txt", _KAGGLE, _GROUND_TRUTH, _SYNSETS_BY_NUMBER, "ILSVRC2012_val.txt")
_SYNSET_LISTS = ("synsets.txt", "synset_words.txt", "LOC_synset_mapping.txt", "imagenet_lsvrc_2015_synsets.txt")
_DEVKITS = ("", "data", "devkit", "devkit/data", "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12/data")
_FILE_COLUMNS = {"file", "files", "filename", "file_name", "image", "image_id", "imageid", "image_name", "img", "id",
                 "path", "filepath", "image_path", "name", "fname"}  # fmt: skip
_LABEL_COLUMNS = {"label", "labels", "class", "class_name", "category", "target", "wnid", "synset", "species", "breed"}
_LARGEST_DEVKIT = 1 << 26  # bytes of its meta.mat
_ENDINGS = ("", "_labels", "_list", "_map", "_annotations")


def find_list(folder: Path, role: str) -> Path | None:
    """The list of labels for a flat folder of the split `role`, or None."""
    stems = (folder.name, *((VAL, "valid", "validation") if role == VAL else (role,)))
    names = list(_OF_IMAGENET if role == VAL else ())
    for stem in dict.fromkeys(stems):
        names += [f"{stem}{ending}.{kind}" for ending in _ENDINGS for kind in ("txt", "csv", "tsv")]
    names += ["labels.csv", "labels.tsv"]
    places = [folder, folder.parent, *(folder.parent / devkit for devkit in _DEVKITS[1:])]
    for place in places:
        found = next((place / name for name in names if (place / name).is_file()), None)
        if found is not None:
            return found
    # Kaggle's archive has it three folders up: ILSVRC/Data/CLS-LOC/val.
    return next(
        (parent / _KAGGLE for parent in folder.parents[1:4] if role == VAL and (parent / _KAGGLE).is_file()), None
    )


def expected_lists(folder: Path) -> str:
    """The lists of labels that are read, for a message."""
    return (
        f"class folders, or beside it a list of labels: val_annotations.txt, {_KAGGLE}, {_GROUND_TRUTH} with meta.mat,"
        f" or {folder.name}.txt with a file and its class on each line"
    )


def read_labelled(folder: Path, listing: Listing, path: Path, class_names: Sequence[str] | None) -> Index:
    """The images of a flat folder with the labels that a list gives them.

    Args:
      folder: the folder of the images.
      listing: its listing.
      path: the list of labels.
      class_names: class names of the training images; None takes the names in the list.

    Raises:
      InputError: for a list that cannot be read, has an unknown label or lacks an image; names the list and the line.
    """
    files = [os.path.basename(os.fsdecode(file)) for file in listing.files.tolist()]
    if path.name in (_GROUND_TRUTH, _SYNSETS_BY_NUMBER):
        by_file = _by_number(path, files)
    else:
        by_file = _of_one_folder(path, folder.name, files)
    looked_up = [by_file.get(file, by_file.get(os.path.splitext(file)[0])) for file in files]
    missing = [file for file, line in zip(files, looked_up, strict=True) if line is None]
    if missing:
        raise InputError(f"{path}: has no label for {len(missing):,} images of {folder}: {first(missing, 3)}")
    found = [line for line in looked_up if line is not None]
    names, notes = _class_names(path, found, class_names)
    if class_names is None:
        class_names = sorted_classes(set(names))
    labels = {name: label for label, name in enumerate(class_names)}
    for name, (line, _) in zip(names, found, strict=True):
        if name not in labels:
            raise InputError(f"{path}, line {line}: {name!r} is none of the {len(labels)} classes: "
                             f"{first(list(class_names), 3)}")  # fmt: skip
    notes.append(f"{folder}: labels of its {len(files):,} images from {path}")
    if len(by_file) > len(files):
        notes.append(f"{path}: lists {len(by_file) - len(files):,} images that {folder} does not hold")
    of_files = np.array([labels[name] for name in names], np.int32)
    order = np.argsort(of_files, kind="stable")
    return select(folder, listing, class_names, order, of_files[order])._replace(notes=tuple(notes))


def _class_names(
    path: Path, found: list[tuple[int, str]], class_names: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The class of each image, and notes on how numbers were understood."""
    labels = [label for _, label in found]
    numbers = all(re.fullmatch("-?[0-9]{1,18}", label) for label in labels)
    if path.name == _GROUND_TRUTH:
        if not numbers:
            raise InputError(f"{path}: expected a number on each line, as the devkit of ImageNet has them")
        wnids = _devkit_classes(path)
        return [_numbered(path, line, label, wnids) for line, label in found], []
    if not numbers or (class_names is not None and set(labels) <= set(class_names)):
        return labels, []
    listed = next((path.parent / name for name in _SYNSET_LISTS if (path.parent / name).is_file()), None)
    if listed is not None:
        names = [line.split()[0] for line in _text(listed).splitlines() if line.split()]
        note = f"{path}: numbers are positions, from 0, in {listed}"
    elif class_names is not None:
        names, note = list(class_names), f"{path}: numbers are positions, from 0, in the sorted class folders"
    else:
        return [str(int(label)) for label in labels], []
    if min(map(int, labels)) == 1 and max(map(int, labels)) == len(names):
        raise InputError(
            f"{path}: has numbers from 1 to {len(names)}, of an order that is not known; expected positions from 0, or"
            f" class names, or beside it {_SYNSET_LISTS[0]} with the classes in the order of numbers from 0"
        )
    return [_numbered(path, line, label, dict(enumerate(names))) for line, label in found], [note]


def _numbered(path: Path, line: int, label: str, names: dict[int, str]) -> str:
    if int(label) not in names:
        raise InputError(f"{path}, line {line}: expected a number from {min(names)} to {max(names)}, got {label}")
    return names[int(label)]


def _devkit_classes(path: Path) -> dict[int, str]:
    """ILSVRC2012_ID -> WNID of the classes, from the devkit's meta.mat. Reading it runs no code."""
    places = (
        path.parent / "meta.mat",
        path.parent / "data" / "meta.mat",
        *(path.parent / kit / "meta.mat" for kit in _DEVKITS),
    )
    meta = next((place for place in places if place.is_file()), None)
    if meta is None:
        raise InputError(
            f"{path}: its numbers are those of the devkit's meta.mat, which is not beside it; copy it from"
            f" ILSVRC2012_devkit_t12/data, or give {_KAGGLE} or val.txt with a file and its class on each line"
        )
    try:
        synsets = read_mat_file(meta, _LARGEST_DEVKIT)["synsets"]
        leaves = [one for one in synsets if int(one["num_children"].item()) == 0]
        return {int(one["ILSVRC2012_ID"].item()): str(one["WNID"]) for one in leaves}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, OSError, MemoryError) as error:
        raise InputError(
            f"{meta}: cannot be read as the devkit's meta.mat ({printable(error)}); copy it again"
        ) from error


def _by_number(path: Path, files: list[str]) -> dict[str, tuple[int, str]]:
    """One label per line, for the image whose name ends in the line's number, or else for the sorted images."""
    labels = [line.strip() for line in _text(path).splitlines() if line.strip()]
    numbers = [number for file in files if (number := re.search(r"_val_0*([0-9]+)\.[^.]+$", file))]
    if len(numbers) == len(files):
        positions = [int(number[1]) - 1 for number in numbers]
        return {f: (p + 1, labels[p]) for f, p in zip(files, positions, strict=True) if 0 <= p < len(labels)}
    if len(labels) != len(files):
        raise InputError(f"{path}: has {len(labels):,} labels for {len(files):,} images")
    return {file: (line + 1, labels[line]) for line, file in enumerate(sorted(files))}


def _of_one_folder(path: Path, folder: str, files: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Line and label of each file. If the list has a file name in several folders, the one in `folder` is meant."""
    listed: dict[str, list[tuple[str, tuple[int, str]]]] = {}
    for parent, file, found in _by_file(path):
        listed.setdefault(file, []).append((parent, found))
    asked = {*files, *(os.path.splitext(name)[0] for name in files)}
    labels = {}
    for file, places in listed.items():
        lines = [found for parent, found in places if parent == folder] or [found for _, found in places]
        labels[file] = lines[0]
        other = next((found for found in lines if found[1] != lines[0][1]), None)
        if other is not None and file in asked:
            raise InputError(
                f"{path}, line {other[0]}: {file} is {other[1]!r}, in line {lines[0][0]} {lines[0][1]!r}; expected one"
                f" class for each image of {folder}"
            )
    return labels


def _by_file(path: Path) -> Iterator[tuple[str, str, tuple[int, str]]]:
    """(name of its folder or "", name of the file, (line, label)) of each line of a list with columns."""
    text = _text(path)
    head = text.split("\n", 1)[0]
    delimiter = "\t" if "\t" in head else "," if "," in head else ";" if ";" in head else None
    if delimiter:
        try:
            rows = list(csv.reader(text.splitlines(), delimiter=delimiter))
        except csv.Error as error:
            raise InputError(
                f"{path}: cannot be read as a table ({error}); expected a file and its class a line"
            ) from None
    else:
        rows = [row if len(row := line.split()) <= 2 else line.rsplit(None, 1) for line in text.splitlines()]
    of_file, of_label, start = 0, 1, 0
    if rows:
        titles = [title.strip().lower() for title in rows[0]]
        of_title = next((n for n, title in enumerate(titles) if title in _FILE_COLUMNS), None)
        label_title = next((n for n, title in enumerate(titles) if title in _LABEL_COLUMNS), None)
        if path.name == _KAGGLE:
            start = 1
        elif of_title is not None and label_title is not None:
            of_file, of_label, start = of_title, label_title, 1
    for line, row in enumerate(rows[start:], start + 1):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(of_file, of_label) or not row[of_label].strip():
            raise InputError(f"{path}, line {line}: expected a file and its class, got {' '.join(row)[:80]!r}")
        label = row[of_label].split()[0] if path.name == _KAGGLE else row[of_label].strip()
        *_, parent, file = "", *re.split(r"[/\\]", row[of_file].strip())
        yield parent, file, (line, label)


def _text(path: Path) -> str:
    return read_text(path).replace("\r\n", "\n").replace("\r", "\n")
