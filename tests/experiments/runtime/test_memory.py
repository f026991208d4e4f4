"""What threads have freed is given back to the system."""

import concurrent.futures
import ctypes
import pathlib

import pytest

from experiments.runtime.memory import give_back_memory

PIECE, PIECES, THREADS = 50_000, 400, 4


def _resident() -> int:
    """Bytes of this process in memory."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def _scatter(_) -> list[bytearray]:
    """Takes many pieces and frees most of them; those that are left keep malloc from giving back the others."""
    return [bytearray(b"x" * PIECE) for _ in range(PIECES)][::50]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_what_threads_have_freed_is_given_back():
    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        left = list(threads.map(_scatter, range(THREADS)))
        before = _resident()
        give_back_memory()
        assert before - _resident() > 0.7 * PIECE * PIECES  # of one thread: one may have run after another
    assert left[0][0][:1] == b"x"
