"""A whole run in one file, which goes on elsewhere."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import tarfile
import tempfile
from collections.abc import Iterator

from experiments.runtime.lock import NAME as LOCK
from experiments.training.workdir import Workdir, read_saved_run
from resjax.errors import InputError, printable

SUFFIX = ".run.tar"
_CONTENTS = "contents.json"
_LARGEST_CONTENTS = 1 << 24  # bytes of contents.json


def pack(path: pathlib.Path, target: pathlib.Path) -> int:
    """Writes a run into one file: a tar archive, first a table of its files with their sizes and SHA-256.

    Nothing may write to the run meanwhile. Unfinished and set-aside checkpoints stay behind.

    Args:
      path: the workdir of a run, or the folder of several seeds that were trained together.
      target: the file. It appears whole or not at all.

    Returns:
      The number of files in it.

    Raises:
      InputError: if there is no run, another process has it, or the target exists or cannot be written.
    """
    if target.exists():
        raise InputError(f"{target}: exists; remove it, or choose another --output")
    owned = [Workdir(folder) for folder in folders_of_runs(path)]
    try:
        for workdir in owned:
            workdir.lock(lambda line: None)
        files = {file.relative_to(path).as_posix(): file for file in _files(path)}
        table = {name: [_digest(file), file.stat().st_size] for name, file in files.items()}
        temporary = target.with_name(f"{target.name}.tmp")
        try:
            with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
                _add_bytes(archive, _CONTENTS, json.dumps({"name": path.name, "files": table}).encode())
                for name, file in files.items():
                    archive.add(file, name, recursive=False)
            os.replace(temporary, target)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise InputError(f"{target}: cannot be written: {error}; choose another --output") from None
    finally:
        for workdir in owned:
            workdir.release()
    return len(files)


def unpack(file: pathlib.Path, target: pathlib.Path | None = None) -> pathlib.Path:
    """Writes the run in a file of `pack` to a folder, which appears whole or not at all.

    Only regular files are made, with the names and sizes of the table; each must have its digest.

    Args:
      file: the file.
      target: the folder, which must not exist; None: the run's name, beside the file.

    Returns:
      The folder.

    Raises:
      InputError: if it is no such file, it is damaged, or the folder exists or cannot be written.
    """
    try:
        with tarfile.open(file, "r:") as archive:
            name, table = _read_contents(archive, file)
            target = file.with_name(name) if target is None else target
            if target.exists():
                raise InputError(f"{target}: exists; remove or rename it, or choose another --output")
            _check_space(target, table)
            with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.absolute().parent) as made:
                _write_files(archive, table, pathlib.Path(made) / "run", file)
                (pathlib.Path(made) / "run").rename(target)
    except tarfile.TarError as error:
        raise InputError(f"{file}: no packed run, or a damaged one ({error}); pack the run again") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be unpacked: {error}") from None
    return target


def folders_of_runs(path: pathlib.Path) -> list[pathlib.Path]:
    """The workdirs in a folder: itself, or those of its seeds; raises InputError if there are none."""
    seeds = sorted(folder for folder in path.glob("seed_*") if (folder / "config.json").is_file())
    folders = seeds if seeds and not (path / "config.json").is_file() else [path]
    for folder in folders:
        read_saved_run(folder)
    return folders


def _files(path: pathlib.Path) -> Iterator[pathlib.Path]:
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        unfinished = any("-tmp" in part or part.endswith(".tmp") or part == "set_aside" for part in parts)
        if file.is_file() and not file.is_symlink() and not unfinished and file.name != LOCK:
            yield file


def _digest(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _read_contents(archive: tarfile.TarFile, file: pathlib.Path) -> tuple[str, dict[str, list]]:
    """The run's name and the table of files, checked."""
    member = archive.next()
    damaged = InputError(
        f"{file}: no packed run, or a damaged one; expected a file of `python -m experiments.pack RUN`"
    )
    if member is None or member.name != _CONTENTS or not member.isreg() or member.size > _LARGEST_CONTENTS:
        raise damaged
    try:
        content = json.loads(archive.extractfile(member).read())
        name, table = content["name"], content["files"]
        sizes = [size for digest, size in table.values() if isinstance(digest, str) and isinstance(size, int)]
        if not isinstance(name, str) or len(sizes) < len(table) or min(sizes, default=0) < 0:
            raise damaged
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged from None
    for each in (name, *table):
        path = pathlib.PurePosixPath(each)
        inside = not path.is_absolute() and ".." not in path.parts and path.parts and path.as_posix() == each
        if not inside or "\\" in each or "\0" in each:
            raise InputError(f"{file}: holds the name {printable(each)}, which no packed run has; it is not unpacked")
    if len(pathlib.PurePosixPath(name).parts) != 1:
        raise damaged
    return name, table


def _check_space(target: pathlib.Path, table: dict[str, list]) -> None:
    needed = sum(size for _, size in table.values())
    free = shutil.disk_usage(target.absolute().parent).free
    if needed > free:
        raise InputError(
            f"{target}: needs {needed / 2**20:.1f} MiB, and the disk has {free / 2**20:.1f} MiB free; choose another"
            " --output"
        )


def _write_files(archive: tarfile.TarFile, table: dict[str, list], folder: pathlib.Path, file: pathlib.Path) -> None:
    missing = dict(table)
    folder.mkdir()
    for member in archive:
        if member.name == _CONTENTS:
            continue
        digest, size = missing.pop(member.name, (None, None))
        if digest is None or not member.isreg() or member.size != size:
            raise InputError(f"{file}: {printable(member.name)} is not as its table says; pack the run again")
        path = folder / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            shutil.copyfileobj(archive.extractfile(member), target)
        if _digest(path) != digest:
            raise InputError(f"{file}: {member.name} is damaged (its SHA-256 is another); pack the run again")
    if missing:
        raise InputError(f"{file}: {next(iter(missing))} is missing, the file is cut; pack the run again")
