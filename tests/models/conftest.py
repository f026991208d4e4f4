"""Small networks, compiled lightly; tests/train and tests/experiments compile as users do."""

import pytest


@pytest.fixture(autouse=True)
def lightly(compile_lightly):
    """Every test of this folder."""
