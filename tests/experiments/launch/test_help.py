"""Help, the table of configs, and what a mistyped name or flag is told."""

import itertools
import re

import pytest

from experiments import (
    analyse,
    audit,
    benchmark,
    cifar,
    evaluate,
    export,
    imagenet,
    models,
    pack,
    predict,
    report,
    segmentation,
    sweep,
)
from experiments.configs.programs import CIFAR, IMAGENET, PROGRAMS
from experiments.launch.command_line import parse
from experiments.launch.flags import _ALIASES, flags_of
from experiments.launch.help import groups
from resjax import InputError
from tests.helpers.command import outcome

COMMANDS = {"cifar": cifar.main, "imagenet": imagenet.main, "segmentation": segmentation.main}


@pytest.mark.quick
@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_screen_fits_a_terminal_and_names_the_rest(capsys, command):
    code, out, _ = outcome(COMMANDS[command], capsys, "--help")
    lines = out.splitlines()
    assert code == 0 and len(lines) <= 24 and max(map(len, lines)) <= 80
    assert lines[0] == f"usage: python -m experiments.{command} NAME [--FLAG VALUE ...]"
    for flag in ("NAME", "--list", "--help GROUP", "--dataset", "--epochs", "--batch_size", "--workdir"):
        assert f"  {flag} " in out


@pytest.mark.quick
@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_has_every_config_and_fits_the_width(capsys, monkeypatch, command, columns):
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = outcome(COMMANDS[command], capsys, "--list")
    assert code == 0 and max(map(len, out.splitlines())) <= int(columns)
    for name, named in PROGRAMS[f"python -m experiments.{command}"].items():
        row = next(line for line in out.splitlines() if line.startswith(f"{name} "))
        assert f" {named.parameters_of_network:,} " in row
        assert {value for value in named.table_row().values()} & set(re.split(" {2,}", row))


def _assert_fits(text: str, columns: int) -> None:
    """No line is longer than the width, and none ends before it must."""
    lines = text.splitlines()
    assert max(map(len, lines)) <= columns
    for line, below in itertools.pairwise(lines):
        indent = len(below) - len(below.lstrip())
        if indent >= 8 and line[:indent].isspace() and line[indent : indent + 1].strip():
            assert len(line) + 1 + len(below.split()[0]) > columns - 2, (line, below)


OTHERS = [
    pytest.param(command.main, words, id=command.__name__.rpartition(".")[2] + "".join(f" {word}" for word in words))
    for command, *words in (
        (analyse,),
        (audit,),
        (benchmark,),
        (evaluate,),
        (export,),
        (models,),
        (models, "--show", "wrn_28_10"),
        (pack,),
        (predict,),
        (report,),
        (sweep,),
        (imagenet, "evaluate"),
        (segmentation, "predict"),
    )
]


@pytest.mark.quick
@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(("command", "words"), OTHERS)
def test_the_help_of_every_command_fits_a_screen_and_the_whole_of_it_the_width(
    capsys, monkeypatch, command, words, columns
):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, first, err = outcome(command, capsys, *words, "--help")
    assert code == 0 and first.startswith("usage: python -m experiments.") and not err
    assert max(map(len, first.splitlines())) <= columns and len(first.splitlines()) <= 24
    code, out, err = outcome(command, capsys, *words, "--help", "all")
    assert code == 0 and "usage: python -m experiments." in out and not err
    assert "(default: )" not in " ".join(out.split())
    _assert_fits(out[out.index("usage: ") :], columns)
    assert max(map(len, out.splitlines())) <= columns
    assert "None" not in out.replace("None means", "").replace("None takes", "")
    shown = set(re.findall(r"--(\w+)", first.partition("Most used flags:")[2]))
    assert shown <= set(re.findall(r"--(\w+)", out))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("command", "words", "problem"),
    [
        (evaluate, [], "RUN|NAME|FILE is missing (see --help)"),
        (evaluate, ["--batchsize", "4"], "--batchsize: no such flag; did you mean '--batch_size'"),
        (evaluate, ["x", "--batch_size", "ten"], "--batch_size: expected INT, got 'ten'"),
        (evaluate, ["x", "--batch-size=ten"], "--batch_size: expected INT, got 'ten'"),
        (evaluate, ["x", "--mean", "1", "2"], "--mean: expected FLOAT FLOAT FLOAT, got '1 2'"),
        (evaluate, ["x", "--attack", "fgms"], "got 'fgms'; did you mean 'fgsm'?"),
        (export, ["x"], "--to {stablehlo,onnx,torch,savedweights} is missing (see --help)"),
        (models, ["a", "b"], "b: more than the command takes (see --help)"),
        (models, ["--show"], "--show needs a value after it"),
        (cifar, ["quickstart", "--optimizer.b1", "x"], "--optimizer.b1: expected FLOAT, got 'x'"),
        (cifar, ["quickstart", "extra"], "extra: more than the command takes"),
        (analyse, ["lesion", "--landscape.points", "x"], "--landscape.points: expected INT, got 'x'"),
    ],
)
def test_a_command_line_that_cannot_be_read_gets_one_line(capsys, command, words, problem):
    code, out, err = outcome(command.main, capsys, *words)
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1 and problem in err, err


@pytest.mark.quick
def test_the_list_of_studies_has_every_one(capsys):
    code, out, _ = outcome(analyse.main, capsys, "--list")
    assert code == 0 and all(f"\n{name} " in out for name in analyse.STUDIES)


@pytest.mark.quick
def test_a_list_is_narrowed_by_a_pattern_or_a_part_of_the_name(capsys):
    for pattern in ("wrn_28*", "wrn_28"):
        _, out, _ = outcome(cifar.main, capsys, "--list", pattern)
        assert "wrn_28_10_dropout" in out and "wrn_16_4" not in out and "resnet_20" not in out
    code, _, err = outcome(cifar.main, capsys, "--list", "x*")
    assert code == 2 and f"none of the {len(PROGRAMS[CIFAR])} configs" in err


@pytest.mark.quick
@pytest.mark.parametrize("command", COMMANDS)
def test_each_flag_is_in_the_help_of_its_group_and_of_no_other(capsys, command):
    configs = PROGRAMS[f"python -m experiments.{command}"]
    config = configs["quickstart"].config
    seen = {}
    for group in groups(config):
        code, out, _ = outcome(COMMANDS[command], capsys, "--help", group)
        assert code == 0, group
        _assert_fits(out, 80)
        seen[group] = set(re.findall(r"^(?:│|  ?) ?--([\w.]+)", out, re.MULTILINE))
    assert sum(map(len, seen.values())) == len(flags_of(config))
    assert set().union(*seen.values()) == flags_of(config).keys()
    assert "batch_size" in seen["training"] and "workdir" in seen["run"] and "model.name" in seen["model"]
    code, _, err = outcome(COMMANDS[command], capsys, "--help", "optimiser")
    assert code == 2 and "did you mean 'optimizer'" in err


def _suggested(message: str) -> list[str]:
    part = message.partition("did you mean ")[2].partition("?")[0]
    return re.findall(r"--[\w.]+", part)


@pytest.mark.quick
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_suggested_flag_is_one_that_the_config_has(program):
    name = next(name for name in PROGRAMS[program] if name != "quickstart")
    config = PROGRAMS[program][name].config
    known = flags_of(config)
    wrong = {f"{flag}s" for flag in known} | {flag[:-1] for flag in known} | {flag[1:] for flag in known}
    wrong |= {flag.rpartition(".")[2] for flag in known} | {
        f"model.{word}" for word in ("width", "widths", "depth", "k")
    }
    for flag in sorted((wrong | _ALIASES.keys()) - known.keys()):
        with pytest.raises(InputError) as error:
            parse(program, PROGRAMS[program], ["--config", name, f"--{flag}", "1"])
        assert str(error.value).startswith(f"--{flag}: ")
        assert all(suggested[2:] in known for suggested in _suggested(str(error.value))), str(error.value)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("flag", "right"),
    [
        ("--lr", "--optimizer.learning_rate"),
        ("--momentum", "--optimizer.momentum"),
        ("--model", "--model.name"),
        ("--model.width", "--model.widths"),
        ("--optimizer.momentun", "--optimizer.momentum"),
        ("--batch-sise", "--batch_size"),
    ],
)
def test_what_people_type_is_told_the_flag(flag, right):
    with pytest.raises(InputError) as error:
        parse(CIFAR, PROGRAMS[CIFAR], ["--config", "resnet_20", flag, "1"])
    assert right in _suggested(str(error.value))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("WRN-28-10", "did you mean 'wrn_28_10'?"),
        ("wide-resnet-28-10", "did you mean 'wrn_28_10'?"),
        ("resnet20", "did you mean 'resnet_20'?"),
        ("resnet50", f"it is a recipe of {IMAGENET} --config resnet_50"),
        ("wide_resnet50_2", f"it is a recipe of {IMAGENET} --config wrn_50_2"),
        ("mlp", "--list shows all"),
    ],
)
def test_what_people_call_a_network_is_told_the_config(typed, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse(CIFAR, PROGRAMS[CIFAR], ["--config", typed])


@pytest.mark.quick
def test_a_mistyped_subcommand_is_told_the_right_one(capsys):
    code, _, err = outcome(imagenet.main, capsys, "evalute", "--workdir", "runs/x")
    assert code == 2 and "did you mean 'evaluate'?" in err


@pytest.mark.quick
def test_a_recipe_comes_first_by_position_as_with_its_flag(capsys):
    # The values of the recipe are in its help.
    first, named = (
        outcome(cifar.main, capsys, *words, "--help") for words in (["wrn_28_10"], ["--config", "wrn_28_10"])
    )
    assert first == named and first[0] == 0 and "the values of wrn_28_10" in first[1]
