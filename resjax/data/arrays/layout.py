"""Tells by their names which arrays of a file or folder are the images and the labels of which split.

It knows the names of Keras (`x_train`), MedMNIST (`train_images`), CIFAR-10.1 (`cifar10.1_v6_data`), CIFAR-10-C (`fog`
beside `labels`), MNIST (`t10k-images`), STL-10 (`test_X`) and similar ones.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from resjax.data.formats.stored_array import StoredArray
from resjax.errors import InputError

ALL = "all"
_SPLITS = {
    "train": ("train", "training", "tr"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "te", "t10k"),
}
_ROLES = {
    "labels": ("y", "label", "labels", "target", "targets"),
    "images": ("x", "image", "images", "img", "imgs", "data", "pixels", "inputs"),
}
_CLASS_NAMES = {"name", "names", "class", "classes", "categories"}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
_ROLE_OF = {word: role for role, words in _ROLES.items() for word in words}
_JOINED = re.compile("({0})({1})|({1})({0})".format("|".join(_SPLIT_OF), "|".join(_ROLE_OF)))
EXPECTED = (
    "expected arrays with names like x_train and y_train, train_images and train_labels (also val and test), or images"
    " and labels"
)


class Pair(NamedTuple):
    """Images and labels of one split, not yet read."""

    images: StoredArray
    labels: StoredArray


class Layout(NamedTuple):
    """What `arrange` finds.

    Attributes:
      pairs: images and labels by split: "train", "validation", "test"; "all" for a single pair without the name of a
        split; others, such as CIFAR-10-C's "fog", by their names.
      class_names: an array of strings, or None.
      unread: names of all other arrays.
    """

    pairs: dict[str, Pair]
    class_names: StoredArray | None
    unread: tuple[str, ...]


class _Meaning(NamedTuple):
    array: StoredArray
    split: str | None
    role: str | None
    rest: tuple[str, ...]


def arrange(arrays: Iterable[StoredArray], origin: str) -> Layout:
    """Sorts arrays into splits.

    Raises:
      InputError: if there are no images with labels, or the split is ambiguous; names `origin` and the arrays.
    """
    read = [_meaning(array) for array in arrays]
    names = [each for each in read if each.array.dtype.kind in "US" and _is_class_names(each.array)]
    rest = [each for each in read if each not in names]
    images, labels = _images_of(rest), _labels_of(rest)
    pairs: dict[str, Pair] = {}
    for each in images:
        found = _labels_for(each, labels, origin)
        if found is None and len(images) == len(labels) == 1:
            (found,) = labels
        if found is None:
            continue
        split = _split_name(each, images)
        if split in pairs:
            raise InputError(
                f"{origin}: {pairs[split].images.name} and {each.array.name} are both images of {split!r}; give a file"
                " or folder of one data set"
            )
        pairs[split] = Pair(each.array, found.array)
    if not pairs:
        raise InputError(f"{origin}: no images with labels; {EXPECTED}; found {_listed(read)}")
    if ALL in pairs and len(pairs) > 1:
        raise InputError(
            f"{origin}: of which split is {pairs[ALL].images.name}? There are {', '.join(pairs)}; name it like x_train,"
            " x_val or x_test"
        )
    used = {id(array) for pair in pairs.values() for array in pair} | {id(each.array) for each in names[:1]}
    order = [*_SPLITS, *sorted(pairs)]
    return Layout(
        {split: pairs[split] for split in sorted(pairs, key=order.index)},
        names[0].array if names else None,
        tuple(each.array.name for each in read if id(each.array) not in used),
    )


def is_labels(name: str) -> bool:
    """Whether an array of this name holds labels."""
    return _words(name)[1] == "labels"


def labels_beside(images: StoredArray, others: Iterable[StoredArray]) -> list[StoredArray]:
    """The labels of these images among the other arrays, or None."""
    found = _labels_for(_meaning(images), [_meaning(array) for array in others], images.origin)
    return [found.array] if found else []


def _meaning(array: StoredArray) -> _Meaning:
    return _Meaning(array, *_words(array.name))


def _words(name: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The split, the role and the other words of a name."""
    words = []
    for word in re.split("[^0-9a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()):
        joined = _JOINED.fullmatch(word)  # xtrain, trainlabels
        words += [part for part in joined.groups() if part] if joined else [word]
    splits = [_SPLIT_OF[word] for word in words if word in _SPLIT_OF]
    roles = {_ROLE_OF[word] for word in words if word in _ROLE_OF}
    role = "labels" if "labels" in roles else "images" if roles else None
    rest = tuple(word for word in words if word and word not in _SPLIT_OF and word not in _ROLE_OF)
    return splits[0] if splits else None, role, rest


def _is_class_names(array: StoredArray) -> bool:
    return bool(_CLASS_NAMES & set(re.split("[^a-z]+", array.name.lower()))) and len(array.shape) == 1


def _images_of(read: list[_Meaning]) -> list[_Meaning]:
    named = [each for each in read if each.role == "images"]
    return named or [each for each in read if each.role is None and len(each.array.shape) in (3, 4)]


def _labels_of(read: list[_Meaning]) -> list[_Meaning]:
    named = [each for each in read if each.role == "labels"]
    bare = [each for each in read if each.role is None and len(each.array.shape) == 1 and each.array.dtype.kind in "iu"]
    return named or (bare if len(bare) == 1 else [])


def _labels_for(images: _Meaning, labels: list[_Meaning], origin: str) -> _Meaning | None:
    of_split = [each for each in labels if each.split == images.split]
    for found in (
        [each for each in of_split if each.rest == images.rest],
        [each for each in of_split if not each.rest],
        of_split if images.split else [],
        [each for each in labels if each.split is None and each.rest in (images.rest, ())],
    ):
        if len(found) > 1:
            listed = ", ".join(each.array.name for each in found)
            raise InputError(f"{origin}: {images.array.name} has several arrays of labels: {listed}; keep one of them")
        if found:
            return found[0]
    return None


def _split_name(images: _Meaning, others: list[_Meaning]) -> str:
    if images.split:
        return images.split
    if images.role is None and images.rest[:1] != ("arr",):  # np.savez calls arrays without a name arr_0, arr_1
        return images.array.name
    return ALL if len(others) == 1 or not images.rest else "_".join(images.rest)


def _listed(read: list[_Meaning]) -> str:
    listed = [f"{each.array.name} ({each.array.dtype} {list(each.array.shape)})" for each in read]
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "") if listed else "nothing"
