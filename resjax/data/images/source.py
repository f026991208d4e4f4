"""Sources of encoded images: each image has an index, a label and a name for messages."""

import dataclasses
from typing import Any, Protocol


class ImageSource(Protocol):
    """Encoded images by index. It is pickled into worker processes."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[bytes, int]:
        """The encoded image and its label; raises BrokenImage if it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """The path of the image's file, or the file and the image's position in it."""
        ...

    def describe(self) -> dict[str, Any]:
        """A description as JSON, without the images' location.

        "images" is their number, "per_class" the number per class (None if only reading every image tells it), and
        "fingerprint" the hexadecimal SHA-256 of the sorted names, sizes and classes of the files.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Encoded images of some classes: what datasets and images to evaluate on have in common.

    Attributes:
      class_names: name of each label, in label order.
      description: one line that says what it is.
      notes: notes for the user on how the images were found.
      broken: files that are not images, and why; they are in no split.
      oriented: number of files with an EXIF orientation other than upright, as far as is known without decoding.
    """

    class_names: tuple[str, ...]
    description: str
    notes: tuple[str, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    oriented: int = 0

    @property
    def num_classes(self) -> int:
        """Labels are 0 .. num_classes - 1."""
        return len(self.class_names)

    def identity(self) -> dict[str, Any]:
        """JSON that identifies these images: other images have another identity, wherever they are stored.

        {"class_names": [..], "splits": {"train": .., "test": ..}}, each split as `ImageSource.describe` says, the test
        images with the name of their "split". Images to evaluate on have "test" alone.
        """
        return {"class_names": list(self.class_names), "splits": self._splits()}

    def _splits(self) -> dict[str, dict[str, Any]]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDataset(LabelledImages):
    """Encoded images to train and to test on.

    Attributes besides those of `LabelledImages`:
      train, test: the images.
      test_split: the split of `test`: "val" or "test" of the dataset's own splits, or "held_out", drawn from the
        training images.
    """

    train: ImageSource
    test: ImageSource
    test_split: str

    def _splits(self) -> dict[str, dict[str, Any]]:
        return {"train": self.train.describe(), "test": {"split": self.test_split} | self.test.describe()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationImages(LabelledImages):
    """Encoded images to evaluate a network on, which may have other classes, in another order.

    Attributes besides those of `LabelledImages`:
      images: the images, labelled by their position in `class_names`.
      split: "val", "test", "train", "held_out", or "all" of a folder without splits.
    """

    images: ImageSource
    split: str

    def _splits(self) -> dict[str, dict[str, Any]]:
        return {"test": {"split": self.split} | self.images.describe()}
