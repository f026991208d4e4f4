"""The files of a split in a folder like PASCAL VOC's: ImageSets/Segmentation/NAME.txt lists them."""

import logging
import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from resjax.data.masks.catalog import read_lines
from resjax.errors import InputError

_log = logging.getLogger(__name__)

IMAGES = "JPEGImages"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")


class Listed(NamedTuple):
    """An image and its mask, and where they are listed, for messages."""

    image: Path
    mask: Path
    place: str


def listed_files(
    name: str, folders: tuple[str, str], split: str, data_dir: str | os.PathLike[str] | None
) -> list[Listed]:
    """The files of a split, in the order of its list.

    Each line of the list is the name of an image, with or without suffix; or an image and its mask, as paths in
    `data_dir`, with or without a leading slash; or a name and 1, as in VOC's lists of one class.

    Args:
      name: name of the dataset, for messages.
      folders: the folder of the masks, and the one of the lists in `ImageSets`.
      split: name of the list.
      data_dir: the folder.

    Raises:
      InputError: without `data_dir`; for a list that is missing or empty; for a line, with its number, that names no
        image or mask, several, or a file outside of `data_dir`.
    """
    of_masks, of_lists = folders
    if data_dir is None:
        raise InputError(f"{name}: give the folder that has {IMAGES}, {of_masks} and ImageSets as --data_dir")
    root = Path(os.path.expanduser(data_dir))
    lists = root / "ImageSets" / of_lists
    path = lists / f"{split}.txt"
    if not os.path.isfile(path):  # False for a name that the file system does not take, which Path asks to raise
        there = sorted(file.stem for file in lists.glob("*.txt"))
        known = f"there are {', '.join(there)}" if there else f"{lists} has no lists"
        raise InputError(f"{path}: not found; {known}; check --data_dir and the split")
    folder = _Folder(root, of_masks)
    # All names are checked first, so that a missing mask is found before minutes of decoding.
    files = [folder.files_of(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), 1) if line]
    if not files:
        raise InputError(f"{path}: the split is empty; expected a name of an image on each line")
    _report_repeated(path, files)
    return files


def _report_repeated(path: Path, files: list[Listed]) -> None:
    seen: dict[Path, str] = {}
    again = [file for file in files if seen.setdefault(file.image, file.place) != file.place]
    if again:
        _log.warning(
            "%s lists %d images again, for example %s in line %s: each counts as often as it is listed",
            *(path, len(again), again[0].image.name, again[0].place.rpartition(" ")[2]),
        )


class _Folder:
    """Finds files by the words of a list.

    Args:
      root: the data directory.
      of_masks: name of the folder of masks in it.
    """

    def __init__(self, root: Path, of_masks: str):
        self._root, self._of_masks = root, of_masks
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def files_of(self, line: str, place: str) -> Listed:
        """Image and mask of a line."""
        columns = [line]
        # A name may hold spaces: first the whole line.
        if (image := self._find(IMAGES, line, IMAGE_SUFFIXES, place)) is None:
            columns = re.split(r"\s*,\s*|\s+", line)
            if len(columns) > 1:
                image = self._find(IMAGES, columns[0], IMAGE_SUFFIXES, place)
        if len(columns) == 2 and columns[1] in ("1", "+1", "0", "-1"):
            if columns[1] in ("0", "-1"):
                raise InputError(
                    f"{place}: {line!r} is of a list that says which images show one class, by 1, 0 or -1; a split"
                    " lists only the names of its images: keep the first column of those you want"
                )
            columns = columns[:1]
        if len(columns) > 2:
            raise InputError(
                f"{place}: expected a name, or an image and its mask, got {len(columns)} columns: {line!r}"
            )
        if image is None:
            raise InputError(
                f"{place}: the image is missing: no {columns[0]} in {self._root / IMAGES}"
                f" ({', '.join(IMAGE_SUFFIXES)}); paths are understood from {self._root} on"
            )
        name = columns[1] if len(columns) == 2 else self._name_of(image)
        mask = self._find(self._of_masks, name, MASK_SUFFIXES, place)
        if mask is None:
            raise InputError(
                f"{place}: the mask is missing: no {name} in {self._root / self._of_masks}"
                f" ({', '.join(MASK_SUFFIXES)}), for the image {image}{self._others(name)}"
            )
        return Listed(image, mask, place)

    def _name_of(self, image: Path) -> str:
        """The name that an image and its mask have in common: the path in the folder of images, without suffix."""
        folder = self._root / IMAGES
        return str((image.relative_to(folder) if image.is_relative_to(folder) else Path(image.name)).with_suffix(""))

    def _find(self, folder: str, name: str, suffixes: tuple[str, ...], place: str) -> Path | None:
        """The file of a name, with or without suffix, in a folder of the root or in the root; None if there is none."""
        path = Path(name)
        if path.is_absolute() and path.is_relative_to(self._root.absolute()):
            name = str(path.relative_to(self._root.absolute()))
        # In the lists of several projects a leading slash stands for the data directory.
        inside = PurePosixPath(name.replace("\\", "/").lstrip("/"))
        if ".." in inside.parts:
            raise InputError(f"{place}: {name!r} leads out of {self._root}; a split lists files inside of it")
        for base in (self._root / folder, self._root):
            found = self._matching(base / inside, suffixes)
            if len(found) > 1:
                raise InputError(
                    f"{place}: {name!r} may be {' or '.join(file.name for file in found)} in {found[0].parent}; list"
                    " it with its suffix"
                )
            if found:
                return self._guarded(found[0], place)
        return None

    def _matching(self, path: Path, suffixes: tuple[str, ...]) -> list[Path]:
        """Files with this name, or with this name and one of the suffixes, in upper or lower case."""
        there = self._listing(path.parent)
        if path.suffix.lower() in suffixes:
            same = [name for name in there.get(path.stem, ()) if name.lower() == path.name.lower()]
            exact = [name for name in same if name == path.name] or same
            if exact:
                return [path.parent / name for name in exact]
        stems = [path.name, path.stem] if path.suffix.lower() in {*IMAGE_SUFFIXES, *MASK_SUFFIXES} else [path.name]
        for stem in stems:
            found = [name for name in there.get(stem, ()) if Path(name).suffix.lower() in suffixes]
            if found:
                return [path.parent / name for name in found]
        return []

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """Names of a folder's files by stem. Each folder is listed once, which is also quick on a network drive."""
        if folder not in self._listings:
            names: dict[str, list[str]] = {}
            for entry in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
                names.setdefault(Path(entry).stem, []).append(entry)
            self._listings[folder] = names
        return self._listings[folder]

    def _guarded(self, file: Path, place: str) -> Path:
        """The file; InputError if a link leads out of the root. Folders at the top of the root may be links."""
        top = self._root / file.relative_to(self._root).parts[0]
        inside = [os.path.realpath(base) for base in (self._root, *([top] if top != file else []))]
        # `Path.resolve` raises for a link that leads to itself.
        if not any(Path(os.path.realpath(file)).is_relative_to(base) for base in inside):
            raise InputError(f"{place}: {file} is a link that leads out of {self._root}; copy the file into it")
        return file

    def _others(self, name: str) -> str:
        """The part of the message that names a file with the mask's name and another suffix."""
        place = self._root / self._of_masks / name
        other = self._listing(place.parent).get(place.name)
        return f"; there is {other[0]}: save it as PNG" if other else ""
