"""Unpickling that can build numpy arrays and nothing else, for the batches of CIFAR's Python archives."""

import io
import pickle
from typing import Any

import numpy as np

from resjax.errors import InputError


class _Refused(Exception):
    """The pickle names something that is not needed for arrays."""


def _latin1_bytes(text: str, encoding: str) -> bytes:
    # Python 3 writes bytes into a protocol-2 pickle as `_codecs.encode(text, "latin1")`. Other codecs run other code.
    if encoding not in ("latin1", b"latin1"):
        raise _Refused(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,  # its name since numpy 2.0
    ("_codecs", "encode"): _latin1_bytes,
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def load_batch(data: bytes, origin: str) -> dict[str, Any]:
    """Returns the dictionary pickled in `data`, with its keys as `str`.

    Args:
      data: a batch file as Python 2 wrote it (official), or Python 3 after it.
      origin: the file's name, for error messages.

    Raises:
      InputError: if the pickle wants anything but numpy arrays and plain values (nothing of it has then been run),
        is damaged, or holds no dictionary.
    """
    try:
        # Under "bytes", array data that Python 2 pickled as `str` passes unchanged.
        batch = _RestrictedUnpickler(io.BytesIO(data), encoding="bytes").load()
    except _Refused as error:
        raise InputError(
            f"{origin}: refused: this pickle tried to load {error}, which a CIFAR batch does not need; "
            "get the official archive"
        ) from error
    except Exception as error:  # A damaged pickle can fail in any of the machine's instructions.
        raise InputError(f"{origin}: damaged pickle ({error}); get the official archive again") from error
    if not isinstance(batch, dict):
        raise InputError(f"{origin}: a CIFAR batch is a dictionary, found {type(batch).__name__}")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in batch.items()}
