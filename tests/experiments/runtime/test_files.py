"""Files appear whole or not at all."""

import json

import pytest

from experiments.runtime import files
from resjax.errors import InputError


def test_a_file_is_replaced_whole_or_stays(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    files.write(file, {"a": 1})
    assert json.loads(file.read_text()) == {"a": 1}
    files.write(file, "text")
    files.write(tmp_path / "b", b"\x00\xff")
    assert file.read_text() == "text" and (tmp_path / "b").read_bytes() == b"\x00\xff"

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(file, "other")
    assert file.read_text() == "text" and sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such file"), ("{", r"cannot be read \(.*line 1"), ("[1]", "expected a JSON object, got list")],
)
def test_what_is_no_json_object_is_named(text, message, tmp_path):
    file = tmp_path / "a.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=f"a.json: {message}"):
        files.read_json(file)


def test_json_has_no_number_that_is_not_finite(tmp_path):
    files.write(tmp_path / "a.json", {"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {"a": None, "b": [None, 1.5]}


def test_text_in_markdown_is_no_markup():
    text = files.markdown_text("a|b <img src=x> *c* `d` [e](f)\n# g \\|")
    assert text == r"a\|b \<img src=x> \*c\* \`d\` \[e](f) # g \\\|"
    assert files.markdown_text("resnet_20 on cifar10, 0.5 ± 0.1") == "resnet_20 on cifar10, 0.5 ± 0.1"


def test_code_in_markdown_ends_where_it_ends():
    assert files.markdown_code("resnet_20") == "`resnet_20`"
    assert files.markdown_code("a `b` | c\nd") == r"`` a `b` \| c d ``"


def test_a_text_that_is_too_long_or_cannot_be_named_is_refused(tmp_path):
    with (tmp_path / "long").open("wb") as file:
        file.truncate(1 << 29)
    with pytest.raises(InputError, match="long: has 536,870,912 bytes, more than such a file has"):
        files.read_text(tmp_path / "long")
    with pytest.raises(InputError, match="cannot be read .*File name too long"):
        files.read_text(tmp_path / ("x" * 300))
