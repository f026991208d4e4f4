"""Batches in anonymous shared memory, which the kernel frees with its last process, even if processes are killed."""

import mmap
import os
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

_FREE, _FULL = 0, 1
# A waiting worker checks again after a small fraction of the time that it has waited: often enough to lose nothing,
# and seldom enough to leave its core to the training.
_FIRST_LOOK_SECONDS, _LOOK_AFTER, _LAST_LOOK_SECONDS = 0.0005, 0.05, 0.02
_ALIGNMENT = 4096


class Ring:
    """A number of slots, each of which holds arrays of the same shapes.

    The process that creates it reads; the processes that unpickle it write. Slots are written and read in turn, so that
    each waits only for the one before it. Linux only: the memory is a file without a name (memfd).

    Args:
      slots: number of slots.
      shapes: (shape, dtype) of each array in a slot.
    """

    def __init__(self, slots: int, shapes: Sequence[tuple[tuple[int, ...], DTypeLike]]):
        self.slots = slots
        self._shapes = [(shape, np.dtype(dtype)) for shape, dtype in shapes]
        sizes = [-(-int(np.prod(shape)) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT for shape, dtype in self._shapes]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        # A page of state for each slot, one page for the end, then the slots.
        self._length = _ALIGNMENT * (slots + 1) + self._offsets[-1] * slots
        self._file = os.memfd_create("resjax-batches", os.MFD_CLOEXEC)
        os.ftruncate(self._file, self._length)
        self._owner = os.getpid()
        self._memory = mmap.mmap(self._file, self._length)

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_memory"}

    def __setstate__(self, state):
        self.__dict__ = state
        # The file has no name, but its owner's table of open files has a path to it.
        file = os.open(f"/proc/{self._owner}/fd/{self._file}", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._memory = mmap.mmap(file, self._length)
        finally:
            os.close(file)

    def arrays(self, slot: int) -> list[np.ndarray]:
        """The arrays of a slot, as views of the memory."""
        start = _ALIGNMENT * (self.slots + 1) + slot * self._offsets[-1]
        return [
            np.frombuffer(self._memory, dtype, int(np.prod(shape)), start + offset).reshape(shape)
            for (shape, dtype), offset in zip(self._shapes, self._offsets, strict=False)
        ]

    def wait_until_free(self, slot: int) -> None:
        """Returns when the reader is done with the slot's last content; raises EOFError if it will read no more."""
        waited = 0.0
        while self._memory[slot * _ALIGNMENT] != _FREE:
            if self._memory[self.slots * _ALIGNMENT]:
                raise EOFError("nobody reads any more")
            pause = min(max(_FIRST_LOOK_SECONDS, _LOOK_AFTER * waited), _LAST_LOOK_SECONDS)
            time.sleep(pause)
            waited += pause

    def fill(self, slot: int) -> None:
        """Marks the slot as ready to be read."""
        self._memory[slot * _ALIGNMENT] = _FULL

    def free(self, slot: int) -> None:
        """Marks the slot as free to be written."""
        self._memory[slot * _ALIGNMENT] = _FREE

    def end(self) -> None:
        """Marks the end: nothing will be read any more."""
        self._memory[self.slots * _ALIGNMENT] = 1

    def close(self) -> None:
        """Closes the owner's file. Existing views keep the memory."""
        os.close(self._file)
