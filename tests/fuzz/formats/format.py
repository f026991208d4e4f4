"""What a format is: how to make sound files of it, how they are read, and what else may befall them."""

import dataclasses
import fnmatch
import importlib
import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resjax.errors import InputError
from tests.fuzz import mutators
from tests.fuzz.mutators import Special


@dataclasses.dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
      make: writes sound files into a folder.
      read: reads them; what it returns is compared with what the sound ones give.
      special: what else may befall them.
      checked: patterns of files whose changes must not give another result in silence.
      weight: how often it has its turn.
      needs: a module without which it is left out.
      special_is_told: whether checksums tell what `special` does; else it may write sound files of other content.
      is_made: whether `special` makes all of its cases, and nothing is damaged.
      refusals: errors of our own that may come.
      may_not_differ: whether that holds for a folder.
    """

    make: Callable[[Path], None]
    read: Callable[[Path, random.Random], Any]
    special: tuple[Special, ...] = ()
    checked: tuple[str, ...] = ()
    weight: float = 1.0
    needs: str = "resjax"
    special_is_told: bool = False
    is_made: bool = False
    refusals: tuple[type[Exception], ...] = (InputError,)
    may_not_differ: Callable[[Path], bool] = lambda folder: True

    def is_there(self) -> bool:
        return importlib.util.find_spec(self.needs) is not None

    def is_checked(self, file: str) -> bool:
        return any(fnmatch.fnmatch(file, pattern) for pattern in self.checked)

    def mutate(self, rng: random.Random, folder: Path) -> bool:
        """Damages a folder; returns whether checksums must tell."""
        if self.is_made or (self.special and rng.random() < 0.4):
            rng.choice(self.special)(rng, folder)
            return self.special_is_told
        mutators.damage_folder(rng, folder)
