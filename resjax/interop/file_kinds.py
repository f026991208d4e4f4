"""Tells the kind of a file from its bytes: weights come under any suffix, and a file is not always one of weights."""

import enum
import json
import pathlib
import re
import struct
import zipfile

from resjax.errors import InputError, printable

_HEAD = 4096  # bytes that are read
_LARGEST_HEADER = 100_000_000  # bytes of a safetensors header, the format's limit


class Kind(enum.Enum):
    """Files that can be read."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"


_GIT_LFS = b"version https://git-lfs.github.com/spec/"
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of the format's magic number
_EXPORT = (
    "load it where it was made, and write names and arrays with safetensors.numpy.save_file(arrays, 'w.safetensors')"
)
_DOWNLOAD = "download the file itself"
_UNPACK = "unpack it and give the file of weights in it"

# First bytes, what the file is, and the way out.
_SIGNATURES = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes weights", _EXPORT),
    (b"\x1f\x8b", "compressed by gzip", _UNPACK),
    (b"BZh", "compressed by bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed by xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x93NUMPY", "a single array of NumPy (.npy), with no names", _EXPORT),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file", _EXPORT),
    (b"GGUF", "a GGUF file, of language models", "give weights of an image network"),
    (b"\x89PNG", "a PNG image", "give a file of weights"),
    (b"\xff\xd8\xff", "a JPEG image", "give a file of weights"),
    (b"%PDF", "a PDF document", "give a file of weights"),
    (b"model_checkpoint_path:", "the index of a TensorFlow checkpoint folder", _EXPORT),
    # Torch7 writes 4 bytes for "a table" (3) or "an object" (4), then its number, 1.
    (b"\x03\x00\x00\x00\x01\x00\x00\x00", "a file of Lua Torch7", _EXPORT),
    (b"\x04\x00\x00\x00\x01\x00\x00\x00", "a file of Lua Torch7", _EXPORT),
)
_TENSORFLOW_INDEX_END = struct.pack("<Q", 0xDB4775248B80FB57)  # of its table format


def readable_kind(path: pathlib.Path) -> Kind:
    """Whether `path` is a safetensors file or one of `torch.save`.

    Raises:
      InputError: for every other file; says what it is and the way out.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, not a file of weights{_folder(path)}")
        if not path.exists():
            raise InputError(f"{path}: no such file")
        if not path.is_file():
            raise InputError(f"{path}: is no regular file; give a file of weights")
        size = path.stat().st_size
        with open(path, "rb") as stream:
            head = stream.read(_HEAD)
            stream.seek(max(size - 8, 0))
            end = stream.read(8)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{printable(path)}: cannot be read: {reason}") from None
    what = stand_in(head, size)
    if what is None and head.startswith(b"PK\x03\x04"):
        what = _zip(path)
        if what is None:
            return Kind.TORCH
    if what is None and head.startswith(_LEGACY_TORCH):
        return Kind.TORCH
    if what is None and _is_safetensors(head):
        length = int.from_bytes(head[:8], "little")
        if length + 8 <= size:
            return Kind.SAFETENSORS
        what = f"a safetensors file that is cut off: its header says {length:,} bytes, the file has {size:,}", _DOWNLOAD
    what = what or _other(path, head, end, size)
    raise InputError(f"{path}: is {what[0]}; {what[1]}")


def stand_in(head: bytes, size: int) -> tuple[str, str] | None:
    """What a placeholder of a missing download or an empty file is, with the way out; None for anything else."""
    if not size:
        return "empty (0 bytes): a download or a copy that failed", _DOWNLOAD
    if not head.strip(b"\0") and size > 8:
        return "nothing but zeros: a download or a copy that failed", _DOWNLOAD
    if head.startswith(_GIT_LFS):
        said = re.search(rb"size (\d{1,15})", head)
        bytes_ = f" to a file of {int(said[1]):,} bytes" if said else ""
        return (
            f"a Git-LFS pointer{bytes_}, not the file itself",
            f"run `git lfs pull` in its repository, or {_DOWNLOAD}",
        )
    if size < 1000 and b"/annex/objects/" in head:
        return "a git-annex pointer, not the file itself", f"run `git annex get`, or {_DOWNLOAD}"
    text = _text(head).lstrip("\ufeff \t\r\n").lower()
    if re.match(r"(<!doctype html|<html|<head|<body|<script)", text) or (text[:1] == "<" and "<html" in text):
        title = re.search(r"<title[^>]*>\s*([^<]{1,80})", text)
        named = f' titled "{printable(title[1].strip())}"' if title else ""
        return (
            f"an HTML page{named}, as a web site sends in place of a file",
            f"{_DOWNLOAD}, not the page that shows it",
        )
    if text.startswith("<?xml") or re.match(r"<error>", text):
        return "an XML document, as a file server answers with an error", _DOWNLOAD
    return None


def _folder(path):
    """What a folder is, for the message."""
    names = {entry.name for entry in path.iterdir()}
    if {"config.json", "model.safetensors"} <= names:
        return "; resjax.from_pretrained reads those of resjax.save_pretrained; of others give the model.safetensors"
    if "saved_model.pb" in names:
        return f" (a SavedModel of TensorFlow); {_EXPORT}"
    if "data.pkl" in names or any((path / name / "data.pkl").exists() for name in names):
        return " (a file of torch.save that was unpacked); give the .pth file before it was unpacked"
    kinds = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".th", ".tar")
    files = sorted(name for name in names if name.endswith(kinds))
    return f"; give one of its files, {', '.join(map(printable, files[:5]))}" if files else "; give the path of a file"


def _zip(path):
    """What a zip file is that `torch.save` did not write; None if it did."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, IndexError, struct.error):
        return "a zip file that is cut off or damaged (files of torch.save are zips)", "download or save it again"
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        return (
            "a TorchScript archive",
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth') makes it readable",
        )
    if "data.pkl" in inner:
        return None
    if any("archive_format" in name or name.endswith(("/models/model.json", ".pt2")) for name in names):
        return "a program of torch.export", "torch.save(module.state_dict(), 'weights.pth') makes it readable"
    if names and all(name.endswith(".npy") for name in names):
        return "an .npz archive of NumPy", "safetensors.numpy.save_file(dict(numpy.load(FILE)), 'weights.safetensors')"
    if {"metadata.json", "config.json"} <= set(names):
        return "a model of Keras (.keras)", _EXPORT
    return f"a zip archive that torch.save did not write ({len(names)} files)", _UNPACK


def _is_safetensors(head):
    return len(head) > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _LARGEST_HEADER


def _other(path, head, end, size):
    for signature, what, way_out in _SIGNATURES:
        if head.startswith(signature):
            return what, way_out
    if head[257:262] == b"ustar":
        if head.startswith((b"./sys_info", b"sys_info", b"storages", b"./storages", b"pickle", b"tensors")):
            newer = "load it once with a PyTorch that reads it, and torch.save the state_dict again"
            return "a tar of PyTorch before 0.2", newer
        return "a tar archive", _UNPACK
    if end == _TENSORFLOW_INDEX_END:
        return "the index of a TensorFlow checkpoint", _EXPORT
    if re.search(r"\.data-\d{5}-of-\d{5}$", path.name):
        return "a part of a TensorFlow checkpoint", _EXPORT
    if head[4:8] == b"TFL3":
        return "a model of TensorFlow Lite", _EXPORT
    if (protobuf := _protobuf(head)) is not None:
        return protobuf, _EXPORT
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return (
            "a pickle of Python that torch.save did not write, and pickles can run code",
            "where you trust it, load it and torch.save its names and arrays as tensors",
        )
    if head.startswith(b"PK"):
        return "an empty or damaged zip archive", _DOWNLOAD
    if len(head) > 8 and head[8:9] == b"{":
        return "damaged: it begins as a safetensors file whose header has an impossible length", _DOWNLOAD
    return _text_kind(head, size) or (
        f"no kind of file that is known here (it begins with {head[:8].hex(' ')}, {size:,} bytes)",
        "give a .safetensors file or one of torch.save",
    )


def _protobuf(head):
    """Models of ONNX and TensorFlow begin with a small number in field 1. In ONNX the name of the producer follows."""
    if len(head) < 6 or head[0] != 0x08 or not 0 < head[1] < 32:
        return (
            "a graph of TensorFlow or Caffe (protobuf)" if re.match(rb"\x0a.{1,3}\x0a[^\0]{1,40}\x12", head) else None
        )
    if head[2] == 0x12 and 0 < head[3] < 100 and re.fullmatch(rb"[\w.\- ]+", head[4 : 4 + head[3]]):
        return "an ONNX model"
    if head[1] == 1 and head[2] == 0x12:
        return "a SavedModel of TensorFlow"
    return "an ONNX model" if head[2] in (0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x42) else None


def _text_kind(head, size):
    text = _text(head)
    if not text or sum(not (c.isprintable() or c.isspace()) for c in text):
        return None
    line = printable(text.strip().splitlines()[0] if text.strip() else "", 60)
    if text.lstrip("\ufeff \r\n\t")[:1] in "{[":
        said = _json_error(text) if size <= _HEAD else ""
        return f"a JSON text{said}, not weights", "a server may have answered with it; download the file itself"
    return f"a text that begins {line!r}, not weights", "give a .safetensors file or one of torch.save"


def _json_error(text):
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    values = [content.get(key) for key in ("error", "message", "detail")] if isinstance(content, dict) else []
    said = next((value for value in values if isinstance(value, str)), None)
    return f" that says {printable(said)!r}" if said else ""


def _text(head):
    """The beginning of a text, "" if it is not text. The last character may be cut off."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return head.decode("utf-16", "ignore")
    try:
        return head.decode("utf-8")
    except UnicodeDecodeError as error:
        return head[: error.start].decode("utf-8") if error.start > len(head) - 4 else ""
