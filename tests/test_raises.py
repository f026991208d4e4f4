"""The tool that lists the errors which no test raised."""

from tests.conftest import ROOT
from tests.helpers import raises as tool
from tests.helpers.raises import ALLOWED, PACKAGES, raises, read_places, recorded, unreached

SOURCE = """
class Reader:
    def read(self, value):
        if value:
            raise ValueError(
                "of two lines"
            )
        try:
            pass
        except OSError as error:
            raise KeyError from error
    def size(self):
        raise NotImplementedError("by a sub-class")
raise SystemExit
"""

# One error that is caught, one in a child that ends without saying goodbye, and many that are never raised.
PROGRAM = """
import os, subprocess, sys
from resjax.data import dataset_info
from resjax.errors import InputError

try:
    dataset_info(3 if len(sys.argv) == 1 else "cifar01")
except InputError:
    pass
if len(sys.argv) == 1:
    sys.exit(subprocess.call((sys.executable, __file__, "child")))
os._exit(7)
"""


def test_every_raise_is_found_but_that_of_an_abstract_method():
    assert list(raises(SOURCE)) == [("Reader.read", 5), ("Reader.read", 11), ("", 14)]


def test_what_did_not_run_is_listed_and_an_unloaded_file_whole(tmp_path):
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    for name in ("ran.py", "unloaded.py"):
        (tmp_path / PACKAGES[0] / name).write_text(SOURCE)
    found = unreached({"resjax/ran.py": {5, 14}}, tmp_path)
    assert [(file, line) for file, _, line, _ in found] == [
        ("resjax/ran.py", 11),
        ("resjax/unloaded.py", 5),
        ("resjax/unloaded.py", 11),
        ("resjax/unloaded.py", 14),
    ]
    assert found[0][1:] == ("Reader.read", 11, "raise KeyError from error")


def test_errors_of_every_process_are_recorded_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "program.py").write_text(PROGRAM)
    places = tmp_path / "places"
    places.mkdir()
    code = recorded([str(tmp_path / "program.py")], places)
    ((file, lines),) = read_places(places).items()
    said = [(ROOT / file).read_text().splitlines()[line - 1].strip() for line in sorted(lines)]
    assert code == 7 and file == "resjax/data/arrays/loading.py" and len(said) == 2
    assert "expected a string" in said[0] and said[1].startswith("raise unknown_name")


def test_more_raises_without_a_test_than_known_are_a_failure(capsys, tmp_path, monkeypatch):
    every = unreached({})
    known = [f"{file}: {function}: {text}" for file, function, _, text in every]
    for name, listed, code in (("all", known, 0), ("none", [], 1), ("one gone", [*known, "a.py: f: raise X"], 0)):
        monkeypatch.setattr(tool, "KNOWN", tmp_path / "known.txt")
        tool.KNOWN.write_text("\n".join(listed))
        assert tool.report({}) == code, name
    out = capsys.readouterr().out
    assert "is gone: a.py: f: raise X" in out and f"{every[0][0]}:{every[0][2]}: " in out


def test_each_exception_has_a_reason():
    assert all(reason.strip() for reason in ALLOWED.values())
