"""Small files of text beside a dataset's own: lists, names, descriptions."""

import codecs
import json
from pathlib import Path
from typing import Any

from resjax.errors import InputError, printable

_MOST_BYTES = 1 << 28  # the longest, a list of ImageNet's training images, has 6 % of it


def read_text(path: Path) -> str:
    """A file of UTF-8, or of UTF-16 with its mark.

    Raises:
      InputError: for what is no file, has no end, or is no text; names it.
    """
    try:
        if not path.is_file():  # reading a pipe or a device may never end
            raise InputError(f"{path}: {'no regular file' if path.exists() else 'not found'}")
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise InputError(f"{path}: has {size:,} bytes, too long for such a file")
        data = path.read_bytes()
        return data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeError as error:
        raise InputError(f"{path}: cannot be read as text ({error}); save it as UTF-8") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({printable(error)})") from None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      InputError: as `read_text`, and for what is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON ({error})") from None
