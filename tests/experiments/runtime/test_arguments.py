"""The order of a command line."""

import pytest

from experiments.runtime.arguments import subject_first


@pytest.mark.quick
@pytest.mark.parametrize(
    "given, meant, lines",
    [
        (["RUN", "--split", "test"], ["RUN", "--split", "test"], ""),
        (
            ["--split", "test", "--run", "RUN"],
            ["RUN", "--split", "test"],
            "--run is not needed any more: command RUN ..",
        ),
        (["a.jpg", "b.jpg", "--run=RUN", "--top", "1"], ["RUN", "a.jpg", "b.jpg", "--top", "1"], "not needed any more"),
        (["RUN", "--mode", "centre"], ["RUN", "--eval_mode", "centre"], "--mode is now --eval_mode"),
        (["RUN", "--mode=centre"], ["RUN", "--eval_mode=centre"], "--mode is now --eval_mode"),
        (["--run"], ["--run"], ""),  # the parser says that it is unknown
        (["RUN", "-h"], ["RUN", "-h"], ""),
    ],
)
def test_the_subject_comes_first_and_earlier_forms_get_a_line(capsys, given, meant, lines):
    assert subject_first("command", given, ("--run",), {"--mode": "--eval_mode"}) == meant
    out, err = capsys.readouterr()
    assert out == "" and lines in err and err.count("\n") == bool(lines)
