"""Where encoded images come from: each has an index, a label and a name for messages."""

import dataclasses
from typing import Protocol


class ImageSource(Protocol):
    """Encoded images by index; it is pickled into worker processes."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[bytes, int]:
        """The encoded image and its label; raises BrokenImage where it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """The path of the file, or where in which file the image lies."""
        ...


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Encoded images to train and to test on.

    Attributes:
      train, test: the images.
      class_names: name of each label, in label order.
      description: one line for a person.
      notes: what a person should know of how the images were found.
      broken: files that are no images, and why; they are in neither split.
    """

    train: ImageSource
    test: ImageSource
    class_names: tuple[str, ...]
    description: str
    notes: tuple[str, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()

    @property
    def num_classes(self) -> int:
        """Labels are 0 .. num_classes - 1."""
        return len(self.class_names)
