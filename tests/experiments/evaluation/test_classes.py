"""Classes of images are found among those of a network by their names."""

import json
import os

import pytest

from experiments.evaluation.classes import match_classes, read_class_names
from resjax import InputError

KNOWN = [("cat",), ("dog",), ("n01440764 tench", "n01440764")]


@pytest.mark.parametrize(
    ("images", "outputs"),
    [
        (["cat", "dog", "n01440764"], [0, 1, 2]),
        (["dog", "n01440764 tench"], [1, 2]),  # a subset, in another order of its own
        (["0", "2"], [0, 2]),  # folders that are numbered as the outputs
    ],
)
def test_every_class_of_the_images_finds_its_output(images, outputs):
    assert match_classes(KNOWN, images, "net") == outputs


@pytest.mark.parametrize("images", [["cat", "cow"], ["0", "3"], ["Cat", "Dog"]])
def test_a_class_that_the_network_does_not_know_is_said_with_both_lists(images):
    with pytest.raises(InputError) as caught:
        match_classes(KNOWN, images, "net")
    message = str(caught.value)
    assert "It knows cat, dog, n01440764 tench" in message and f"the images are of {', '.join(images)}" in message
    assert "--class_names FILE" in message and "\n" not in message


def test_one_name_of_two_outputs_or_two_names_of_one_is_no_match():
    with pytest.raises(InputError, match="does not know the classes cat"):
        match_classes([("cat",), ("cat",)], ["cat"], "net")
    with pytest.raises(InputError, match="two of the classes"):
        match_classes(KNOWN, ["n01440764", "n01440764 tench"], "net")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog\n", [("cat",), ("dog",)]),
        ("\ufeffcat\r\n\r\nhot dog\r\n", [("cat",), ("hot dog",)]),
        ("1 dog\n0 cat\n", [("cat",), ("dog",)]),
        ("n01440764 tench, Tinca tinca\n", [("n01440764 tench, Tinca tinca", "n01440764")]),
        (json.dumps(["cat", "dog"]), [("cat",), ("dog",)]),
        (json.dumps({"cat": 1, "dog": 0}), [("dog",), ("cat",)]),
        (json.dumps({"1": ["n2", "b"], "0": ["n1", "a"]}), [("n1", "a"), ("n2", "b")]),
        (json.dumps({"0": "cat", "1": "dog"}), [("cat",), ("dog",)]),
    ],
)
def test_names_are_read_in_the_forms_that_people_have(tmp_path, text, names):
    (tmp_path / "names").write_text(text, encoding="utf-8", newline="")
    assert read_class_names(tmp_path / "names") == names


@pytest.mark.parametrize(
    "text",
    [
        *("0 cat\n2 dog\n", '{"cat": 0, "dog": 0}', '{"a": "b"}', "3", "[1, 2]", '{"0": 3}', '{"0": null}', "", "{}"),
        *('["a", " "]', '{"0": []}', '{"0": {"a": 1}}'),
    ],
)
def test_what_does_not_say_each_index_once_is_named(tmp_path, text):
    (tmp_path / "names").write_text(text)
    with pytest.raises(InputError, match="--class_names .*names: expected"):
        read_class_names(tmp_path / "names")


@pytest.mark.parametrize("text", [f"{'9' * 5000} cat\n", f"[{'9' * 5000}]", "[" * 100_000])
def test_numbers_and_lists_without_end_are_refused(tmp_path, text):
    (tmp_path / "names").write_text(text)
    with pytest.raises(InputError, match="--class_names .*names: (Exceeds the limit|maximum recursion)"):
        read_class_names(tmp_path / "names")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="--class_names .*none: not found"):
        read_class_names(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="--class_names .*pipe: no regular file"):
        read_class_names(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff\x80")
    with pytest.raises(InputError, match="--class_names .*bytes: cannot be read as text"):
        read_class_names(tmp_path / "bytes")
