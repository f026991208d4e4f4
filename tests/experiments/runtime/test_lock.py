"""A folder has one owner, which is named, and which no kill leaves behind."""

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from experiments.runtime.lock import FolderLock
from resjax import InputError
from tests.conftest import ROOT

HOLD = (
    "import pathlib, sys; from experiments.runtime.lock import FolderLock;"
    "lock = FolderLock(pathlib.Path(sys.argv[1]), print); print('held', flush=True); sys.stdin.read()"
)


def _silent(line):
    raise AssertionError(line)


def _owner(host, process):
    return f"is in use by process {process} on {host}. Wait until that run ends, end it, or choose another --workdir"


def test_a_second_owner_is_refused_until_the_first_lets_go(tmp_path):
    lock = FolderLock(tmp_path, _silent)
    with pytest.raises(InputError, match=_owner(socket.gethostname(), os.getpid())):
        FolderLock(tmp_path, _silent)
    lock.check()
    lock.release()
    assert not list(tmp_path.iterdir())
    FolderLock(tmp_path, _silent).release()


def test_a_folder_that_cannot_be_written_any_more_is_let_go_without_an_error(tmp_path, monkeypatch):
    lock = FolderLock(tmp_path, _silent)
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "denied")))
        lock.release()
    FolderLock(tmp_path, _silent).release()  # free


def test_a_lock_that_is_no_file_is_refused_and_what_a_link_leads_to_is_left_alone(tmp_path):
    victim, lock = tmp_path / "victim", tmp_path / "lock"
    victim.write_text("another's")
    for make in (lambda: lock.symlink_to(victim), lambda: os.mkfifo(lock), lambda: lock.mkdir()):
        make()
        with pytest.raises(InputError, match="cannot be written: .*; choose another --workdir"):
            FolderLock(tmp_path, _silent)
        lock.rmdir() if lock.is_dir() else lock.unlink()
    assert victim.read_text() == "another's"
    lock.write_bytes(b"\xff" * 99)  # of a killed process, damaged since
    FolderLock(tmp_path, _silent).release()


def test_a_kill_leaves_no_lock_behind(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=_owner(socket.gethostname(), process.pid)):
            FolderLock(tmp_path, _silent)
        process.send_signal(signal.SIGKILL)
    FolderLock(tmp_path, _silent).release()


@pytest.mark.parametrize("change", [shutil.rmtree, lambda path: path.rename(path.with_name("moved"))])
def test_a_folder_that_was_removed_or_moved_is_said_and_what_is_there_now_is_left(tmp_path, change):
    folder = tmp_path / "run"
    folder.mkdir()
    lock = FolderLock(folder, _silent)
    change(folder)
    with pytest.raises(OSError, match="run was removed, or moved, while this run wrote to it"):
        lock.check()
    folder.mkdir()
    other = FolderLock(folder, _silent)
    with pytest.raises(OSError, match="was removed, or moved"):
        lock.check()
    lock.release()
    other.check()
    other.release()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def none(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    said = []
    lock = FolderLock(tmp_path, said.append)
    lock.check()
    lock.release()
    (line,) = said
    assert f"file system of {tmp_path} has no locks" in line and line.endswith("start no second run in this workdir")


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(InputError, match="gone cannot be written: .*choose another --workdir"):
        FolderLock(tmp_path / "gone", _silent)


def test_an_owner_that_has_not_yet_written_its_name_is_said(tmp_path):
    lock = FolderLock(tmp_path, _silent)
    (tmp_path / "lock").write_text("")
    with pytest.raises(InputError, match="in use by another process"):
        FolderLock(tmp_path, _silent)
    lock.release()
