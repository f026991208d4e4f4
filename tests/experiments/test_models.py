"""`python -m experiments.models`: the catalogue, and networks drawn."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

import resjax
from experiments.models import main
from tests.helpers.command import outcome


@pytest.mark.parametrize("columns", [80, 120])
def test_the_catalogue_has_every_network_and_fits_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = outcome(main, capsys)
    assert code == 0 and max(map(len, out.splitlines())) <= columns
    names = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert set(resjax.list_models()) <= set(names)
    (line,) = (line for line in out.splitlines() if line.split()[:1] == ["resnet_20"])
    assert "269,722" in line and "8.75" in line and "resnet_20-cifar10" in line
    assert ("1512.03385" in out) == (columns == 120)


def test_json_has_what_the_table_has_no_room_for(capsys):
    code, out, _ = outcome(main, capsys, "wrn_16_*", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and rows.keys() == {*resjax.list_models("wrn_16_*"), "wrn_16_2"}
    row = rows["wrn_16_2"]
    assert row["pretrained"] == ["wrn_16_2-cifar10"]
    assert row["our_error"] == resjax.pretrained_info("wrn_16_2-cifar10")["test_error"]
    assert row["parameters"] == resjax.model_info("wrn_16_2").parameters


@pytest.mark.parametrize("typed, name", [("resnet50", "resnet_50"), ("WRN-16-2", "wrn_16_2")])
def test_names_that_people_type_are_understood(typed, name, capsys):
    assert json.loads(outcome(main, capsys, typed, "--json")[1])[0]["name"] == name


def test_a_network_is_drawn_with_any_field_as_a_flag(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ("--show", "resnet20", "--model.widths", 8, 16, 24, "--num_classes", 5, "--image_size", 40, 48)
    code, out, err = outcome(main, capsys, *arguments, "--svg", tmp_path / "net.svg")
    assert code == 0, err
    assert "resnet_20 with widths (8, 16, 24)" in out and "40x48x8" in out and "10x12x24" in out
    assert "2 x block_2" in out and "shortcut: every 2nd pixel, zero channels" in out and "linear 5" in out
    lines = [line for line in out.splitlines() if not line.startswith("drawn: ")]  # which ends in a path
    assert max(map(len, lines)) <= 80
    picture = ElementTree.parse(tmp_path / "net.svg").getroot()
    texts = ["".join(node.itertext()) for node in picture.iter("{http://www.w3.org/2000/svg}text")]
    for expected in ("stem", "stage_1", "stage_2", "stage_3", "head", "10x12x24", "conv 3x3, 24 /2", "identity"):
        assert expected in texts
    assert "224x224x3" in outcome(main, capsys, "--show", "resnet_18")[1]
    of_json = json.loads(outcome(main, capsys, *arguments, "--json")[1])
    assert of_json["network"]["parameters"] == sum(part["parameters"] for part in of_json["network"]["parts"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["resent_20"], "resent_20: no network of the papers has such a name; did you mean 'resnet_20'"),
        (["--show", "resnet_19"], "resnet_19"),
        (["--show", "resnet_20", "--model.width", "3"], "resnet_20 takes no 'width'; did you mean"),
        (["--show", "resnet_20", "--model.widths", "3", "4"], "expected one width for each stage"),
        (["--show", "resnet_20", "--image_size", "0", "3"], "--image_size: expected a height and width in pixels"),
        (["--show", "resnet_20", "--svg", "no/such/x.svg"], "--svg no/such/x.svg: cannot be written"),
        (
            ["--show", "resnet_20", "--model.stochastic_depth.decay", "linear"]
            + ["--model.stochastic_depth.active_blocks", "3"],
            "--model.stochastic_depth.active_blocks: choose one",
        ),
        (["--svg", "x.svg"], "--svg: of a network that is drawn: give --show NAME, too"),
        (["--model.widths", "3"], "--model.widths: of a network that is drawn: give --show NAME, too"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = outcome(main, capsys, *arguments)
    assert code == 2 and not out
    assert err.startswith("error: ") and message in err and len(err.strip().splitlines()) == 1
