"""300 damaged inputs of every format in each run of the tests; `python -m tests.fuzz` tries more."""

from tests.fuzz.__main__ import run, schedule
from tests.fuzz.formats import FORMATS
from tests.fuzz.worker import case_seed

CASES = 300


def test_damaged_inputs_are_read_or_refused_in_one_line(capsys):
    names = [name for name, one in FORMATS.items() if one.is_there()]
    counts, wrong = run(names, CASES, seconds=600)
    assert not wrong, capsys.readouterr().out
    assert sum(outcomes.total() for outcomes in counts.values()) == CASES
    refused = sum(outcomes["refused"] for outcomes in counts.values())
    assert refused > CASES / 3  # it does damage them


def test_a_case_is_a_function_of_its_format_and_number():
    assert case_seed("images", 7) == case_seed("images", 7) != case_seed("images", 8)
    names = list(FORMATS)
    given = list(schedule(names, 500, 0))
    assert len(set(given)) == 500 and {name for name, _ in given} == set(names)
