"""Runs in one file: packed, unpacked, and gone on with; files of other making are refused."""

import io
import json
import subprocess
import sys
import tarfile

import pytest

from experiments import pack
from experiments.training.packed import SUFFIX, unpack
from experiments.training.packed import pack as pack_run
from resjax.errors import InputError
from tests.helpers.command import outcome
from tests.helpers.finished_run import write_run


@pytest.fixture
def run(tmp_path):
    """A finished run with what stays behind beside it."""
    folder = write_run(tmp_path / "there" / "run", "resnet_20", epochs=3)
    for name in ("checkpoints/latest/390/train/a", "checkpoints/latest/780.orbax-checkpoint-tmp/b", "config.json.tmp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 1000)
    return folder


def _contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_comes_out_as_it_was(run, tmp_path, capsys):
    before = _contents(run)
    code, said, error = outcome(pack.main, capsys, run)
    assert (code, error) == (0, "") and f"run{SUFFIX}: 4 files" in " ".join(said.split())
    assert _contents(run) == before
    file = (tmp_path / f"run{SUFFIX}").with_name(f"run{SUFFIX}")
    (run.parent / f"run{SUFFIX}").rename(file)
    code, said, error = outcome(pack.main, capsys, file)
    assert (code, error) == (0, "")
    command = f"python -m experiments.cifar --config resnet_20 --epochs 3 --workdir {tmp_path / 'run'} --resume must"
    assert command in said
    left = {name for name in before if "tmp" in name}
    assert len(left) == 2 and _contents(tmp_path / "run") == {k: v for k, v in before.items() if k not in left}


def test_seeds_that_trained_together_are_one_file(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "both" / f"seed_{seed}", "resnet_20", seed=seed)
    pack_run(tmp_path / "both", tmp_path / "file")
    assert unpack(tmp_path / "file", tmp_path / "out") == tmp_path / "out"
    assert _contents(tmp_path / "out") == _contents(tmp_path / "both")


def test_nothing_is_overwritten(run, tmp_path):
    pack_run(run, tmp_path / "file")
    with pytest.raises(InputError, match="file: exists; remove it, or choose another --output"):
        pack_run(run, tmp_path / "file")
    with pytest.raises(InputError, match="there: exists; remove or rename it"):
        unpack(tmp_path / "file", tmp_path / "there")
    with pytest.raises(InputError, match="cannot be written"):
        pack_run(run, tmp_path / "file" / "below")
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack(tmp_path / "file", tmp_path / "none" / "below")


def test_a_run_that_is_going_on_is_not_packed(run, tmp_path):
    words = f"import pathlib; from experiments.runtime.lock import *; x = FolderLock(pathlib.Path({str(run)!r}), print)"
    words += "; print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", words], stdin=-1, stdout=-1) as other:
        assert other.stdout.readline()
        with pytest.raises(InputError, match="is in use by process"):
            pack_run(run, tmp_path / "file")
        other.communicate(b"\n")
    assert not (tmp_path / "file").exists() and pack_run(run, tmp_path / "file") == 4


def test_damage_is_found(run, tmp_path):
    pack_run(run, tmp_path / "file")
    whole = (tmp_path / "file").read_bytes()
    at = whole.index(b"checkpoints/latest/390/train/acheckpoints")
    damaged = {
        "is damaged": whole[:at] + b"X" + whole[at + 1 :],
        "is not as its table says|is missing|damaged one": whole[:at],
        "damaged one": b"\0" * 10 + whole[10:],
    }
    for said, content in damaged.items():
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(InputError, match=said):
            unpack(tmp_path / "bad", tmp_path / "out")
        assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "file", "there"]


def _write(file, contents, members=()):
    with tarfile.open(file, "w") as archive:
        for name, content in (("contents.json", contents), *members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (b"[", "no packed run"),
        (b"[]", "no packed run"),
        (b'{"name": 3, "files": {}}', "no packed run"),
        (b'{"name": "run", "files": {"a": ["", -1]}}', "no packed run"),
        (b'{"name": "a/b", "files": {}}', "no packed run"),
        (b'{"name": "..", "files": {}}', "holds the name"),
        (b'{"name": "run", "files": {"b/../../a": ["", 1]}}', "holds the name"),
        (b'{"name": "run", "files": {"/a": ["", 1]}}', "holds the name"),
        (b'{"name": "run", "files": {"a\\u0000": ["", 1]}}', "holds the name"),
        (b'{"name": "run", "files": {"a": ["", 1000000000000000]}}', "MiB free"),
        (b'{"name": "run", "files": {"a": ["", 1]}}', "a is missing"),
        (b'{"name": "run", "files": {"contents.json": ["", 1]}}', "contents.json is missing"),
    ],
)
def test_files_of_other_making_are_refused(tmp_path, contents, said):
    _write(tmp_path / "file", contents)
    with pytest.raises(InputError, match=said):
        unpack(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_another_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / "file", "w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
    with pytest.raises(InputError, match="expected a file of `python -m experiments.pack RUN`"):
        unpack(tmp_path / "file")


def test_only_what_the_table_names_is_written(tmp_path):
    table = json.dumps({"name": "run", "files": {"a": ["0" * 64, 1]}}).encode()
    for member in (("b", b"x"), ("a", b"xx")):
        _write(tmp_path / "file", table, [member])
        with pytest.raises(InputError, match=f"{member[0]} is not as its table says"):
            unpack(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_neither_run_nor_file_is_said(tmp_path, capsys):
    code, _, error = outcome(pack.main, capsys, tmp_path / "none")
    assert code == 2 and "no such run, and no such file" in error
    code, _, error = outcome(pack.main, capsys, tmp_path)
    assert code == 2 and "no workdir of a run" in error
