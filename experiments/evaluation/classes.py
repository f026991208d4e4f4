"""Which output of a network stands for which class of images: matched by name, never by place alone."""

import json
import os
import pathlib
from collections.abc import Sequence

from resjax.data.formats.text_files import read_text
from resjax.errors import InputError, printable

Names = Sequence[tuple[str, ...]]
"""Of each output of a network the names that its class may have."""
_LISTED = 8


def read_class_names(file: pathlib.Path) -> Names:
    """The names of a network's classes, in the order of its outputs.

    Args:
      file: text with one name a line, or "index name" on each; or JSON: a list of names, or a map of indices to names
        (or lists of names, as Keras has ImageNet's), or of names to indices. A line that begins with ImageNet's id of a
        class, "n01440764 tench", goes by that id, too.

    Raises:
      InputError: where it cannot be read, or two lines are of one index.
    """
    try:
        text = read_text(pathlib.Path(os.path.expanduser(file)))
    except InputError as error:
        raise InputError(f"--class_names {error}") from None
    try:
        names = _names(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError, too
        raise InputError(f"--class_names {file}: {printable(error, 300)}") from None
    if not names or not all(each and all(map(str.strip, each)) for each in names):
        raise InputError(f"--class_names {file}: expected a name for each class, got none, or an empty one")
    return names


def match_classes(known: Names, images: Sequence[str], of: str) -> list[int]:
    """The output of a network for each class of images; a network may know more classes than the images have.

    Args:
      known: names of the network's classes.
      images: names of the images' classes.
      of: where the network comes from, for the message.

    Raises:
      InputError: where a class has no output or two, with both lists.
    """
    outputs: dict[str, set[int]] = {}
    for index, names in enumerate(known):
        for name in names:
            outputs.setdefault(name, set()).add(index)
    found = [outputs.get(name, set()) for name in images]
    if not any(found) and all(name.isdecimal() and int(name) < len(known) for name in images):
        return [int(name) for name in images]  # folders that are numbered as the outputs are
    missing = [name for name, place in zip(images, found, strict=True) if len(place) != 1]
    if missing:
        raise InputError(
            f"{of} does not know the classes {_listed(missing)} of these images. It knows"
            f" {_listed([names[0] for names in known])}; the images are of {_listed(images)}. Rename the folders, or"
            " say with --class_names FILE what the network's classes are called, one a line"
        )
    places = [min(place) for place in found]
    if len(set(places)) < len(places):
        raise InputError(f"{of}: two of the classes {_listed(images)} are one class of the network")
    return places


def _names(text: str) -> Names:
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return _from_lines([line.strip() for line in text.splitlines() if line.strip()])
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return [(name,) for name in content]
    if isinstance(content, dict) and content:
        if all(type(value) is int for value in content.values()):
            return _in_order([(index, (name,)) for name, index in content.items()])
        pairs = []
        for index, names in content.items():
            names = (names,) if isinstance(names, str) else names
            is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
            if not index.isdecimal() or not is_list:
                raise ValueError(f"expected {{index: name}}, got {printable(index)!r}: {printable(names)}")
            pairs.append((int(index), tuple(names)))
        return _in_order(pairs)
    raise ValueError("expected a JSON list of names, or a map of indices to names")


def _from_lines(lines: Sequence[str]) -> Names:
    parts = [line.split(maxsplit=1) for line in lines]
    if parts and all(len(part) == 2 and part[0].isdecimal() for part in parts):
        return _in_order([(int(index), (name,)) for index, name in parts])
    return [(line, part[0]) if _is_wnid(part[0]) and len(part) > 1 else (line,)
            for line, part in zip(lines, parts, strict=True)]  # fmt: skip


def _in_order(pairs: Sequence[tuple[int, tuple[str, ...]]]) -> Names:
    by_index = dict(pairs)
    if len(by_index) != len(pairs) or sorted(by_index) != list(range(len(pairs))):
        raise ValueError(f"expected the indices 0 to {len(pairs) - 1}, each once")
    return [by_index[index] for index in range(len(pairs))]


def _is_wnid(word: str) -> bool:
    return len(word) == 9 and word[0] == "n" and word[1:].isdecimal()


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(map(printable, names[:_LISTED]))}{rest}"
