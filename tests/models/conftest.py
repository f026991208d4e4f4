"""Small networks, compiled lightly; tests/experiments compile as users do."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def lightly(module_compiled_lightly):
    """Every test of this folder, and the fixtures that they share."""
