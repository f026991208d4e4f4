"""Memory that was freed goes back to the system."""

import ctypes


def give_back_memory() -> None:
    """Gives what was freed back to the system, where the C library can (glibc).

    Threads that write checkpoints free memory all over the arenas of malloc, which keep it: the resident size of a long
    run would grow, though what it uses does not.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
