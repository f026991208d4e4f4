"""The public names of resjax and their parameters, as tests/public_api.txt has them."""

import difflib

from tests.conftest import ROOT
from tests.helpers import public_api

COMMAND = "python -m tests.helpers.public_api > tests/public_api.txt"


def test_public_names_and_parameters_are_those_of_the_snapshot():
    there = (ROOT / "tests" / "public_api.txt").read_text().splitlines()
    now = "\n".join(public_api.lines()).splitlines()
    change = "\n".join(difflib.unified_diff(there, now, "tests/public_api.txt", "resjax", lineterm="", n=1))
    assert not change, f"the public API differs; where that is meant: {COMMAND}\n{change}"


def test_every_public_name_has_a_docstring():
    lacking = [
        f"{module.__name__}.{name}"
        for module in public_api.public_modules()
        for name in module.__all__
        if callable(value := getattr(module, name)) and not public_api.is_alias(value) and not value.__doc__
    ]
    assert lacking == []
