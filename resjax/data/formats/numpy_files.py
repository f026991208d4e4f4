"""NumPy's `.npy` and `.npz` files (numpy.lib.format). Nothing in them is ever unpickled."""

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from resjax.data.formats.stored_array import StoredArray, check_ratio, check_size
from resjax.errors import InputError

_ENCRYPTED = 0x1
# Of zipfile and zlib; zipfile reads the last character of a member's name, which may have none.
_DAMAGE = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, IndexError, struct.error, OverflowError,
           zipfile.BadZipFile, zlib.error)  # fmt: skip


def open_npy(path: Path) -> StoredArray:
    """The array of an `.npy` file. Its header is read and compared with the file's size.

    Raises:
      InputError: for a file of another kind, or a truncated one.
    """
    origin = str(path)
    with _named(origin), path.open("rb") as file:
        shape, dtype = _header(file, origin, path.stat().st_size)
    return StoredArray(path.name.removesuffix(".npy"), origin, shape, dtype, partial(_read_npy, path))


def open_npz(path: Path) -> list[StoredArray]:
    """The arrays of an `.npz` file, in stored order. Their headers are read and compared with the sizes it declares.

    Raises:
      InputError: for a file of another kind, or with a member that is truncated, encrypted, or unpacks to far more
        than images do.
    """
    with _named(str(path)), zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        names = [member.filename for member in members]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise InputError(f"{path}: holds {twice[0]!r} twice; save it again")
        for member in members:
            if not member.filename.endswith(".npy"):  # a damaged name hides an array; opening compares its two copies
                archive.open(member).close()
        return [_member(path, archive, member) for member in members if member.filename.endswith(".npy")]


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> StoredArray:
    key = member.filename.removesuffix(".npy")
    origin = f"{path}: {key}"
    if member.flag_bits & _ENCRYPTED:
        raise InputError(f"{origin}: encrypted; save it again without a password")
    check_ratio(origin, min(member.compress_size, path.stat().st_size), member.file_size)
    with _named(origin), archive.open(member) as file:
        shape, dtype = _header(file, origin, member.file_size)
    return StoredArray(key, origin, shape, dtype, partial(_read_member, path, member.filename, origin))


def _header(file: IO[bytes], origin: str, size: int) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:  # 3.0 is for field names in other alphabets, which images do not have
        raise InputError(f"{origin}: version {version} of the .npy format; expected a plain array: save it again")
    shape, _, dtype = read(file)
    if any(side < 0 for side in shape):
        raise InputError(f"{origin}: damaged: its header says shape {list(shape)}; save it again")
    if not dtype.hasobject:  # they are pickles, of any size, and are never read
        check_size(origin, shape, dtype, size - file.tell())
    return shape, dtype


def _read_npy(path: Path) -> np.ndarray:
    with _named(str(path)):
        return np.load(path, allow_pickle=False)


def _read_member(path: Path, member: str, origin: str) -> np.ndarray:
    with _named(origin), zipfile.ZipFile(path) as archive, archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # reads to the end, where the checksum is verified
        return array


@contextlib.contextmanager
def _named(origin: str) -> Iterator[None]:
    """Turns the many exception types that damage raises into one `InputError` that names the file."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{origin}: no NumPy file, or a truncated or damaged one ({said}); copy or save it again"
        ) from error
