"""Atomic writes, JSON, Markdown, and self-contained HTML pages."""

import html
import json
import math
import os
import pathlib
import re
from typing import Any

import numpy as np

from resjax.errors import InputError

_LARGEST_TEXT = 1 << 28  # bytes of a text that is read


def document(title: str, style: str, body: str) -> str:
    """A whole HTML page. `body` is HTML; `title` is plain text and becomes the heading."""
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style></head><body><h1>{title}</h1>{body}</body></html>\n"
    )


def markdown_text(text: str) -> str:
    """Plain text as Markdown shows it, also in a cell of a table: no markup, no HTML, one line."""
    return re.sub(r"([\\`|<*\[])", r"\\\1", " ".join(text.splitlines()))


def markdown_code(text: str) -> str:
    """The same as code, between more backquotes than the text has in a row."""
    text = " ".join(text.splitlines()).replace("|", r"\|")  # a table takes the backslash away again
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{text}{space}{fence}"


def without_folders(weights: str) -> str:
    """The last part of a path on this machine, for others to read; a name of weights, also of the hub, as it is."""
    path = pathlib.Path(weights)
    is_place = path.is_absolute() or weights.startswith(("~", ".")) or path.exists()
    return path.resolve().name if is_place else weights


def to_json(value: Any) -> Any:
    """Converts arrays to lists, NumPy numbers to Python numbers, and non-finite numbers to null."""
    if isinstance(value, dict):
        return {str(key): to_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(part) for part in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return to_json(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(path: pathlib.Path, contents: bytes | str | dict[str, Any]) -> None:
    """Writes a file atomically: it appears whole or not at all. Dictionaries become JSON, see `to_json`.

    Raises:
      OSError: if writing fails; an earlier file is then unchanged.
    """
    if isinstance(contents, dict):
        contents = json.dumps(to_json(contents), indent=1, allow_nan=False) + "\n"
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_text(file: pathlib.Path) -> str:
    """The text in a file, whatever bytes are in it; raises InputError if it cannot be read, or is no regular file."""
    try:
        if not file.is_file():  # reading a pipe or a device may never end
            raise InputError(f"{file}: {'no regular' if file.exists() else 'no such'} file")
        if (size := file.stat().st_size) > _LARGEST_TEXT:
            raise InputError(f"{file}: has {size:,} bytes, more than such a file has")
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error})") from None


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file; raises InputError if there is none."""
    text = read_text(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return content
